"""What executes an encoder: OpenVINO on CPUs, torch on NVIDIA GPUs."""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from functools import cache
from typing import Any, Protocol
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from textmodel.artifact import Artifact, ArtifactError
from textmodel.hardware import Choice, cpu_count, device, precision
from textmodel.tokenizer import Tokens, pad

__all__ = ["OPENVINO_FILES", "RUNTIMES", "Runtime", "load_runtime", "openvino_core"]

OPENVINO_FILES = ("openvino/encoder.xml", "openvino/encoder.bin")


class Runtime(Protocol):
    """Executes batches of tokenised texts. Thread-safe."""

    streams: int
    """How many batches are worth running at the same time."""
    batch_size: int
    """How many texts are worth running together while others wait."""
    batch_tokens: int
    """How many tokens, padding included, where that is fewer texts."""
    bulk_batch_tokens: int
    """How many tokens are worth running together where all texts are known and sorted by length."""

    def __call__(self, batch: Sequence[Tokens]) -> NDArray[np.float32]:
        """Return the encoder's output, (batch, features)."""
        ...


class OpenVINORuntime:
    """An OpenVINO graph, on the cores of this container."""

    batch_size = 8  # fills a core already; more would only add padding
    batch_tokens = 1024
    bulk_batch_tokens = 1024  # faster by 2 % than 32 texts each, and by 6 than 512 or 4096 tokens

    def __init__(self, artifact: Artifact, pad_id: int, precision: str) -> None:
        self.streams = cpu_count().value
        compiled = openvino_core().compile_model(
            _graph(artifact),
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": {"bf16": "bf16", "fp32": "f32"}[precision],
                "NUM_STREAMS": self.streams,
                "INFERENCE_NUM_THREADS": self.streams,
                "ENABLE_CPU_PINNING": False,  # other containers may run on the same cores
            },
        )
        self._pad_id = pad_id
        self._inputs = [port.any_name for port in compiled.inputs]
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(self.streams):
            self._requests.put(compiled.create_infer_request())

    def __call__(self, batch: Sequence[Tokens]) -> NDArray[np.float32]:
        arrays = pad(batch, self._pad_id)
        request = self._requests.get()
        try:
            request.infer({name: arrays[name] for name in self._inputs}, share_inputs=True)
            return np.array(request.get_output_tensor(0).data, np.float32)
        finally:
            self._requests.put(request)


def _graph(artifact: Artifact) -> Any:
    """Return the path of the graph that `train` exported; of a plain directory, one made now.

    Raises:
        ArtifactError: a file is not the one that was written, or there can be no graph.
    """
    if not artifact.plain:
        xml, _ = (artifact.file(name) for name in OPENVINO_FILES)
        return xml
    from textmodel.encoder import convert_openvino, load_encoder

    manifest = artifact.manifest
    encoder = load_encoder(artifact.directory, manifest.pooling, manifest.normalize)
    try:
        return convert_openvino(encoder)
    except RuntimeError as error:
        raise ArtifactError(
            f"{artifact.directory} cannot be converted for OpenVINO: {error}. Set "
            "OPTML_RUNTIME=torch, which is slower on CPUs"
        ) from error


@cache
def openvino_core() -> Any:
    """Return the one `openvino.Core` of this process.

    Each Core gives the thread that makes it an alternate signal stack and unmaps that in the end.
    Where two of them come and go in another order than they nest, the next signal is a crash.
    """
    import openvino

    return openvino.Core()


class TorchRuntime:
    """The Hugging Face weights of the directory, on one GPU (or, slowly, on the CPU)."""

    streams = 1
    batch_size = 64
    batch_tokens = 16384
    bulk_batch_tokens = 65536

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

    def __call__(self, batch: Sequence[Tokens]) -> NDArray[np.float32]:
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
    artifact: Artifact, pad_id: int, requested: str = "auto", requested_precision: str = "auto"
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
    if chosen.value == "openvino":
        on = Choice("device", "cpu", "OpenVINO runs on the CPU")
    precise = precision(on.value, requested_precision)
    choices: list[Choice[Any]] = [on, chosen, precise, cpu_count()]
    if chosen.value not in artifact.manifest.runtimes:
        raise ArtifactError(
            f"the model cannot run on {chosen.value}; "
            f"it was written for {', '.join(artifact.manifest.runtimes)}"
        )
    if chosen.value == "openvino":
        # A plain model has no checksums to tell whether its encoder is another's, too.
        load = OpenVINORuntime if artifact.plain else _shared
        return load(artifact, pad_id, precise.value), choices
    return TorchRuntime(artifact, pad_id, on.value, precise.value), choices


_loaded: WeakValueDictionary[tuple[object, ...], OpenVINORuntime] = WeakValueDictionary()
_loading = threading.Lock()


def _shared(artifact: Artifact, pad_id: int, precision: str) -> OpenVINORuntime:
    """Return the runtime of an encoder, which models with the same one have in common.

    That is every model with a head on the same frozen encoder: each further one costs next to
    nothing. The last that is released takes the encoder with it.
    """
    checksums = [artifact.manifest.files.get(name) for name in OPENVINO_FILES]
    key = (*checksums, pad_id, precision)
    with _loading:
        runtime = _loaded.get(key)
        if runtime is None:
            _loaded[key] = runtime = OpenVINORuntime(artifact, pad_id, precision)
            return runtime
    for name in OPENVINO_FILES:
        artifact.file(name)
    return runtime
