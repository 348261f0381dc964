"""In the style of the examples for SageMaker's PyTorch container."""

import json
import logging
import os

import torch
import torch.nn as nn

logger = logging.getLogger(__name__)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(2, 3)

    def forward(self, x):
        return self.fc(x)


def model_fn(model_dir):
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = Net()
    with open(os.path.join(model_dir, "model.pth"), "rb") as f:
        model.load_state_dict(torch.load(f))
    logger.info("Done loading model")
    return model.to(device)


def input_fn(request_body, request_content_type):
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    assert request_content_type == "application/json"
    data = json.loads(request_body)["inputs"]
    return torch.tensor(data, dtype=torch.float32, device=device)


def predict_fn(input_object, model):
    with torch.no_grad():
        return model(input_object)


def output_fn(predictions, content_type):
    assert content_type == "application/json"
    res = predictions.cpu().numpy().tolist()
    return json.dumps(res)
