"""An encoder as an OpenVINO graph, which reads its texts one after the other in rows."""

from __future__ import annotations

import copy
import inspect
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.modeling_outputs import BaseModelOutputWithPooling

from textmodel.encoder import Encoder, first_position
from textmodel.tokenizer import Tokens, pack, pad

__all__ = ["SLOTS", "convert_openvino", "export_openvino"]

log = logging.getLogger(__name__)

SLOTS = 64
"""Texts that a batch may have."""

_RELATIVE, _ABSOLUTE = 1e-4, 1e-5
"""By how much outputs may differ where texts are packed: of the largest, and besides."""


def export_openvino(encoder: Encoder, directory: Path) -> None:
    """Write `openvino/encoder.xml` and `.bin`, in fp32."""
    import openvino

    graph = convert_openvino(encoder)
    (directory / "openvino").mkdir(exist_ok=True)
    openvino.save_model(graph, directory / "openvino" / "encoder.xml", compress_to_fp16=False)


def convert_openvino(encoder: Encoder) -> Any:
    """Return an `openvino.Model` in fp32, for texts of any length.

    It reads what `tokenizer.pack` makes where the encoder allows for that, else what `pad` makes.
    """
    # OpenVINO fuses this form all the same, and torch's own fused one can turn padding into NaN.
    encoder.eval().model.set_attn_implementation("eager")
    vocabulary = encoder.model.config.vocab_size
    ids = np.random.default_rng(0).integers(vocabulary // 2, vocabulary, 16).tolist()
    texts = [Tokens(ids[:5]), Tokens(ids[5:7]), Tokens(ids[7:])]
    module: torch.nn.Module = encoder
    arrays = _chosen(pad(texts, 0), encoder.inputs)
    if _packs(encoder):
        packed = _Packed(encoder).eval()
        rows = _chosen(pack(texts, [[0, 1], [2]], 0, 12), packed.inputs)
        if _same(packed, rows, encoder, arrays):
            module, arrays = packed, rows
    return _converted(module, arrays)


def _chosen(arrays: dict[str, Any], names: list[str]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(arrays[name]) for name in names}


def _converted(module: torch.nn.Module, arrays: dict[str, torch.Tensor]) -> Any:
    import openvino

    logging.getLogger("openvino").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # tracing warns of branches that depend on no input
        graph = openvino.convert_model(module, example_input=tuple(arrays.values()))
    for port, name in zip(graph.inputs, arrays, strict=True):
        port.get_tensor().set_names({name})
        port.get_node().set_partial_shape(openvino.PartialShape([-1, -1]))
    graph.validate_nodes_and_infer_types()
    return graph


def _packs(encoder: Encoder) -> bool:
    """Return whether an encoder looks as if texts could be packed for it."""
    accepted = inspect.signature(encoder.model.base_model.forward).parameters
    return (
        {"position_ids", "inputs_embeds"} <= accepted.keys()
        and encoder.pooling in (None, "mean", "cls")
        and encoder.head is None
    )


def _same(
    packed: _Packed,
    rows: dict[str, torch.Tensor],
    encoder: Encoder,
    arrays: dict[str, torch.Tensor],
) -> bool:
    """Return whether packed texts get what they get in rows of their own.

    Encoders whose attention looks at positions, or that have a head of another kind, differ.
    """
    try:
        with torch.no_grad():
            expected = encoder(*arrays.values())
            found = packed(*rows.values())[: len(expected)]
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
        log.debug("texts are not packed: %s", error)
        return False
    allowed = _RELATIVE * expected.abs().max() + _ABSOLUTE
    return bool((found - expected).abs().max() <= allowed)


class _Packed(torch.nn.Module):
    """Rows of texts (rows, tokens) to what an encoder gives for each of them (SLOTS, features)."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.base = encoder.model.base_model
        self.first_position = first_position(encoder.model.config)
        self.inputs = ["input_ids", "position_ids", "segments"]
        if "token_type_ids" in encoder.inputs:
            self.inputs.append("token_type_ids")
        self.head = _on_states(encoder.model) if encoder.pooling is None else None

    def forward(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        segments: torch.Tensor,
        *types: torch.Tensor,
    ) -> torch.Tensor:
        foreign = segments.unsqueeze(2) != segments.unsqueeze(1)  # (rows, tokens, tokens)
        mask = foreign.float() * torch.finfo(torch.float32).min
        states = self.base(
            input_ids=input_ids,
            attention_mask=mask.unsqueeze(1),
            position_ids=position_ids + self.first_position,
            **({"token_type_ids": types[0]} if types else {}),
        ).last_hidden_state
        numbers = torch.arange(1, SLOTS + 1).unsqueeze(1)
        pooled = segments.unsqueeze(1) == numbers  # (rows, slots, tokens)
        if self.encoder.pooling != "mean":
            pooled = pooled & (position_ids == 0).unsqueeze(1)
        weights = pooled.to(states.dtype)
        vectors = (weights @ states).sum(dim=0) / weights.sum(dim=(0, 2)).clamp(min=1).unsqueeze(1)
        if self.head is not None:
            logits: torch.Tensor = self.head(inputs_embeds=vectors.unsqueeze(1)).logits
            return logits
        return torch.nn.functional.normalize(vectors) if self.encoder.normalize else vectors


def _on_states(model: Any) -> Any:
    """Return the head of a classifier, which reads as `inputs_embeds` the first state of texts."""
    head = copy.copy(model)
    base = _States(getattr(model.base_model, "pooler", None))
    head._modules = {**model._modules, model.base_model_prefix: base}
    return head


class _States(torch.nn.Module):
    """In the place of an encoder's body: passes on states that are there already."""

    def __init__(self, pooler: torch.nn.Module | None) -> None:
        super().__init__()
        self.pooler = pooler

    def forward(self, *_: Any, inputs_embeds: torch.Tensor, **__: Any) -> Any:
        return BaseModelOutputWithPooling(
            last_hidden_state=inputs_embeds,
            pooler_output=None if self.pooler is None else self.pooler(inputs_embeds),
        )
