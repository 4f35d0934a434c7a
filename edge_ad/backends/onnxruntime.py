"""ONNX Runtime: runs the exported graph as it is, on any CPU."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import onnxruntime

from edge_ad.backends.base import BoxFacts, Precision, Progress, QuantizationStyle, check_feeds
from edge_ad.errors import EngineError
from edge_ad.types import AnyArray, TensorSpec


class OnnxRuntimeBackend:
    """Runs an ONNX model with ONNX Runtime.

    Args:
        model: the file, or its content.
        source: what to call the content in errors; a file names itself.
        providers: execution providers in order of preference.
        optimize: False computes each node as the graph has it, to see what another runtime will do.
        weights: that the model points to in other files, by its names for them.

    Raises:
        EngineError: the model cannot be read, is damaged, or uses what this ONNX Runtime lacks.
    """

    payload_name: ClassVar[str] = "model.onnx"
    precisions: ClassVar[tuple[Precision, ...]] = ("fp32", "int8")
    quantization: ClassVar[QuantizationStyle] = "cpu"
    options: ClassVar[Mapping[str, str]] = {"graph_optimization": "all"}

    def __init__(
        self,
        model: Path | bytes,
        *,
        source: str = "the model",
        providers: Sequence[str] = ("CPUExecutionProvider",),
        optimize: bool = True,
        weights: Mapping[str, AnyArray] | None = None,
    ) -> None:
        self.name = "onnxruntime"
        self._source = source if isinstance(model, bytes) else str(model)
        try:
            content = model if isinstance(model, bytes) else model.read_bytes()
            options = _session_options(optimize)
            # The session reads them where they are, so they live as long as it does.
            self._weights = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in (weights or {}).values()]
            if weights:
                options.add_external_initializers(list(weights), self._weights)
            self._session = onnxruntime.InferenceSession(content, options, list(providers))
        except Exception as error:  # ONNX Runtime's exceptions share no narrower base
            raise EngineError(
                f"{self._source} cannot be loaded by ONNX Runtime",
                why=str(error),
                remedy="copy or export the model again",
            ) from error
        self.inputs = tuple(_spec(tensor) for tensor in self._session.get_inputs())
        self.outputs = tuple(_spec(tensor) for tensor in self._session.get_outputs())

    @classmethod
    def box_facts(cls) -> BoxFacts:
        """The version of ONNX Runtime; nothing else matters to an ONNX file."""
        return BoxFacts(backend_version=f"onnxruntime {onnxruntime.__version__}")

    @classmethod
    def build(
        cls, model: bytes, *, source: str, precision: Precision, max_batch: int, progress: Progress | None
    ) -> bytes:
        """The model itself: ONNX Runtime optimises it each time it is opened, for any batch.

        Raises:
            EngineError: it does not compute in this precision.
        """
        if precision not in cls.precisions:
            raise EngineError(
                f"{source} cannot run in {precision} on the CPU",
                why=f"{precision} needs TensorRT and an NVIDIA GPU; a CPU would only convert back and forth",
                remedy="use --precision fp32 or int8, or --backend tensorrt on a box with an NVIDIA GPU",
            )
        return model

    @classmethod
    def open(cls, payload: bytes, *, source: str, precision: Precision = "fp32") -> OnnxRuntimeBackend:
        """Loads the content of an ONNX file.

        Raises:
            EngineError: as the constructor.
        """
        return cls(payload, source=source)

    def run(self, feeds: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
        """Runs the graph once; see :meth:`edge_ad.types.Backend.run`."""
        check_feeds(feeds, self.inputs)
        names = [spec.name for spec in self.outputs]
        try:
            return dict(zip(names, self._session.run(names, dict(feeds)), strict=True))
        except Exception as error:  # as in the constructor
            raise EngineError(f"{self._source} failed in ONNX Runtime", why=str(error)) from error

    def close(self) -> None:
        """Frees nothing by itself: the session goes with the object."""


def available_cores(sysfs: Path = Path("/sys")) -> int:
    """Physical cores that this process may use, at least 1.

    Counts the cores behind the CPUs of the process's affinity mask, since two threads on one core
    slow each other down, and respects the CPU quota of a container (cgroup v2).

    Args:
        sysfs: where the kernel describes the machine.
    """
    cpus = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    siblings = (sysfs / f"devices/system/cpu/cpu{cpu}/topology/thread_siblings_list" for cpu in cpus)
    try:
        cores = len({path.read_text() for path in siblings})
    except OSError:
        cores = len(cpus)
    try:
        quota, period = (sysfs / "fs/cgroup/cpu.max").read_text().split()
        cores = cores if quota == "max" else min(cores, int(quota) // int(period))
    except (OSError, ValueError):
        pass  # no cgroup v2 here, so no quota to respect
    return max(cores, 1)


def _session_options(optimize: bool) -> Any:
    options, levels = onnxruntime.SessionOptions(), onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimize else levels.ORT_DISABLE_ALL
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.intra_op_num_threads = available_cores()
    options.inter_op_num_threads = 1
    # Spinning threads win microseconds and take the cores from camera and archive.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return options


def _spec(tensor: Any) -> TensorSpec:
    dtype = tensor.type.removeprefix("tensor(").removesuffix(")")
    dtype = {"float": "float32", "double": "float64"}.get(dtype, dtype)
    return TensorSpec(tensor.name, dtype, tuple(size if isinstance(size, int) else None for size in tensor.shape))
