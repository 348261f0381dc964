"""The torch side of an encoder: load it, pool its token states, export it for OpenVINO."""

from __future__ import annotations

import inspect
import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from textmodel.artifact import ArtifactError

__all__ = [
    "POOLINGS",
    "Encoder",
    "TextLimits",
    "export_openvino",
    "load_encoder",
    "load_for_finetuning",
    "load_tokenizer",
    "text_limits",
]

transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]

POOLINGS = ("mean", "cls", "max")

_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
# These count positions from behind the id of the padding token.
_POSITIONS_BEHIND_PADDING = (
    "camembert", "data2vec-text", "longformer", "mpnet", "roberta", "roberta-prelayernorm",
    "xlm-roberta", "xlm-roberta-xl",
)  # fmt: skip
# What sentence-transformers writes to 1_Pooling/config.json, before and since its version 6.
_POOLING_KEYS = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
}


class Encoder(torch.nn.Module):
    """Token ids (batch, tokens) to pooled token states, or to logits where pooling is None."""

    def __init__(self, model: PreTrainedModel, pooling: str | None, normalize: bool) -> None:
        super().__init__()
        self.model = model
        self.pooling = pooling
        self.normalize = normalize
        accepted = inspect.signature(model.forward).parameters
        self.inputs = [name for name in _INPUTS if name in accepted]

    def forward(self, *arrays: torch.Tensor) -> torch.Tensor:
        inputs = dict(zip(self.inputs, arrays, strict=True))
        output = self.model(**inputs)
        if self.pooling is None:
            logits: torch.Tensor = output.logits
            return logits
        vectors = _pool(output.last_hidden_state, inputs["attention_mask"], self.pooling)
        return torch.nn.functional.normalize(vectors) if self.normalize else vectors


@dataclass(frozen=True)
class TextLimits:
    """How a pretrained encoder wants its texts: the longest, in tokens, and the pooling."""

    max_length: int
    pooling: str

    def cut(self, requested: int | None) -> TextLimits:
        """Return these limits with a shorter text, if one is requested."""
        return replace(self, max_length=min(requested or self.max_length, self.max_length))


def load_encoder(directory: Path, pooling: str | None, normalize: bool = False) -> Encoder:
    """Load the Hugging Face weights of `directory` in fp32, with a pooling or as a classifier.

    Raises:
        ArtifactError: they cannot be loaded as an encoder from safetensors.
    """
    kind = AutoModel if pooling else AutoModelForSequenceClassification
    return Encoder(_load(kind, directory).eval(), pooling, normalize)


def load_for_finetuning(directory: Path, labels: Sequence[str]) -> Any:
    """Load an encoder with a classification head for `labels`: a new one, unless it has that many.

    Raises:
        ArtifactError: it cannot be loaded as an encoder from safetensors.
    """
    return _load(
        AutoModelForSequenceClassification,
        directory,
        num_labels=len(labels),
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
        ignore_mismatched_sizes=True,  # the head of a model that was fine-tuned to other labels
    )


def load_tokenizer(directory: Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer of `directory`, which must have a fast (Rust) form and a padding token.

    Raises:
        ArtifactError: it has not.
    """
    with _explained(directory):
        tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
    if not (tokenizer.is_fast and tokenizer.pad_token):
        raise ArtifactError(
            f"{type(tokenizer).__name__} of {directory} must have a fast form (tokenizer.json) "
            "and a padding token; choose a model that has them"
        )
    return tokenizer


def text_limits(directory: Path, tokenizer: PreTrainedTokenizerBase) -> TextLimits:
    """Read the limits from the model's own files, as sentence-transformers writes them.

    Raises:
        ArtifactError: one of the files cannot be read.
    """
    with _explained(directory):
        config = AutoConfig.from_pretrained(directory, trust_remote_code=False)
        sentence = _read_json(directory / "sentence_bert_config.json")
        pooling = _read_json(directory / "1_Pooling" / "config.json")
    positions = getattr(config, "max_position_embeddings", None) or 512
    if config.model_type in _POSITIONS_BEHIND_PADDING:
        positions -= config.pad_token_id + 1
    length = min(sentence.get("max_seq_length") or positions, tokenizer.model_max_length, positions)
    declared = [name for key, name in _POOLING_KEYS.items() if pooling.get(key)]
    if pooling.get("pooling_mode") in POOLINGS:
        declared = [pooling["pooling_mode"]]
    return TextLimits(max_length=int(length), pooling=declared[0] if declared else "mean")


def export_openvino(encoder: Encoder, directory: Path) -> None:
    """Write `openvino/encoder.xml` and `.bin`, in fp32 and for any batch size and length."""
    import openvino

    ones = torch.ones((2, 8), dtype=torch.int64)
    example = tuple(ones * (name != "token_type_ids") for name in encoder.inputs)
    # OpenVINO fuses this form all the same, and torch's own fused one can turn padding into NaN.
    encoder.model.set_attn_implementation("eager")
    logging.getLogger("openvino").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # tracing warns of branches that depend on no input
        graph = openvino.convert_model(encoder, example_input=example)
    for port, name in zip(graph.inputs, encoder.inputs, strict=True):
        port.get_tensor().set_names({name})
        port.get_node().set_partial_shape(openvino.PartialShape([-1, -1]))
    graph.validate_nodes_and_infer_types()
    (directory / "openvino").mkdir(exist_ok=True)
    openvino.save_model(graph, directory / "openvino" / "encoder.xml", compress_to_fp16=False)


def _load(kind: Any, directory: Path, **options: Any) -> Any:
    with _explained(directory):
        model = kind.from_pretrained(
            directory,
            use_safetensors=True,
            dtype=torch.float32,
            trust_remote_code=False,
            **options,
        )
    if model.config.is_encoder_decoder:
        raise ArtifactError(f"{directory} is an encoder with a decoder; choose one without")
    return model


@contextmanager
def _explained(directory: Path) -> Iterator[None]:
    """Turn whatever transformers raises for a faulty directory into an ArtifactError."""
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ArtifactError(
            f"{directory} cannot be loaded as an encoder: {error}. It must hold config.json, "
            "model.safetensors and the tokenizer of a BERT-family model."
        ) from error


def _pool(states: torch.Tensor, mask: torch.Tensor, pooling: str) -> torch.Tensor:
    """(batch, tokens, hidden) to (batch, hidden), blind to padding."""
    if pooling == "cls":
        return states[:, 0]
    weights = mask.unsqueeze(-1).to(states.dtype)  # (batch, tokens, 1)
    if pooling == "max":
        return states.masked_fill(weights == 0, float("-inf")).amax(dim=1)
    return (states * weights).sum(dim=1) / weights.sum(dim=1)


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return values
