"""In the style of the examples with transform_fn, which take the request from the context too."""

import json

from sagemaker_inference import content_types, errors


def model_fn(model_dir, context):
    assert context.system_properties["model_dir"] == model_dir
    return {"factor": 2, "gpu": context.system_properties.get("gpu_id")}


def transform_fn(model, input_data, content_type, accept, context):
    headers = context.get_all_request_header(0)
    properties = context.request_processor[0].get_request_properties()
    if content_type != content_types.JSON:
        raise errors.GenericInferenceToolkitError(415, "send " + content_types.JSON)
    numbers = json.loads(input_data)
    context.set_response_header(0, "X-Factor", str(model["factor"]))
    context.set_response_status(code=201, phrase="Done", idx=0)
    return [number * model["factor"] for number in numbers] + [
        headers.get("X-Amzn-SageMaker-Custom-Attributes"),
        properties.get("x-amzn-sagemaker-custom-attributes"),
    ]
