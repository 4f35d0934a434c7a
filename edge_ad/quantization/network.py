"""Which part of an exported graph is a learned network, and so can be computed in few bits."""

from __future__ import annotations

from onnx import GraphProto, NodeProto, TensorProto

LEARNED_CHANNELS = 8
"""Network layers have at least this many output channels; image filters (Sobel, box) fewer."""

CONVOLUTIONS = ("Conv", "ConvTranspose")
FOLLOWERS = frozenset({"Add", "Clip", "Concat", "MaxPool", "Pad", "Relu"})
"""Part of a network where all that they read is."""


def network_nodes(graph: GraphProto) -> list[NodeProto]:
    """The convolutions with learned weights and what stands directly between them, in order of execution.

    Preprocessing, standardisation, cosine distance and blur are not among them: metres, vector lengths and small
    differences need floating point.
    """
    weights: dict[str, TensorProto] = {tensor.name: tensor for tensor in graph.initializer}
    made: set[str] = set()
    found = []
    for node in graph.node:
        if is_learned(node, weights):
            inside = True
        else:
            read = [name for name in node.input if name and name not in weights]
            inside = node.op_type in FOLLOWERS and bool(read) and made.issuperset(read)
        if inside:
            made.update(node.output)
            found.append(node)
    return found


def is_learned(node: NodeProto, weights: dict[str, TensorProto]) -> bool:
    """True for a convolution with constant weights and many output channels."""
    if node.op_type not in CONVOLUTIONS or node.input[1] not in weights:
        return False
    shape = weights[node.input[1]].dims
    group = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
    channels = shape[0] if node.op_type == "Conv" else shape[1] * group
    return bool(channels >= LEARNED_CHANNELS)
