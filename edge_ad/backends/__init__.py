"""What runs a model: one class per runtime, found by name and imported on first use.

    onnxruntime   any CPU; FP32
    tensorrt      NVIDIA GPUs: TensorRT 8.6 to 11 and TensorRT-RTX; FP32, FP16, INT8, INT8 with an FP16 rest

A further backend is one class with the attributes of :class:`edge_ad.backends.base.EngineBackend`
and one line below.
"""

from __future__ import annotations

import importlib
from typing import Literal

from edge_ad.backends.base import EngineBackend
from edge_ad.errors import ConfigError, EngineError, MissingExtraError

BackendName = Literal["auto", "onnxruntime", "tensorrt"]

BACKENDS = {
    "onnxruntime": "edge_ad.backends.onnxruntime:OnnxRuntimeBackend",
    "tensorrt": "edge_ad.backends.tensorrt.run:TensorRTBackend",
}


def backend_class(name: str) -> type[EngineBackend]:
    """The class of a backend, imported now.

    Raises:
        ConfigError: no backend has this name.
    """
    if name not in BACKENDS:
        raise ConfigError(f"there is no backend {name!r}", remedy=f"choose one of: auto, {', '.join(sorted(BACKENDS))}")
    module, _, attribute = BACKENDS[name].partition(":")
    loaded: type[EngineBackend] = getattr(importlib.import_module(module), attribute)
    return loaded


def choose_backend(backend: BackendName) -> str:
    """What ``auto`` means here: TensorRT if it and a driver are there, otherwise ONNX Runtime."""
    if backend != "auto":
        return backend
    try:
        backend_class("tensorrt").box_facts()
    except (EngineError, MissingExtraError):
        return "onnxruntime"
    return "tensorrt"
