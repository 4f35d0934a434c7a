"""ONNX → serialized TensorRT plan."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from edge_ad.backends.base import QUANTIZED, Precision, Progress
from edge_ad.backends.tensorrt import loader, timing_cache
from edge_ad.backends.tensorrt.half import half_precision_model
from edge_ad.backends.tensorrt.remedies import remedy_for
from edge_ad.backends.tensorrt.weakly_typed import free_tensors, keep_types, needs_flags, with_float_weights
from edge_ad.errors import EngineError


def plan_from_onnx(
    model: bytes, *, source: str, precision: Precision, max_batch: int = 1, progress: Progress | None = None
) -> bytes:
    """Compiles a model for the GPU of this box.

    TensorRT-RTX compiles with no GPU and no driver as well.

    Args:
        model: content of an ONNX file with float32 tensors; its batch may be dynamic. For ``int8`` and
            ``int8_fp16`` with QuantizeLinear and DequantizeLinear at the inputs of its convolutions: int8, zero
            points 0, biases float32.
        source: its name, for errors.
        precision: ``fp32`` computes in true float32 (no TF32), ``fp16`` the networks in float16; ``int8`` what is
            quantised in integers and the rest in float32, ``int8_fp16`` the rest of the networks in float16.
        max_batch: the largest batch that the plan takes, and the one it is made fast for; the smallest is 1.
        progress: called with what the build is doing.

    Returns:
        The plan.

    Raises:
        EngineError: there is no driver, or TensorRT cannot parse or build the model.
        MissingExtraError: TensorRT, or for a precision other than fp32 the package ``onnx``, is not installed.
    """
    trt = loader.load_tensorrt()
    if not loader.builds_without_driver(trt):
        loader.require_driver()
    model, free = _typed(trt, model, precision)
    logger = loader.logger()
    logger.take_errors()
    builder = trt.Builder(logger)
    network = builder.create_network(_network_flags(trt))
    parser = trt.OnnxParser(network, logger)  # owns the weights until the plan is built
    if not parser.parse(model):
        cause = "; ".join(_parser_error(parser.get_error(index)) for index in range(parser.num_errors))
        raise EngineError(f"TensorRT cannot parse {source}", why=cause, remedy=remedy_for(cause))
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    if hasattr(trt.BuilderFlag, "REQUIRE_USER_ALLOCATION"):
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)  # TensorRT-RTX: what CUDA graphs need
    if needs_flags(trt):
        keep_types(trt, network, config, precision, free)
    _set_batches(builder, network, config, source, max_batch)
    return _built(trt, builder, network, config, f"{source} in {precision}", progress)


def _typed(trt: ModuleType, model: bytes, precision: Precision) -> tuple[bytes, frozenset[str]]:
    """What the parser gets, and for TensorRT 8 which of its tensors need not be float32."""
    typed = half_precision_model(model) if precision in ("fp16", "int8_fp16") else model
    if not needs_flags(trt):
        return typed, frozenset()
    free = free_tensors(typed) if typed is not model else frozenset()
    return (with_float_weights(model) if precision in QUANTIZED else typed), free


def _built(trt: ModuleType, builder: Any, network: Any, config: Any, source: str, progress: Progress | None) -> bytes:
    monitor = None
    if progress is not None:
        progress(f"TensorRT {trt.__version__} is building, which can take minutes")
        if hasattr(trt, "IProgressMonitor"):
            monitor = config.progress_monitor = _progress_monitor(trt, progress)
    # TensorRT-RTX measures nothing when it builds.
    facts = None if loader.builds_without_driver(trt) else loader.box_facts()
    cache = timing_cache.attach(config, facts) if facts else None
    plan = builder.build_serialized_network(network, config)
    if monitor is not None and monitor.failure is not None:
        raise monitor.failure
    if plan is None:
        cause = loader.logger().take_errors()
        raise EngineError(f"TensorRT cannot build {source}", why=cause, remedy=remedy_for(cause))
    if facts:
        timing_cache.keep(cache, facts)
    return bytes(plan)


def _network_flags(trt: ModuleType) -> int:
    """The types in the ONNX file are the types to compute in, where TensorRT knows that promise."""
    kinds = trt.NetworkDefinitionCreationFlag
    return 1 << int(kinds.EXPLICIT_BATCH if needs_flags(trt) else kinds.STRONGLY_TYPED)


def _set_batches(builder: Any, network: Any, config: Any, source: str, max_batch: int) -> None:
    """One profile from 1 to ``max_batch``, optimised for the latter.

    Whoever asks for batches wants the throughput of full ones; the line asks for 1 and gets a plan made for 1.
    A second profile would double the time to build and the contexts' memory for a mixed load that nobody has.
    """
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
    if not error.node_operator():  # of the graph, not of a node
        return cause
    return f"node {error.node_name() or error.node()} ({error.node_operator()}): {cause}"


def _progress_monitor(trt: ModuleType, progress: Progress) -> Any:
    class _Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]
        """Tells of the outermost phase, how far it is, and the one being worked at.

        TensorRT swallows exceptions, so the first is kept and ends the build.
        """

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.failure: BaseException | None = None
            self.phases: dict[str, tuple[int, int]] = {}  # name → steps done, steps; outermost first

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.phases[phase_name] = (0, num_steps)
            self._tell()

        def step_complete(self, phase_name: str, step: int) -> bool:
            if phase_name in self.phases:
                self.phases[phase_name] = (step + 1, self.phases[phase_name][1])
                self._tell()
            return self.failure is None

        def phase_finish(self, phase_name: str) -> None:
            self.phases.pop(phase_name, None)

        def _tell(self) -> None:
            phases = list(self.phases.items())  # a copy, as TensorRT may call from several threads
            parts = [f"{name} ({done} of {steps})" for name, (done, steps) in (phases[:1] + phases[1:][-1:])]
            try:
                if self.failure is None:
                    progress(": ".join(parts))
            except BaseException as error:
                self.failure = error

    return _Monitor()
