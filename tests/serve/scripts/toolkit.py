"""In the style of the examples that use the toolkits' own encoders."""

from sagemaker_huggingface_inference_toolkit import decoder_encoder
from sagemaker_inference import content_types, decoder, encoder
from sagemaker_inference.errors import UnsupportedFormatError


def model_fn(model_dir):
    return lambda array: array.sum(axis=1)


def input_fn(input_data, content_type):
    if content_type == content_types.NPY:
        return decoder.decode(input_data, content_type)
    return decoder.decode(decoder_encoder.encode(decoder_encoder.decode(input_data)), content_type)


def predict_fn(data, model):
    return model(data)


def output_fn(prediction, accept):
    if accept not in encoder.SUPPORTED_CONTENT_TYPES:
        raise UnsupportedFormatError(accept)
    return encoder.encode(prediction, accept), accept
