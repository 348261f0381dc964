"""Who is measured: how each is installed, started and asked.

Each runs as its own documentation says for one machine. In `command` and `variables`, {bin} is the
contender's environment, {model} its model directory, {job} the directory above that, {port} where
to listen, {spare} another free port, {cores} how many cores there are, {apps} the folder of the
scripts that ship here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench.serving import ROOT
from bench.serving.environments import TORCH
from bench.serving.models import ONNX_PACKAGES, TORCHSERVE_PACKAGES

__all__ = ["AWS", "CONTENDERS", "SLEEPING", "Contender"]

AWS = "aws-toolkit"
"""What the ratios relate to."""


@dataclass(frozen=True)
class Contender:
    """A server and how to talk to it."""

    command: tuple[str, ...]
    packages: tuple[str, ...] = ()
    """Of an environment of its own; none: it runs in ours."""
    environment: str = ""
    """The name of that environment."""
    variables: Mapping[str, str] = field(default_factory=dict)
    model: str = "plain"
    """A key of `models.MODELS`."""
    route: str = "/invocations"
    body: Callable[[str], Any] = lambda text: {"inputs": text}
    """A text to the request's JSON."""
    label: Callable[[Any], str] = lambda answer: str(answer[0]["label"])
    """The answer's JSON to a label."""
    ping: str | None = None
    """The route of health checks."""
    tree: Path = ROOT
    """Where the optml that it runs lies."""
    needs: tuple[str, ...] = ()
    """Programs that must be on PATH."""


def _ours(precision: str, model: str = "ours") -> Contender:
    return Contender(
        command=("{bin}/python", "-m", "serve"),
        variables={
            "SAGEMAKER_BASE_DIR": "{job}",
            "SAGEMAKER_BIND_TO_PORT": "{port}",
            "OPTML_HOST": "127.0.0.1",
            "OPTML_PRECISION": precision,
        },
        model=model,
        ping="/ping",
    )


def _infinity(
    environment: str, packages: tuple[str, ...], options: str, model: str = "plain"
) -> Contender:
    command = "{bin}/infinity_emb v2 --model-id {model} --served-model-name model --device cpu"
    return Contender(
        command=(*command.split(), "--host", "127.0.0.1", "--port", "{port}", *options.split()),
        packages=packages,
        environment=environment,
        model=model,
        route="/classify",
        body=lambda text: {"model": "model", "input": [text]},
        label=lambda answer: str(max(answer["data"][0], key=lambda row: row["score"])["label"]),
        ping="/health",
    )


_GUNICORN = (
    "{bin}/gunicorn", "--bind", "127.0.0.1:{port}", "--workers", "{cores}", "--timeout", "300",
    "--chdir", "{apps}",
)  # fmt: skip
# As many worker processes as cores, with as many threads each, hold each other up a hundred times.
_ONE_THREAD = {"OMP_NUM_THREADS": "1"}
_INFINITY = ("infinity-emb[server,torch]==0.0.78", TORCH)
_TRANSFORMERS = "transformers==5.23.0"

CONTENDERS: Mapping[str, Contender] = {
    "ours-bf16": _ours("bf16"),
    "ours-fp32": _ours("fp32"),
    "ours-int8": _ours("int8", model="ours-int8"),
    # One worker process a core, which is the stack's default.
    AWS: Contender(
        command=("{bin}/python", "{apps}/aws_toolkit.py"),
        packages=(
            "sagemaker-huggingface-inference-toolkit==2.6.0",
            "multi-model-server==1.1.11",
            "transformers==4.49.0",
            "setuptools<80",  # for pkg_resources
            TORCH,
        ),
        environment=AWS,
        variables={"SAGEMAKER_BASE_DIR": "{job}", "SAGEMAKER_BIND_TO_PORT": "{port}"},
        body=lambda text: {"inputs": text, "parameters": {"truncation": True}},
        ping="/ping",
        needs=("java",),
    ),
    "flask-pipeline": Contender(
        command=(*_GUNICORN, "flask_pipeline:app"),
        packages=("flask==3.1.3", "gunicorn==26.0.0", _TRANSFORMERS, TORCH),
        environment="flask-pipeline",
        variables={"MODEL": "{model}"} | _ONE_THREAD,
    ),
    "infinity": _infinity("infinity", _INFINITY, "--engine torch"),
    "infinity-bf16": _infinity("infinity", _INFINITY, "--engine torch --dtype bfloat16"),
    # It does not cut texts, so its own warm-up fails, and so do long texts.
    "infinity-onnx": _infinity(
        "infinity-onnx", ONNX_PACKAGES, "--engine optimum --no-model-warmup", model="onnx"
    ),
    "inference-server": Contender(
        command=(*_GUNICORN, "inference_server_hooks:app"),
        packages=("inference-server==1.3.3", "gunicorn==26.0.0", _TRANSFORMERS, TORCH),
        environment="inference-server",
        variables={"MODEL": "{model}"} | _ONE_THREAD,
        ping="/ping",
    ),
    "litserve": Contender(
        command=("{bin}/python", "{apps}/litserve_pipeline.py"),
        packages=("litserve==0.2.19", _TRANSFORMERS, TORCH),
        environment="litserve",
        variables={"MODEL": "{model}", "PORT": "{port}"},
        route="/predict",
        ping="/health",
    ),
    "torchserve": Contender(
        command=(
            *("{bin}/torchserve", "--start", "--foreground", "--model-store", "{model}"),
            *("--models", "classifier=classifier", "--ts-config", "{apps}/torchserve.properties"),
        ),
        packages=TORCHSERVE_PACKAGES,
        environment="torchserve",
        variables={
            "TS_INFERENCE_ADDRESS": "http://127.0.0.1:{port}",
            "TS_MANAGEMENT_ADDRESS": "http://127.0.0.1:{port}",
            "TS_METRICS_ADDRESS": "http://127.0.0.1:{spare}",
        }
        | _ONE_THREAD,
        model="torchserve",
        route="/predictions/classifier",
        label=lambda answer: str(answer["label"]),
        ping="/ping",
        needs=("java",),
    ),
}
SLEEPING = replace(
    CONTENDERS["ours-bf16"], command=("{bin}/python", "-m", "bench.serving.apps.sleeping_engine")
)
"""It takes part in no contest, as its answers are made up."""
