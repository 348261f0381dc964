"""The program `serve`: answers SageMaker's /ping and /invocations with a trained model."""
