"""Weights that several ONNX graphs share: stored once, in a safetensors file that the graphs point into.

ONNX lets an initializer name a file, an offset and a length instead of holding its bytes ("external data"). A
safetensors file is a header and then the plain bytes of its tensors, so the graphs' pointers lead right into
it: any ONNX tool can open the graphs where they lie, and any safetensors reader the weights.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping

import numpy as np
import onnx
import safetensors.numpy
from google.protobuf.message import DecodeError, Message
from onnx import TensorProto, helper, numpy_helper

from edge_ad.errors import BundleError
from edge_ad.types import AnyArray

SHARED_BYTES = 1024
"""Smaller tensors stay in their graph."""


def share_weights(models: dict[str, onnx.ModelProto], file_name: str) -> bytes:
    """Moves the weights of all models into one file, equal ones once.

    Args:
        models: by name; changed in place.
        file_name: of the weights, beside the models.

    Returns:
        The file's content.
    """
    tensors: dict[str, AnyArray] = {}
    users: list[tuple[TensorProto, str]] = []
    for model in models.values():
        for tensor in model.graph.initializer:
            array = np.ascontiguousarray(numpy_helper.to_array(tensor))
            if array.nbytes < SHARED_BYTES:
                continue
            digest = hashlib.sha256(f"{array.dtype}{array.shape}".encode() + array.tobytes()).hexdigest()[:32]
            tensors.setdefault(digest, array)
            users.append((tensor, digest))
    content = safetensors.numpy.save(tensors)
    start = 8 + int.from_bytes(content[:8], "little")
    places = json.loads(content[8:start])
    for tensor, digest in users:
        first, last = places[digest]["data_offsets"]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", file_name), ("offset", start + first), ("length", last - first)):
            tensor.external_data.add(key=key, value=str(value))
    return content


def with_weights(model: bytes, weights: Mapping[str, bytes], source: str) -> bytes:
    """A model that holds its weights itself.

    Args:
        model: an ONNX file's content.
        weights: content of the files that it may point into, by name.
        source: the model's name, for errors.

    Raises:
        BundleError: it is not ONNX, or points elsewhere.
    """
    proto = _parsed(model, source)
    placed = _placed(proto, weights, source)
    for tensor, content in placed:
        tensor.raw_data = bytes(content)
        tensor.data_location = TensorProto.DEFAULT
        del tensor.external_data[:]
    return proto.SerializeToString() if placed else model


def weights_of(model: bytes, weights: Mapping[str, bytes], source: str) -> dict[str, AnyArray]:
    """The weights that a model points to, by its names for them; views.

    Args:
        model: an ONNX file's content.
        weights: content of the files that it may point into, by name.
        source: the model's name, for errors.

    Raises:
        BundleError: it is not ONNX, points elsewhere, or to bytes that are not of its tensors' shapes.
    """
    found = {}
    for tensor, content in _placed(_parsed(model, source), weights, source):
        try:
            dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
            if min(tensor.dims, default=0) < 0:
                raise ValueError("a negative size")
            array = np.frombuffer(content, dtype).reshape(tensor.dims)
        except (KeyError, ValueError, TypeError) as error:
            why = f"its {len(content)} bytes are not of type {tensor.data_type} and shape {list(tensor.dims)}: {error}"
            raise _missing(tensor, source, why) from error
        found[tensor.name] = np.require(array, requirements="A")
    return found


def _parsed(model: bytes, source: str) -> onnx.ModelProto:
    try:
        return onnx.load_model_from_string(model)
    except DecodeError as error:
        raise BundleError(f"{source} is not an ONNX model", why=str(error), remedy="export the bundle again") from error


def _placed(proto: onnx.ModelProto, weights: Mapping[str, bytes], source: str) -> list[tuple[TensorProto, memoryview]]:
    """The initializers that lie in other files, and their bytes there."""
    placed = []
    if len({tensor.name for tensor in proto.graph.initializer}) < len(proto.graph.initializer):
        raise BundleError(f"{source} has two weights of one name", remedy="export the bundle again")
    for tensor in proto.graph.initializer:
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        content = weights.get(entries.get("location", ""), b"")
        offset, length = (_number(entries.get(key, "0")) for key in ("offset", "length"))
        if not 0 <= offset < offset + length <= len(content):
            raise _missing(tensor, source, f"it looks for them in {entries.get('location')!r}")
        placed.append((tensor, memoryview(content)[offset : offset + length]))
    if sum(tensor.data_location == TensorProto.EXTERNAL for tensor in _tensors(proto)) != len(placed):
        raise BundleError(
            f"{source} looks for tensors in other files",
            why="only the weights of its main graph may lie elsewhere",
            remedy="export the bundle again",
        )
    return placed


def _missing(tensor: TensorProto, source: str, why: str) -> BundleError:
    return BundleError(f"{source} has no weights for {tensor.name}", why=why, remedy="export the bundle again")


def _number(text: str) -> int:
    """A whole number of at most 18 digits, else -1, which no check lets pass."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 18 else -1


def _tensors(message: Message) -> Iterator[TensorProto]:
    """Every tensor anywhere in a model: of graphs, subgraphs, attributes and functions."""
    if isinstance(message, TensorProto):
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in (value,) if isinstance(value, Message) else value:
                yield from _tensors(part)
