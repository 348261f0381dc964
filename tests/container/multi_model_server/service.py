"""A handler service as AWS's examples for multi-model-server have them: texts in JSON."""

import json
from pathlib import Path

from sagemaker_inference.default_handler_service import DefaultHandlerService
from sagemaker_inference.default_inference_handler import DefaultInferenceHandler
from sagemaker_inference.transformer import Transformer


class Handler(DefaultInferenceHandler):
    def default_model_fn(self, model_dir):
        return json.loads((Path(model_dir) / "model.json").read_text())

    def default_predict_fn(self, data, model):
        text = data.item()["inputs"]  # the toolkit makes an array of what is in JSON
        return {"label": "long" if len(text) > model["words"] else "short", "score": len(text)}


service = DefaultHandlerService(Transformer(default_inference_handler=Handler()))
initialized = False


def handle(data, context):
    global initialized
    if not initialized:
        service.initialize(context)
        initialized = True
    return service.handle(data, context) if data is not None else None
