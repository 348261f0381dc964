"""What most teams write first: Flask around a Hugging Face pipeline, one text a call."""

from __future__ import annotations

import os

from flask import Flask, Response, jsonify, request
from transformers import pipeline

classify = pipeline("text-classification", model=os.environ["MODEL"], device="cpu")
app = Flask(__name__)


@app.post("/invocations")
def invocations() -> Response:
    return jsonify(classify(request.get_json()["inputs"], truncation=True))
