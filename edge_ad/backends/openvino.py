"""OpenVINO: runs the exported graph on CPUs, in FP32, in BF16 where the CPU has it, or in INT8."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from edge_ad.backends.base import BoxFacts, Precision, Progress, QuantizationStyle, check_feeds
from edge_ad.backends.onnxruntime import available_cores
from edge_ad.errors import EngineError
from edge_ad.extras import require
from edge_ad.types import AnyArray, TensorSpec

_DTYPES = {"u8": "uint8", "i8": "int8", "f16": "float16", "f32": "float32", "i32": "int32", "i64": "int64"}


class OpenVinoBackend:
    """Runs a compiled OpenVINO model.

    Args:
        compiled: an ``openvino.CompiledModel``.
        source: what to call the model in errors.
    """

    payload_name: ClassVar[str] = "model.onnx"
    precisions: ClassVar[tuple[Precision, ...]] = ("fp32", "bf16", "int8")
    quantization: ClassVar[QuantizationStyle] = "cpu"
    options: ClassVar[Mapping[str, str]] = {"performance_hint": "latency"}

    def __init__(self, compiled: Any, *, source: str = "the model") -> None:
        self.name = "openvino"
        self._source = source
        self._request = compiled.create_infer_request()
        self.inputs = tuple(_spec(port) for port in compiled.inputs)
        self.outputs = tuple(_spec(port) for port in compiled.outputs)

    @classmethod
    def box_facts(cls) -> BoxFacts:
        """OpenVINO's version.

        Raises:
            MissingExtraError: it is not installed.
        """
        return BoxFacts(backend_version=f"openvino {_openvino().__version__.split('-')[0]}")

    @classmethod
    def build(
        cls, model: bytes, *, source: str, precision: Precision, max_batch: int, progress: Progress | None
    ) -> bytes:
        """The model itself: OpenVINO compiles it each time it is opened, for any batch.

        Raises:
            EngineError: it does not compute in this precision, or this CPU does not.
        """
        if precision not in cls.precisions:
            raise EngineError(
                f"{source} cannot run in {precision} on the CPU",
                why=f"{precision} needs TensorRT and an NVIDIA GPU",
                remedy=f"use --precision {' or '.join(cls.precisions)}",
            )
        if precision == "bf16" and "BF16" not in _capabilities():
            raise EngineError(
                f"{source} cannot run in bf16 here",
                why="this CPU does not compute in it",
                remedy="use --precision fp32",
            )
        return model

    @classmethod
    def open(cls, payload: bytes, *, source: str, precision: Precision = "fp32") -> OpenVinoBackend:
        """Compiles the content of an ONNX file.

        Raises:
            EngineError: OpenVINO cannot read or compile it.
            MissingExtraError: OpenVINO is not installed.
        """
        openvino = _openvino()
        core = openvino.Core()
        # Left alone, OpenVINO computes in BF16 where the CPU has it, and says nothing.
        settings = {
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": available_cores(),
            "ENABLE_CPU_PINNING": False,  # the camera and the archive may need the same cores
        }
        try:
            compiled = core.compile_model(core.read_model(model=payload), "CPU", settings)
        except RuntimeError as error:
            raise EngineError(
                f"{source} cannot be loaded by OpenVINO",
                why=" ".join(str(error).split()),
                remedy="use --backend onnxruntime, and report this",
            ) from error
        return cls(compiled, source=source)

    def run(self, feeds: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
        """Runs the graph once; see :meth:`edge_ad.types.Backend.run`."""
        check_feeds(feeds, self.inputs)
        try:
            arrays = {name: np.ascontiguousarray(array) for name, array in feeds.items()}
            results = self._request.infer(arrays, share_inputs=True).to_tuple()
        except RuntimeError as error:
            raise EngineError(f"{self._source} failed in OpenVINO", why=" ".join(str(error).split())) from error
        return {spec.name: array for spec, array in zip(self.outputs, results, strict=True)}

    def close(self) -> None:
        """Frees the request; may be called twice."""
        self._request = None


def _openvino() -> Any:
    return require("openvino", extra="openvino")


def _capabilities() -> tuple[str, ...]:
    return tuple(_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))


def _spec(port: Any) -> TensorSpec:
    shape = tuple(None if size.is_dynamic else size.get_length() for size in port.get_partial_shape())
    return TensorSpec(port.get_any_name(), _DTYPES[port.get_element_type().get_type_name()], shape)
