"""``config.pbtxt``: what Triton Inference Server must know of a model, as protobuf text.

The format is ``ModelConfig`` (model_config.proto of triton-inference-server/common). It is written without protobuf;
tests read it back with Triton's own message class.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from edge_ad import __version__
from edge_ad.backends.base import Precision
from edge_ad.bundle import Manifest, TensorInfo, mode_of

SIGN = "edge_ad_bundle"
"""The parameter of ``config.pbtxt`` by which a directory is known to be an export of ours."""

DTYPES = {"uint8": "TYPE_UINT8", "float32": "TYPE_FP32"}
"""Every type that inputs and outputs of bundles have, in ``ModelConfig``'s words."""

Device = Literal["cpu", "gpu"]


@dataclass(frozen=True, slots=True)
class ServedModel:
    """What is to be served, whatever it comes from.

    Attributes:
        payload: the content of the model's file.
        file_name: of that file, which also says what runs it.
        manifest: of the bundle.
        bundle_digest: of the bundle.
        mode: the operating mode of the graph.
        precision: of its arithmetic.
        max_batch: the largest batch that it takes; None for any.
    """

    payload: bytes
    file_name: Literal["model.onnx", "model.plan"]
    manifest: Manifest
    bundle_digest: str
    mode: str
    precision: Precision
    max_batch: int | None


@dataclass(frozen=True, slots=True)
class Serving:
    """How Triton runs a model.

    Attributes:
        max_batch: the largest batch that the server makes of what arrives together.
        instances: copies of the model that work side by side.
        device: where they run.
        queue_delay_us: microseconds that a request may wait for others to share its batch.
        threads: of each instance on the CPU.
    """

    max_batch: int
    instances: int
    device: Device
    queue_delay_us: int
    threads: int


def config_text(name: str, model: ServedModel, serving: Serving) -> str:
    """The content of ``config.pbtxt``."""
    info = mode_of(model.manifest, model.mode, name)
    runtime = ("tensorrt_plan", "tensorrt") if model.file_name == "model.plan" else ("onnxruntime_onnx", "onnxruntime")
    lines = [
        f"# Written by edge-ad {__version__} (edge-ad export-triton), which replaces it when it is run again.",
        f"name: {_quoted(name)}",
        f"platform: {_quoted(runtime[0])}",
        f"backend: {_quoted(runtime[1])}",
        f"default_model_filename: {_quoted(model.file_name)}",
        f"max_batch_size: {serving.max_batch}",
        *(_tensor("input", tensor) for tensor in info.inputs),
        *(_tensor("output", tensor) for tensor in info.outputs),
        f"instance_group [ {{ count: {serving.instances} kind: KIND_{serving.device.upper()} }} ]",
    ]
    if serving.max_batch > 1:
        lines.append(
            f"dynamic_batching {{ preferred_batch_size: [ {serving.max_batch} ] "
            f"max_queue_delay_microseconds: {serving.queue_delay_us} }}"
        )
    lines += [_warmup(size, info.inputs) for size in sorted({1, serving.max_batch})]
    parameters = {
        SIGN: model.bundle_digest,
        "edge_ad_mode": model.mode,
        "edge_ad_precision": model.precision,
        "edge_ad_version": __version__,
    }
    if serving.device == "cpu":
        # By default each instance takes every core, and instances then slow each other down.
        parameters |= {"intra_op_thread_count": str(serving.threads), "inter_op_thread_count": "1"}
    lines += [
        f"parameters {{ key: {_quoted(key)} value {{ string_value: {_quoted(value)} }} }}"
        for key, value in parameters.items()
    ]
    return "\n".join(lines) + "\n"


def _tensor(kind: str, tensor: TensorInfo) -> str:
    """An input or output. Triton wants shapes without the batch, and a scalar as one number to be reshaped."""
    sizes = tensor.shape[1:]
    shape = f"dims: {_listed(sizes)}" if sizes else "dims: [ 1 ] reshape { shape: [ ] }"
    return f"{kind} [ {{ name: {_quoted(tensor.name)} data_type: {DTYPES[tensor.dtype]} {shape} }} ]"


def _warmup(batch: int, inputs: Iterable[TensorInfo]) -> str:
    """A request that the server makes before it calls the model ready.

    Random bytes are noise as uint8, but as float32 they would also be infinite and not a number.
    """
    lines = [f'model_warmup [ {{ name: "batch of {batch}" batch_size: {batch}']
    for tensor in inputs:
        data = "random_data" if tensor.dtype == "uint8" else "zero_data"
        value = f"data_type: {DTYPES[tensor.dtype]} dims: {_listed(tensor.shape[1:])} {data}: true"
        lines.append(f"  inputs {{ key: {_quoted(tensor.name)} value {{ {value} }} }}")
    return "\n".join([*lines, "} ]"])


def _listed(sizes: Sequence[int | None]) -> str:
    return f"[ {', '.join('-1' if size is None else str(size) for size in sizes)} ]"


def _quoted(text: str) -> str:
    """A string of protobuf's text format, which escapes as JSON does."""
    return json.dumps(text)
