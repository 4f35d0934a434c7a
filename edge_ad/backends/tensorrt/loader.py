"""Finds TensorRT and the NVIDIA driver, and reads what an engine depends on from the driver."""

from __future__ import annotations

import ctypes
import functools
import logging
import re
from pathlib import Path
from types import ModuleType
from typing import Any

from edge_ad.backends.base import BoxFacts
from edge_ad.errors import EngineError, MissingExtraError
from edge_ad.extras import require

_INSTALL = (
    "on a Jetson make the virtual environment with --system-site-packages, so that it sees JetPack's "
    "TensorRT; elsewhere pip install 'edge-ad[tensorrt]', or 'edge-ad[tensorrt-rtx]' for GeForce and RTX GPUs"
)
_KERNEL_MODULE = Path("/proc/driver/nvidia/version")
_COMPUTE_CAPABILITY_MAJOR, _COMPUTE_CAPABILITY_MINOR = 75, 76  # CUdevice_attribute


@functools.cache
def load_tensorrt() -> ModuleType:
    """The ``tensorrt`` module, or else ``tensorrt_rtx``, which has the same interface.

    Raises:
        MissingExtraError: neither can be imported.
    """
    try:
        return require("tensorrt", extra="tensorrt")
    except MissingExtraError as full:
        try:
            return require("tensorrt_rtx", extra="tensorrt-rtx")
        except MissingExtraError as rtx:
            raise MissingExtraError(
                "TensorRT cannot be imported", why=f"tensorrt: {full.why}; tensorrt_rtx: {rtx.why}", remedy=_INSTALL
            ) from rtx


def builds_without_driver(trt: ModuleType) -> bool:
    """True for TensorRT-RTX, the only one that compiles for GPUs that are not there."""
    return trt.__name__ == "tensorrt_rtx"


@functools.cache
def require_driver() -> ctypes.CDLL:
    """Loads and initialises the CUDA driver.

    TensorRT must not be touched before this has worked: without a driver some releases return objects
    that crash the process on first use.

    Returns:
        The driver's library.

    Raises:
        EngineError: there is no driver, or no GPU that it can use.
    """
    remedy = "check `nvidia-smi`, in a container start it with --gpus all, or use --backend onnxruntime"
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise EngineError("there is no NVIDIA driver on this box", why=str(error), remedy=remedy) from error
    code = driver.cuInit(0)
    if code != 0:
        raise EngineError(
            "the NVIDIA driver cannot use a GPU", why=f"cuInit answered {error_name(driver, code)}", remedy=remedy
        )
    return driver


def box_facts() -> BoxFacts:
    """TensorRT's version and the first GPU that this process sees.

    Raises:
        EngineError: there is no driver or no GPU.
        MissingExtraError: TensorRT is not installed.
    """
    driver, trt = require_driver(), load_tensorrt()
    device, major, minor, cuda = (ctypes.c_int() for _ in range(4))
    name = ctypes.create_string_buffer(256)
    calls = (
        driver.cuDeviceGet(ctypes.byref(device), 0),
        driver.cuDeviceGetName(name, len(name), device),
        driver.cuDeviceGetAttribute(ctypes.byref(major), _COMPUTE_CAPABILITY_MAJOR, device),
        driver.cuDeviceGetAttribute(ctypes.byref(minor), _COMPUTE_CAPABILITY_MINOR, device),
        driver.cuDriverGetVersion(ctypes.byref(cuda)),
    )
    for code in calls:
        if code != 0:
            raise EngineError("the GPU cannot be described", why=error_name(driver, code), remedy="check `nvidia-smi`")
    return BoxFacts(
        backend_version=f"{trt.__name__} {trt.__version__}",
        gpu=name.value.decode(errors="replace"),
        compute_capability=f"{major.value}.{minor.value}",
        driver=_driver_version(cuda.value),
    )


@functools.cache
def logger() -> Any:
    """TensorRT's logger, one for the process as TensorRT wants it; ``errors`` collects what went wrong."""
    trt = load_tensorrt()
    log = logging.getLogger("edge_ad.tensorrt")
    severity = trt.ILogger

    class _Logger(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, level: Any, message: str) -> None:
            if level in (severity.INTERNAL_ERROR, severity.ERROR):
                self.errors.append(message)
            log.debug("%s", message)

        def take_errors(self) -> str:
            text, self.errors = " ".join("; ".join(self.errors).split()), []
            return text or "TensorRT gave no reason"

    return _Logger()


def _driver_version(cuda: int) -> str:
    """The kernel module's release, where it tells, and the CUDA version that the driver speaks."""
    supports = f"CUDA {cuda // 1000}.{cuda % 1000 // 10}"
    try:
        release = re.search(r"\d+\.\d+(\.\d+)?", _KERNEL_MODULE.read_text())
    except OSError:
        release = None
    return f"{release.group()} ({supports})" if release else supports


def error_name(driver: ctypes.CDLL, code: int) -> str:
    """The name of a ``CUresult``, with its number."""
    name = ctypes.c_char_p()
    driver.cuGetErrorName(code, ctypes.byref(name))
    return f"{(name.value or b'an unknown error').decode()} ({code})"
