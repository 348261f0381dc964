"""The program `train`: a SageMaker training job from labelled texts to a model directory."""
