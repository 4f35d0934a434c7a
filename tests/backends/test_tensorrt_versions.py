"""What differs between TensorRT releases, by stand-ins that have the attributes each release has."""

from __future__ import annotations

from enum import IntEnum
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from edge_ad.backends.tensorrt import build, loader, weakly_typed
from edge_ad.errors import MissingExtraError


class Flags8(IntEnum):
    EXPLICIT_BATCH = 0
    EXPLICIT_PRECISION = 1


class Flags10(IntEnum):
    EXPLICIT_BATCH = 0
    STRONGLY_TYPED = 1


class Flags11(IntEnum):
    STRONGLY_TYPED = 0


@pytest.mark.parametrize(
    ("flags", "expected"),
    [pytest.param(Flags8, 1, id="8.6"), pytest.param(Flags10, 2, id="10"), pytest.param(Flags11, 1, id="11")],
)
def test_network_flags_ask_for_strong_types_where_they_exist(flags: type[IntEnum], expected: int) -> None:
    trt: Any = SimpleNamespace(NetworkDefinitionCreationFlag=flags)
    assert build._network_flags(trt) == expected


class Layer:
    def __init__(self, name: str, dtype: str) -> None:
        self.num_outputs = 1
        self.precision: str | None = None
        self._output = SimpleNamespace(name=name, dtype=dtype)

    def get_output(self, index: int) -> SimpleNamespace:
        return self._output


class Config:
    def __init__(self) -> None:
        self.flags: set[str] = set()

    def set_flag(self, flag: str) -> None:
        self.flags.add(flag)


def _keep_types(precision: Any, free: frozenset[str]) -> tuple[list[str | None], set[str]]:
    trt: Any = SimpleNamespace(
        DataType=SimpleNamespace(FLOAT="float"),
        BuilderFlag=SimpleNamespace(FP16="FP16", INT8="INT8", PREFER_PRECISION_CONSTRAINTS="PREFER"),
    )
    layers = [Layer("depth_m", "float"), Layer("sizes", "int32"), Layer("conv", "float")]
    network = SimpleNamespace(num_layers=len(layers), get_layer=lambda index: layers[index])
    config = Config()
    weakly_typed.keep_types(trt, network, config, precision, free)
    return [layer.precision for layer in layers], config.flags


@pytest.mark.parametrize(
    ("precision", "pins", "flags"),
    [
        pytest.param("fp32", [None, None, None], set(), id="fp32"),
        pytest.param("fp16", ["float", None, None], {"FP16", "PREFER"}, id="fp16"),
        pytest.param("int8", [None, None, None], {"INT8"}, id="int8"),
        pytest.param("int8_fp16", ["float", None, None], {"INT8", "FP16", "PREFER"}, id="int8_fp16"),
    ],
)
def test_tensorrt_8_gets_flags_and_float32_outside_the_networks(
    precision: str, pins: list[str | None], flags: set[str]
) -> None:
    assert _keep_types(precision, frozenset({"conv"})) == (pins, flags)


@pytest.mark.parametrize("flags", [Flags8, Flags10, Flags11], ids=["8.6", "10", "11"])
def test_only_tensorrt_8_needs_flags(flags: type[IntEnum]) -> None:
    trt: Any = SimpleNamespace(NetworkDefinitionCreationFlag=flags)
    assert weakly_typed.needs_flags(trt) == (flags is Flags8)


def test_parser_errors_of_old_releases_give_the_node_number() -> None:
    error = SimpleNamespace(node=lambda: 12, desc=lambda: "no\nsuch op")
    assert build._parser_error(error) == "node 12: no such op"


def test_errors_of_the_graph_name_no_node() -> None:
    error = SimpleNamespace(node=lambda: -1, node_operator=lambda: "", node_name=lambda: "", desc=lambda: "no model")
    assert build._parser_error(error) == "no model"


def _loads(monkeypatch: pytest.MonkeyPatch, *present: str) -> ModuleType:
    def require(module: str, *, extra: str) -> ModuleType:
        if module in present:
            return ModuleType(module)
        raise MissingExtraError(f"{module} cannot be imported", why=f"no {module} here")

    monkeypatch.setattr(loader, "require", require)
    return loader.load_tensorrt.__wrapped__()


@pytest.mark.parametrize(
    ("present", "taken"),
    [
        pytest.param(("tensorrt", "tensorrt_rtx"), "tensorrt", id="both"),
        pytest.param(("tensorrt_rtx",), "tensorrt_rtx", id="only RTX"),
    ],
)
def test_the_full_tensorrt_comes_first(monkeypatch: pytest.MonkeyPatch, present: tuple[str, ...], taken: str) -> None:
    assert _loads(monkeypatch, *present).__name__ == taken


def test_without_any_tensorrt_the_advice_covers_jetson_and_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MissingExtraError, match=r"no tensorrt_rtx here.*system-site-packages.*edge-ad\[tensorrt\]"):
        _loads(monkeypatch)


def test_driver_version_has_release_and_cuda(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    version = tmp_path / "version"
    version.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.95.05  Tue Sep 23\nGCC version: 12.2.0\n")
    monkeypatch.setattr(loader, "_KERNEL_MODULE", version)
    assert loader._driver_version(13000) == "580.95.05 (CUDA 13.0)"


def test_driver_version_without_a_kernel_module_file_is_cuda_alone(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "_KERNEL_MODULE", tmp_path / "absent")
    assert loader._driver_version(12060) == "CUDA 12.6"
