"""Layers rewritten so that a few numbers far above all others do not cost the others their bits.

Most encoders of the BERT family have single inputs to the second layer of a feed-forward block
that are many times the others, for one special token in all texts (Bondarenko et al., 2021,
"Understanding and Overcoming the Challenges of Efficient Transformer Quantization"). In int8 the
one scale that all inputs of the layer share would have to span these. So their products are
computed apart, in float.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["FLOAT_PREFIX", "is_layer", "split_outliers"]

FLOAT_PREFIX = "outlier/"
"""What the names of the matrix products begin with that are to stay in float."""

MOST = 4
"""Inputs of one layer that are split off at most."""
RATIO = 2.0
"""How many times the largest of the others an input must be."""

Arrays = Mapping[str, NDArray[np.int64]]
_ACTIVATIONS = ("Gelu", "Relu")


def split_outliers(core: Any, graph: Any, texts: Iterable[Arrays]) -> int:
    """Rewrite a graph in place, by what is large in these tokenised texts.

    Returns:
        How many inputs were split off. The graph computes the same.
    """
    layers = list(_second_layers(graph))
    split = 0
    for layer, highest in zip(layers, _highest(core, graph, layers, texts), strict=True):
        order = np.argsort(-highest)
        chosen = order[:MOST][highest[order[:MOST]] > RATIO * highest[order[MOST]]]
        for number in chosen:
            _split(layer, int(number))
        split += len(chosen)
    graph.validate_nodes_and_infer_types()
    return split


def is_layer(node: Any) -> bool:
    """Return whether a node is the product of each token's features with weights."""
    return bool(
        node.get_type_name() == "MatMul"
        and _is_constant(node, 1)
        and node.get_attributes()["transpose_b"]
        and node.get_output_partial_shape(0).rank.get_length() == 3  # (batch, tokens, features)
    )


def _second_layers(graph: Any) -> Iterator[Any]:
    """Yield the matrix products of: first layer, bias, activation, this second layer, bias."""
    for node in graph.get_ordered_ops():
        if not is_layer(node) or node.input_value(1).get_shape()[1] <= MOST:
            continue
        activation = node.input_value(0).get_node()
        if activation.get_type_name() in _ACTIVATIONS:
            bias = activation.input_value(0).get_node()
            if _is_bias(bias) and is_layer(bias.input_value(0).get_node()):
                users = node.output(0).get_target_inputs()
                if [_is_bias(user.get_node()) for user in users] == [True]:
                    yield node


def _is_bias(node: Any) -> bool:
    return node.get_type_name() == "Add" and _is_constant(node, 1)


def _is_constant(node: Any, port: int) -> bool:
    return bool(node.input_value(port).get_node().get_type_name() == "Constant")


def _highest(
    core: Any, graph: Any, layers: list[Any], texts: Iterable[Arrays]
) -> list[NDArray[np.float32]]:
    """Return how large each input of each layer gets, (features,)."""
    from openvino import Model, opset13

    watched = [
        opset13.reduce_max(opset13.abs(layer.input_value(0)), np.array([0, 1])) for layer in layers
    ]
    compiled = core.compile_model(Model(watched, graph.get_parameters()), "CPU")
    found = [list(compiled(arrays).values()) for arrays in texts]
    return [np.max(values, axis=0) for values in zip(*found, strict=True)]


def _split(layer: Any, number: int) -> None:
    """Compute the products of one input of a layer apart, and add them behind its bias."""
    from openvino import opset13

    activation = layer.input_value(0).get_node()
    first_bias = activation.input_value(0).get_node()
    first = first_bias.input_value(0).get_node()
    weight = layer.input_value(1).get_node().data.copy()  # (outputs, inputs)
    row = first.input_value(1).get_node().data[number : number + 1].copy()  # (1, hidden)
    constant = first_bias.input_value(1).get_node().data[..., number : number + 1].copy()
    product = opset13.matmul(first.input_value(0), opset13.constant(row), False, True)
    product.set_friendly_name(f"{FLOAT_PREFIX}{number}/{layer.get_friendly_name()}")
    kind = activation.get_type_name().lower()
    alone = getattr(opset13, kind)(
        opset13.add(product, opset13.constant(constant)), **activation.get_attributes()
    )  # (batch, tokens, 1)
    part = opset13.multiply(alone, opset13.constant(weight[:, number].copy()))
    weight[:, number] = 0
    layer.input(1).replace_source_output(opset13.constant(weight).output(0))
    (user,) = layer.output(0).get_target_inputs()
    output = user.get_node().output(0)
    users = list(output.get_target_inputs())
    total = opset13.add(output, part).output(0)
    for one in users:
        one.replace_source_output(total)
