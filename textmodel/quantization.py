"""The OpenVINO graph in int8, made by a program of its own: `python -m textmodel.quantization`.

nncf is slow to import, takes over the logging of its process and makes OpenVINO Cores of its own
(`compiled.openvino_core` says what is wrong with that), so nothing else should import it.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from textmodel.artifact import Artifact
from textmodel.compiled import openvino_core
from textmodel.hardware import cpu_count
from textmodel.layouts import layout_of
from textmodel.outliers import FLOAT_PREFIX, is_layer, split_outliers
from textmodel.runtime import OPENVINO_FILES
from textmodel.tokenizer import Text, Tokenizer

__all__ = ["main", "quantized"]

_SMOOTHING = 0.7
"""How much of the range of activations goes over to the weights: what docs/runtimes.md measured."""

# Attention is no faster in int8. A table is only looked up: rounding it would save no time.
_FLOAT_TYPES = ["ScaledDotProductAttention", "Gather", "LSTMSequence"]


def main(directory: str) -> None:
    """Write the int8 graph of a model directory beside the other one.

    The texts to calibrate with are a JSON list on standard input. On standard output there is a
    line each time that one of them was executed.
    """
    # nncf starts a thread for each core that it sees.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: cpu_count().value])
    texts = [text if isinstance(text, str) else tuple(text) for text in json.load(sys.stdin)]
    with os.fdopen(os.dup(1), "w") as output, contextlib.redirect_stdout(sys.stderr):
        artifact = Artifact.open(Path(directory))
        graph = quantized(artifact, texts, lambda: print(file=output, flush=True))
        import openvino

        target = artifact.directory / OPENVINO_FILES["int8"][0]
        openvino.save_model(graph, target, compress_to_fp16=False)


def quantized(artifact: Artifact, texts: Sequence[Text], executed: Callable[[], None]) -> Any:
    """Return the graph of `artifact` in int8; `executed` is called for each text that was run."""
    import nncf
    from nncf.quantization.advanced_parameters import (
        AdvancedQuantizationParameters,
        AdvancedSmoothQuantParameters,
    )

    tokenize = Tokenizer(
        artifact.file("tokenizer.json"),
        artifact.file("tokenizer_config.json"),
        artifact.manifest.max_length,
    )
    graph = openvino_core().read_model(*(artifact.file(name) for name in OPENVINO_FILES["float"]))
    layout = layout_of(graph, tokenize.pad_id, artifact.manifest.max_length)

    def arrays(tokens: Any) -> dict[str, Any]:
        executed()
        return layout.unpadded(tokens)  # padding would be looked at too

    tokens = tokenize(texts)
    split_outliers(openvino_core(), graph, map(arrays, tokens))
    return nncf.quantize(
        graph,
        nncf.Dataset(tokens, arrays),
        subset_size=len(tokens),
        model_type=nncf.ModelType.TRANSFORMER,  # smoothed, asymmetric activations
        ignored_scope=nncf.IgnoredScope(
            names=list(_left_in_float(graph)), types=_FLOAT_TYPES, validate=False
        ),
        advanced_parameters=AdvancedQuantizationParameters(
            smooth_quant_alphas=AdvancedSmoothQuantParameters(matmul=_SMOOTHING),
            # Where activations are smoothed it changes nothing, and takes a third of the time.
            disable_bias_correction=True,
        ),
    )


def _left_in_float(graph: Any) -> Iterator[str]:
    """Yield the names of the matrix products that are not quantised.

    What comes behind the pooling is a thousandth of the work, and decides on labels.
    """
    for node in graph.get_ordered_ops():
        name = node.get_friendly_name()
        quantised = is_layer(node) and not name.startswith(FLOAT_PREFIX)
        if node.get_type_name() == "MatMul" and not quantised:
            yield name


if __name__ == "__main__":
    main(sys.argv[1])
