"""Rewrites of an exported graph that change no answer, only what it costs."""

from __future__ import annotations

from collections import Counter
from graphlib import TopologicalSorter

import numpy as np
import onnx
from onnx import GraphProto, NodeProto, TensorProto, numpy_helper

from edge_ad.types import AnyArray

CONVOLUTIONS = ("Conv", "ConvTranspose")


class Graph:
    """A graph with what rewriting it needs to know: who makes a tensor, and how many read it."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.proto = model.graph
        self.weights: dict[str, TensorProto] = {tensor.name: tensor for tensor in model.graph.initializer}
        self.maker: dict[str, NodeProto] = {name: node for node in model.graph.node for name in node.output}
        self.readers = Counter(name for node in model.graph.node for name in node.input)
        self.readers.update(output.name for output in model.graph.output)

    def value(self, name: str) -> AnyArray | None:
        """A constant's value, None for what is computed."""
        if name in self.weights:
            return np.asarray(numpy_helper.to_array(self.weights[name]))
        node = self.maker.get(name)
        if node is not None and node.op_type == "Constant" and node.attribute[0].name == "value":
            return np.asarray(numpy_helper.to_array(node.attribute[0].t))
        return None

    def scale_weight(self, node: NodeProto, index: int, factor: float) -> None:
        """Multiplies the weight at input ``index`` of a node, or a copy of it where another node reads it too."""
        name = node.input[index]
        weight = numpy_helper.to_array(self.weights[name])
        tensor = numpy_helper.from_array((weight * factor).astype(weight.dtype))
        if self.readers[name] == 1:
            tensor.name = name
            self.weights[name].CopyFrom(tensor)
            return
        self.readers[name] -= 1
        tensor.name = f"{name}_{node.output[0]}"
        self.readers[tensor.name] = 1
        node.input[index] = tensor.name
        self.proto.initializer.append(tensor)
        self.weights[tensor.name] = self.proto.initializer[-1]

    def keep(self, nodes: list[NodeProto]) -> None:
        """Makes ``nodes`` the graph's, and drops weights that none of them reads."""
        read = {name for node in nodes for name in node.input}
        weights = [tensor for tensor in self.proto.initializer if tensor.name in read]
        for kept, field in ((nodes, self.proto.node), (weights, self.proto.initializer)):
            del field[:]
            field.extend(kept)


def fold_factors(model: onnx.ModelProto) -> int:
    """Moves constant factors behind a convolution (and its ReLU, for positive ones) into its weights.

    Args:
        model: changed in place.

    Returns:
        How many multiplications are gone.
    """
    graph = Graph(model)
    renamed: dict[str, str] = {}
    kept = []
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = renamed.get(name, name)
        found = _factor(graph, node)
        if found is None:
            kept.append(node)
            continue
        convolution, source, factor = found
        for index in range(1, len(convolution.input)):
            graph.scale_weight(convolution, index, factor)
        renamed[node.output[0]] = source
        graph.readers[source] += graph.readers[node.output[0]] - 1
    outputs = {output.name for output in model.graph.output}
    assert not outputs & set(renamed), "a graph's output keeps its name"
    removed = len(model.graph.node) - len(kept)
    graph.keep([*map(_copy, kept)])
    return removed


def _factor(graph: Graph, node: NodeProto) -> tuple[NodeProto, str, float] | None:
    """The convolution that a multiplication can join, the tensor that it multiplies, and by what."""
    if node.op_type != "Mul" or any(output.name in node.output for output in graph.proto.output):
        return None
    for source, other in (node.input, reversed(node.input)):
        value = graph.value(other)
        if value is None or value.size != 1 or value.dtype != np.float32 or graph.readers[source] != 1:
            continue
        maker = graph.maker.get(source)
        if maker is not None and maker.op_type == "Relu" and value.item() > 0 and graph.readers[maker.input[0]] == 1:
            maker = graph.maker.get(maker.input[0])
        if (
            maker is not None
            and maker.op_type in CONVOLUTIONS
            and all(name in graph.weights for name in maker.input[1:])
            and value.ndim <= len(graph.weights[maker.input[1]].dims)
        ):
            return maker, source, float(value.item())
    return None


def _copy(node: NodeProto) -> NodeProto:
    """Of its own, as clearing the graph's list ends the life of what it holds."""
    copy = NodeProto()
    copy.CopyFrom(node)
    return copy


def sort_nodes(graph: GraphProto) -> None:
    """Puts nodes into order of execution, which ONNX demands and who adds Q/DQ nodes may not have kept."""
    makers = {output: index for index, node in enumerate(graph.node) for output in node.output if output}
    needs = {index: [makers[name] for name in node.input if name in makers] for index, node in enumerate(graph.node)}
    if all(maker < index for index, read in needs.items() for maker in read):
        return
    nodes = [graph.node[index] for index in TopologicalSorter(needs).static_order()]
    copies = [_copy(node) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
