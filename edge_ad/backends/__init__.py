"""What runs a model: one class per runtime, found by name and imported on first use.

    onnxruntime   any CPU; FP32, INT8
    openvino      x86 and ARM CPUs; FP32, BF16, INT8
    tensorrt      NVIDIA GPUs: TensorRT 8.6 to 11 and TensorRT-RTX; FP32, FP16, INT8, INT8 with an FP16 rest

A further backend is one class with the attributes of :class:`edge_ad.backends.base.EngineBackend`
and one line below.
"""

from __future__ import annotations

import importlib
from typing import Literal

from edge_ad.backends.base import EngineBackend
from edge_ad.errors import ConfigError, EngineError, MissingExtraError

BackendName = Literal["auto", "onnxruntime", "openvino", "tensorrt"]

BACKENDS = {
    "onnxruntime": "edge_ad.backends.onnxruntime:OnnxRuntimeBackend",
    "openvino": "edge_ad.backends.openvino:OpenVinoBackend",
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


def usable_backends(backend: BackendName) -> tuple[str, ...]:
    """What ``auto`` has to choose from here: TensorRT if it and a driver are there, otherwise all that use the CPU.

    Raises:
        ConfigError: no backend has this name.
        EngineError: the one that is named lacks its hardware or driver.
        MissingExtraError: the one that is named is not installed.
    """
    if backend != "auto":
        backend_class(backend).box_facts()
        return (backend,)
    if _is_usable("tensorrt"):
        return ("tensorrt",)
    return tuple(name for name in BACKENDS if name != "tensorrt" and _is_usable(name))


def _is_usable(name: str) -> bool:
    try:
        backend_class(name).box_facts()
    except (EngineError, MissingExtraError):
        return False
    return True
