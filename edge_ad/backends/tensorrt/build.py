"""ONNX → serialized TensorRT plan."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from edge_ad.backends.base import Precision, Progress
from edge_ad.backends.tensorrt import loader
from edge_ad.backends.tensorrt.half import HALF_SUFFIX, half_precision_model
from edge_ad.errors import EngineError


def plan_from_onnx(
    model: bytes, *, source: str, precision: Precision, max_batch: int = 1, progress: Progress | None = None
) -> bytes:
    """Compiles a model for the GPU of this box.

    TensorRT-RTX compiles with no GPU and no driver as well.

    Args:
        model: content of an ONNX file with float32 tensors; its batch may be dynamic.
        source: its name, for errors.
        precision: ``fp32`` computes in true float32 (no TF32), ``fp16`` the networks in float16.
        max_batch: the largest batch that the plan takes; the smallest is 1.
        progress: called with the name of each phase of the build.

    Returns:
        The plan.

    Raises:
        EngineError: there is no driver, or TensorRT cannot parse or build the model.
        MissingExtraError: TensorRT, or for fp16 the package ``onnx``, is not installed.
    """
    trt = loader.load_tensorrt()
    if not loader.builds_without_driver(trt):
        loader.require_driver()
    if precision == "fp16":
        model = half_precision_model(model)
    logger = loader.logger()
    logger.take_errors()
    builder = trt.Builder(logger)
    network = builder.create_network(_network_flags(trt))
    parser = trt.OnnxParser(network, logger)  # owns the weights until the plan is built
    if not parser.parse(model):
        raise EngineError(
            f"TensorRT cannot parse {source}",
            why="; ".join(_parser_error(parser.get_error(index)) for index in range(parser.num_errors)),
            remedy="export the model again with this version of edge-ad, or use --backend onnxruntime",
        )
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    _keep_types(trt, network, config, precision)
    _set_batches(builder, network, config, source, max_batch)
    return _built(trt, builder, network, config, f"{source} in {precision}", progress)


def _built(trt: ModuleType, builder: Any, network: Any, config: Any, source: str, progress: Progress | None) -> bytes:
    monitor = None
    if progress is not None and hasattr(trt, "IProgressMonitor"):
        monitor = config.progress_monitor = _progress_monitor(trt, progress)
    plan = builder.build_serialized_network(network, config)
    if monitor is not None and monitor.failure is not None:
        raise monitor.failure
    if plan is None:
        raise EngineError(
            f"TensorRT cannot build {source}",
            why=loader.logger().take_errors(),
            remedy="free GPU memory and try again, or use --backend onnxruntime",
        )
    return bytes(plan)


def _network_flags(trt: ModuleType) -> int:
    """The types in the ONNX file are the types to compute in, where TensorRT knows that promise."""
    kinds = trt.NetworkDefinitionCreationFlag
    flag = kinds.STRONGLY_TYPED if hasattr(kinds, "STRONGLY_TYPED") else kinds.EXPLICIT_BATCH
    return 1 << int(flag)


def _keep_types(trt: ModuleType, network: Any, config: Any, precision: Precision) -> None:
    """Without strong typing (TensorRT 8): allows float16, and asks for float32 outside the networks."""
    if precision == "fp32" or hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"):
        return
    config.set_flag(trt.BuilderFlag.FP16)
    config.set_flag(trt.BuilderFlag.PREFER_PRECISION_CONSTRAINTS)
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        outputs = [layer.get_output(output) for output in range(layer.num_outputs)]
        if all(tensor.dtype == trt.DataType.FLOAT and not tensor.name.endswith(HALF_SUFFIX) for tensor in outputs):
            layer.precision = trt.DataType.FLOAT


def _set_batches(builder: Any, network: Any, config: Any, source: str, max_batch: int) -> None:
    profile, dynamic = builder.create_optimization_profile(), False
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        batch, *sizes = tensor.shape
        if -1 in sizes or batch not in (-1, max_batch):
            raise EngineError(
                f"input {tensor.name!r} of {source} has shape {tuple(tensor.shape)}",
                why=f"it must have a dynamic batch (-1) or one of {max_batch}, and fixed sizes otherwise",
                remedy="export the model with a dynamic batch",
            )
        if batch == -1:
            dynamic = True
            profile.set_shape(tensor.name, (1, *sizes), (max_batch, *sizes), (max_batch, *sizes))
    if dynamic:
        config.add_optimization_profile(profile)


def _parser_error(error: Any) -> str:
    cause = " ".join(error.desc().split())
    if not hasattr(error, "node_operator"):
        return f"node {error.node()}: {cause}"
    return f"node {error.node_name() or error.node()} ({error.node_operator()}): {cause}"


def _progress_monitor(trt: ModuleType, progress: Progress) -> Any:
    class _Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]
        """Tells of each phase; TensorRT swallows exceptions, so the first is kept and ends the build."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.failure: BaseException | None = None

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            try:
                if self.failure is None:
                    progress(f"{phase_name} ({num_steps} steps)")
            except BaseException as error:
                self.failure = error

        def step_complete(self, phase_name: str, step: int) -> bool:
            return self.failure is None

        def phase_finish(self, phase_name: str) -> None:
            """Nothing to tell."""

    return _Monitor()
