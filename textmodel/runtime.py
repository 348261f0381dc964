"""What executes an encoder: OpenVINO on CPUs, torch on NVIDIA GPUs."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from textmodel.artifact import Artifact, ArtifactError, Manifest
from textmodel.batching import Batching, Padded
from textmodel.compiled import Compiled, openvino_core
from textmodel.hardware import Choice, cpu_count, cpu_int8, device, precision
from textmodel.layouts import layout_of
from textmodel.tokenizer import Tokens, pad

__all__ = [
    "INT8_AGREEMENT",
    "INT8_ROWS",
    "OPENVINO_FILES",
    "RUNTIMES",
    "OpenVINORuntime",
    "Runtime",
    "load_runtime",
    "openvino_precision",
]

OPENVINO_FILES = {
    "float": ("openvino/encoder.xml", "openvino/encoder.bin"),
    "int8": ("openvino/encoder_int8.xml", "openvino/encoder_int8.bin"),
}
"""The graphs that `train` exports, each of two files."""

INT8_AGREEMENT = 0.995
"""The part of rows that int8 must label as fp32 does, to be chosen without being asked for."""
INT8_ROWS = 200
"""The rows that must have been compared at least: of fewer, one more or less would decide."""


class Runtime(Protocol):
    """Executes batches of tokenised texts. Thread-safe."""

    streams: int
    """How many batches are worth running at the same time."""
    batching: Batching
    """Which texts are worth running together."""
    anywhere: bool
    """Whether any thread may call it; else let it be few, as each has something kept for it."""

    def __call__(self, batch: Sequence[Tokens], *, urgent: bool = False) -> NDArray[np.float32]:
        """Return the encoder's output, (batch, features).

        Args:
            batch: the texts.
            urgent: whether somebody waits: it then runs as fast as what else is running lets it,
                which may change the last bits of the output.
        """
        ...


# Of the layers' kernels that a stream keeps; by default, as good as all. Those that are made anew
# come from oneDNN's own cache, which has a bound already.
_KERNELS = 50

# Of larger models, and in fp32, hardly any time goes into what graphs of one shape save, and they
# cost more.
_SMALL_BYTES = 200_000_000


class OpenVINORuntime:
    """An OpenVINO graph, on the cores of this container."""

    anywhere = True

    def __init__(
        self, artifact: Artifact, pad_id: int, precision: str, sparing: bool = False
    ) -> None:
        self.streams = cpu_count().value
        graph = _graph(artifact, precision)
        self._in_float = _float_precision(precision)
        small = _weights(graph) <= _SMALL_BYTES
        special = small and self._in_float != "fp32" and not sparing
        self._layout = layout_of(graph, pad_id, artifact.manifest.max_length, special)
        self.batching = self._layout.batching
        self._features = graph.output(0).get_partial_shape()[1].get_length()
        self._lock = threading.Lock()
        self._executing = 0
        self._on_streams = self._compiled(graph, self.streams, 2 if special else 0)
        self._on_all_cores = self._on_streams
        if self.streams > 1:
            # The graph is in memory already: docs/runtimes.md says what this adds.
            self._on_all_cores = self._compiled(graph, 1, 1 if special else 0)

    def __call__(self, batch: Sequence[Tokens], *, urgent: bool = False) -> NDArray[np.float32]:
        outputs = np.empty((len(batch), self._features), np.float32)
        with self._all_cores(urgent) as alone:
            compiled = self._on_all_cores if alone else self._on_streams
            for places in self._layout.parts([len(text) for text in batch]):
                arrays = self._layout.arrays([batch[place] for place in places], alone)
                with compiled.request(arrays["input_ids"].shape, urgent) as request:
                    request.infer(arrays, share_inputs=True)
                    outputs[places] = request.get_output_tensor(0).data[: len(places)]
        return outputs

    def _compiled(self, graph: Any, streams: int, special: int) -> Compiled:
        options = {
            "INFERENCE_PRECISION_HINT": {"bf16": "bf16", "fp32": "f32"}[self._in_float],
            "NUM_STREAMS": streams,
            "INFERENCE_NUM_THREADS": self.streams,
            "ENABLE_CPU_PINNING": False,  # other containers may run on the same cores
            "CPU_RUNTIME_CACHE_CAPACITY": _KERNELS,
        }
        return Compiled(graph, options, special, self._layout.full)

    @contextmanager
    def _all_cores(self, urgent: bool) -> Iterator[bool]:
        """Yield whether a batch is executed on all cores: an urgent one where nothing else is."""
        with self._lock:
            alone = urgent and self.streams > 1 and not self._executing
            self._executing += 1
        try:
            yield alone
        finally:
            with self._lock:
                self._executing -= 1


def _weights(graph: Any) -> int:
    """Return the bytes of what was trained."""
    return sum(
        node.get_byte_size() for node in graph.get_ops() if node.get_type_name() == "Constant"
    )


def _graph(artifact: Artifact, precision: str) -> Any:
    """Return the graph that `train` exported; of a plain directory, one made now.

    Raises:
        ArtifactError: a file is not the one that was written, or there can be no graph.
    """
    if not artifact.plain:
        return openvino_core().read_model(*map(artifact.file, _files(precision)))
    from textmodel.encoder import load_encoder
    from textmodel.export import convert_openvino

    manifest = artifact.manifest
    encoder = load_encoder(artifact.directory, manifest.pooling, manifest.normalize)
    try:
        return convert_openvino(encoder)
    except RuntimeError as error:
        raise ArtifactError(
            f"{artifact.directory} cannot be converted for OpenVINO: {error}. Set "
            "OPTML_RUNTIME=torch, which is slower on CPUs"
        ) from error


class TorchRuntime:
    """The Hugging Face weights of the directory, on one GPU (or, slowly, on the CPU)."""

    streams = 1
    anywhere = False
    batching: Batching = Padded(texts=64, tokens=16384, cut_tokens=65536)

    def __init__(self, artifact: Artifact, pad_id: int, device: str, precision: str) -> None:
        import torch

        from textmodel.encoder import load_encoder

        manifest = artifact.manifest
        for name in manifest.files:
            if name.endswith(".safetensors"):
                artifact.file(name)
        self._torch = torch
        self._device = device
        self._pad_id = pad_id
        self._autocast = precision == "bf16"
        self._module = load_encoder(artifact.directory, manifest.pooling, manifest.normalize)
        self._module.to(device).eval()

    def __call__(self, batch: Sequence[Tokens], *, urgent: bool = False) -> NDArray[np.float32]:
        torch = self._torch
        arrays = pad(batch, self._pad_id)
        inputs = [torch.from_numpy(arrays[name]).to(self._device) for name in self._module.inputs]
        with (
            torch.inference_mode(),
            torch.autocast(self._device, torch.bfloat16, enabled=self._autocast),
        ):
            output: NDArray[np.float32] = self._module(*inputs).float().cpu().numpy()
        return output


RUNTIMES = ("openvino", "torch")


def load_runtime(
    artifact: Artifact,
    pad_id: int,
    requested: str = "auto",
    requested_precision: str = "auto",
    sparing: bool = False,
) -> tuple[Runtime, list[Choice[Any]]]:
    """Load the encoder of `artifact` into the runtime that suits this machine.

    Returns:
        The runtime, and every choice made on the way with its reason.

    Raises:
        ArtifactError: the directory lacks what the runtime reads.
    """
    on = device()
    if requested != "auto":
        chosen = Choice("runtime", requested, "as requested")
    elif on.value == "cuda":
        chosen = Choice("runtime", "torch", "it runs on the GPU")
    elif "openvino" in artifact.manifest.runtimes:
        chosen = Choice("runtime", "openvino", "the fastest on CPUs")
    else:
        chosen = Choice("runtime", "torch", "the model has no OpenVINO graph")
    if chosen.value not in artifact.manifest.runtimes:
        raise ArtifactError(
            f"the model cannot run on {chosen.value}; "
            f"it was written for {', '.join(artifact.manifest.runtimes)}"
        )
    if chosen.value == "openvino":
        on = Choice("device", "cpu", "OpenVINO runs on the CPU")
        precise = openvino_precision(artifact.manifest, requested_precision)
        # A plain model has no checksums to tell whether its encoder is another's, too.
        load = OpenVINORuntime if artifact.plain else _shared
        return load(artifact, pad_id, precise.value, sparing), [on, chosen, precise, cpu_count()]
    if requested_precision == "int8":
        raise ArtifactError(f"precision int8 needs the runtime openvino; this is {chosen}, {on}")
    precise = precision(on.value, requested_precision)
    choices: list[Choice[Any]] = [on, chosen, precise, cpu_count()]
    return TorchRuntime(artifact, pad_id, on.value, precise.value), choices


def openvino_precision(manifest: Manifest, requested: str = "auto") -> Choice[str]:
    """Return `int8` where the graph is there, answers as fp32 does and the CPU is made for it.

    A forest gets `fp32`: its splits are thresholds, so that rounding, which differs from batch to
    batch, would move its scores by whole trees.

    Raises:
        ArtifactError: it is requested, but there is no such graph.
    """
    there = set(OPENVINO_FILES["int8"]) <= manifest.files.keys()
    if requested == "int8" and not there:
        raise ArtifactError(
            "the model has no int8 graph, so precision int8 is not possible: train it with the "
            "hyperparameter int8=true, or choose another precision"
        )
    if requested == "auto" and manifest.head == "forest":
        return Choice("precision", "fp32", "rounding would move a forest's scores")
    otherwise = precision("cpu", requested)
    if requested != "auto" or not there:
        return otherwise
    rows, agreement = manifest.int8_rows, manifest.int8_agreement or 0.0
    if rows < INT8_ROWS:
        reason = f"int8 is there, but was compared with fp32 on {rows} texts only"
    elif agreement < INT8_AGREEMENT:
        reason = (
            f"int8 is there, but agrees only on {_percent(agreement)}, "
            f"below {_percent(INT8_AGREEMENT)}"
        )
    elif not (supported := cpu_int8()).value:
        reason = f"int8 is there, but {supported.reason}"
    else:
        reason = f"labels agree with fp32 on {_percent(agreement)} of {rows} texts"
        return Choice("precision", "int8", reason)
    return replace(otherwise, reason=reason)


def _percent(part: float) -> str:
    return f"{math.floor(part * 1000) / 10:g} %"  # never rounded up to what it is not


def _files(precision: str) -> tuple[str, str]:
    return OPENVINO_FILES["int8" if precision == "int8" else "float"]


def _float_precision(chosen: str) -> str:
    """Return the precision of what is not in int8."""
    return precision("cpu").value if chosen == "int8" else chosen


_loaded: WeakValueDictionary[tuple[object, ...], OpenVINORuntime] = WeakValueDictionary()
_loading = threading.Lock()


def _shared(artifact: Artifact, pad_id: int, precision: str, sparing: bool) -> OpenVINORuntime:
    """Return the runtime of an encoder, which models with the same one have in common.

    That is every model with a head on the same frozen encoder: each further one costs next to
    nothing. The last that is released takes the encoder with it.
    """
    checksums = [artifact.manifest.files.get(name) for name in _files(precision)]
    key = (*checksums, pad_id, precision, sparing)
    with _loading:
        runtime = _loaded.get(key)
        if runtime is None:
            _loaded[key] = runtime = OpenVINORuntime(artifact, pad_id, precision, sparing)
            return runtime
    for name in _files(precision):
        artifact.file(name)
    return runtime
