"""The torch side of an encoder: load it, pool its token states."""

from __future__ import annotations

import inspect
import json
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
from textmodel.bilstm import BiLSTM
from textmodel.pooling import POOLINGS, Pooled, pool

__all__ = [
    "BILSTM",
    "POOLED",
    "Encoder",
    "TextLimits",
    "first_position",
    "load_encoder",
    "load_for_finetuning",
    "load_tokenizer",
    "text_limits",
]

transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]

BILSTM = "bilstm"
"""What a manifest has for pooling where a BiLSTM makes logits of token states."""
POOLED = "pooled"
"""The name of a linear head on pooled token states."""

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
    """Token ids (batch, tokens) to pooled token states, or to logits.

    Where pooling is None, `model` itself ends in logits; where there is a `head`, that makes them.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        pooling: str | None,
        normalize: bool = False,
        head: BiLSTM | Pooled | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.pooling = pooling
        self.normalize = normalize
        self.head = head
        accepted = inspect.signature(model.forward).parameters
        self.inputs = [name for name in _INPUTS if name in accepted]

    def forward(self, *arrays: torch.Tensor) -> torch.Tensor:
        inputs = dict(zip(self.inputs, arrays, strict=True))
        output = self.model(**inputs)
        logits: torch.Tensor
        if self.pooling is None:
            logits = output.logits
            return logits
        states, mask = output.last_hidden_state, inputs["attention_mask"]
        if self.head is not None:
            logits = self.head(states, mask)
            return logits
        vectors = pool(states, mask, self.pooling)
        return torch.nn.functional.normalize(vectors) if self.normalize else vectors

    def body(self) -> list[torch.nn.Parameter]:
        """Return the parameters of what makes the token states: all but those of the head."""
        # A pooler is a head's first layer: many pretrained encoders never trained theirs.
        return [
            parameter
            for name, parameter in self.model.base_model.named_parameters()
            if not name.startswith("pooler")
        ]

    def save(self, directory: Path) -> None:
        """Write the weights as `load_encoder` reads them."""
        self.model.save_pretrained(directory)
        if self.head is not None:
            self.head.save(directory)

    def executed(self) -> Encoder:
        """Return what a runtime executes: of a head on pooled token states, the pooling alone."""
        return Encoder(self.model, self.pooling) if isinstance(self.head, Pooled) else self


@dataclass(frozen=True)
class TextLimits:
    """How a pretrained encoder wants its texts: the longest, in tokens, and the pooling."""

    max_length: int
    pooling: str

    def chosen(self, max_length: int | None, pooling: str) -> TextLimits:
        """Return these limits with a shorter text and another pooling than `auto`, if requested."""
        return replace(
            self,
            max_length=min(max_length or self.max_length, self.max_length),
            pooling=self.pooling if pooling == "auto" else pooling,
        )


def load_encoder(directory: Path, pooling: str | None, normalize: bool = False) -> Encoder:
    """Load the Hugging Face weights of `directory` in fp32, with a pooling or as a classifier.

    Raises:
        ArtifactError: they cannot be loaded as an encoder from safetensors.
    """
    model = _load(AutoModel if pooling else AutoModelForSequenceClassification, directory)
    head = None
    if pooling == BILSTM:
        with _explained(directory):
            head = BiLSTM.load(directory)
    return Encoder(model, pooling, normalize, head).eval()


def load_for_finetuning(
    directory: Path,
    labels: Sequence[str],
    head: str = "linear",
    multi_label: bool = False,
    pooling: str = "mean",
) -> Encoder:
    """Load an encoder with a classification head for `labels`; `pooling` is that of POOLED.

    The head is new, but for a linear one of as many labels that the directory has already.

    Raises:
        ArtifactError: it cannot be loaded as an encoder from safetensors.
    """
    options: dict[str, Any] = {
        "num_labels": len(labels),
        "id2label": dict(enumerate(labels)),
        "label2id": {label: index for index, label in enumerate(labels)},
        # What plain transformers chooses between softmax and sigmoid by.
        "problem_type": f"{'multi' if multi_label else 'single'}_label_classification",
    }
    if head in (BILSTM, POOLED):
        model = _load(AutoModel, directory, **options)
        hidden = model.config.hidden_size
        if head == BILSTM:
            return Encoder(model, BILSTM, head=BiLSTM(hidden, len(labels)))
        return Encoder(model, pooling, head=Pooled(pooling, hidden, len(labels)))
    model = _load(
        AutoModelForSequenceClassification,
        directory,
        ignore_mismatched_sizes=True,  # the head of a model that was fine-tuned to other labels
        **options,
    )
    return Encoder(model, pooling=None)


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
    positions -= first_position(config)
    length = min(sentence.get("max_seq_length") or positions, tokenizer.model_max_length, positions)
    declared = [name for key, name in _POOLING_KEYS.items() if pooling.get(key)]
    if pooling.get("pooling_mode") in POOLINGS:
        declared = [pooling["pooling_mode"]]
    return TextLimits(max_length=int(length), pooling=declared[0] if declared else "mean")


def first_position(config: Any) -> int:
    """Return the position of a text's first token."""
    behind_padding = config.model_type in _POSITIONS_BEHIND_PADDING
    return int(config.pad_token_id) + 1 if behind_padding else 0


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


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return values
