"""Who may import whom, read from the source of every module, imports inside functions included."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path

import numpy as np
import pytest

from edge_ad.bundle import read_bundle
from edge_ad.data import Dataset
from edge_ad.engine_build import build_engine
from edge_ad.predictor import open_predictor
from tests.factories import make_bundle

PACKAGE = Path(__file__).parents[1] / "edge_ad"

LAYERS = (
    {"types", "errors"},
    {"extras", "settings", "files", "alarms", "service", "systemd"},
    {"config"},
    {
        "bundle",
        "onnx_weights",
        "onnx_passes",
        "data",
        "drift",
        "models",
        "scoring",
        "thresholding",
        "separation",
        "tail",
        "metrics",
        "metric_inputs",
        "intervals",
        "cameras",
        "sinks",
        "triggers",
        "feeds",
        "geometry",
        "rig",
        "visualization",
        "published",
    },
    {"backends"},
    {"quantization"},
    {"engine", "predictor", "probes"},
    {"candidates", "engine_build"},
    {
        "feature_cache",
        "head_statistics",
        "processes",
        "export_graphs",
        "training",
        "training_data",
        "cross_scoring",
        "evaluation",
        "judged",
        "report",
        "export",
        "runtime",
        "triton",
        "triton_config",
        "verification",
        "benchmark",
        "benchmark_figures",
        "benchmark_frames",
        "graph_cost",
        "peaks",
    },
    {"experiments", "reproduction", "cluster", "engine_store"},
    {"cli", "__main__"},
)
"""Each may import its own layer and those above it in this list, which are lower; ``edge_ad`` itself is the lowest."""

NEED_TORCH = (
    "models/",
    "backends/torch.py",
    "feature_cache.py",
    "head_statistics.py",
    "processes.py",
    "training.py",
    "training_data.py",
    "cross_scoring.py",
    "export.py",
    "export_graphs.py",
)
"""What the line does without. Other modules import these inside functions, if at all."""

ON_DEMAND = {
    ("predictor.py", "backends.torch"),  # a checkpoint, tried before it is exported
    ("experiments.py", "training"),
    ("cli/reproduce.py", "models.weights"),
    ("cli/train.py", "models.checkpoint"),
    ("cli/train.py", "training"),
    ("cli/threshold.py", "cross_scoring"),
    ("cli/threshold.py", "models.checkpoint"),
    ("cli/threshold_scores.py", "cross_scoring"),
    ("cli/threshold_scores.py", "models.checkpoint"),
    ("cli/threshold_scores.py", "training"),
    ("cli/export.py", "export"),
    ("cli/demo.py", "training"),
    ("cli/demo.py", "export"),
}
"""Who imports what needs torch, inside a function."""

VENDORS = {
    "pyrealsense2": {"cameras/realsense_devices.py"},
    "harvesters": {"cameras/genicam_devices.py"},
    "genicam": {"cameras/genicam_devices.py"},
    "pyorbbecsdk": {"cameras/orbbec_devices.py"},
    "depthai": {"cameras/oak_devices.py"},
    "ray": {"cluster.py"},
    "sklearn": {"models/cmdiad.py"},
    "tensorrt": {"backends/tensorrt/loader.py"},
    "tensorrt_rtx": {"backends/tensorrt/loader.py"},
    "pycuda": {"backends/tensorrt/device_memory.py"},
    "cuda": {"backends/tensorrt/device_memory.py"},
    "onnxruntime": {
        "backends/onnxruntime.py",
        "export.py",
        "probes.py",
        "quantization/graph.py",
        "quantization/ranges.py",
    },
    "onnx": {
        "backends/tensorrt/half.py",
        "backends/tensorrt/weakly_typed.py",
        "export.py",
        "graph_cost.py",
        "onnx_passes.py",
        "onnx_weights.py",
        "peaks.py",
        "quantization/graph.py",
        "quantization/lint.py",
        "quantization/network.py",
        "quantization/ranges.py",
        "quantization/sensitivity.py",
    },
    "openvino": {"backends/openvino.py"},
    "google": {"graph_cost.py", "onnx_weights.py"},
    "tritonclient": {"backends/kserve.py"},
}
"""The only files that import a runtime or SDK."""


@dataclass(frozen=True, slots=True)
class Import:
    """One import: the file it is in, the dotted name, and whether it runs when the file is imported."""

    file: str
    name: str
    at_once: bool

    @property
    def unit(self) -> str:
        """The module or package of edge-ad that is imported; empty for edge_ad itself."""
        return (self.name + ".").split(".")[1]


def imports_of(path: Path) -> Iterator[Import]:
    file = path.relative_to(PACKAGE).as_posix()
    tree = ast.parse(path.read_text())
    for node, at_once in walk(tree, True):
        for name in names_of(node):
            yield Import(file, name, at_once)


def walk(node: ast.AST, at_once: bool) -> Iterator[tuple[ast.AST, bool]]:
    """Every node, and whether it runs when the file is imported."""
    yield node, at_once
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        at_once = False
    for child in ast.iter_child_nodes(node):
        yield from walk(child, at_once)


def names_of(node: ast.AST) -> list[str]:
    """What a node imports; ``require("name")`` and ``import_module("name")`` are imports too."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, "relative imports hide what is imported"
        # from edge_ad.backends.tensorrt import loader: the module is the alias.
        return [f"{node.module}.{alias.name}" for alias in node.names]
    if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if function in ("require", "import_module") and isinstance(node.args[0].value, str):
            return [node.args[0].value]
    return []


FILES = sorted(PACKAGE.rglob("*.py"))
IMPORTS = [found for path in FILES for found in imports_of(path)]
INSIDE = [found for found in IMPORTS if found.name.split(".")[0] == "edge_ad"]


def layer_of(unit: str) -> int:
    return next((index for index, units in enumerate(LAYERS) if unit in units), -1)


def unit_of(file: str) -> str:
    return file.split("/")[0].removesuffix(".py")


def needs_torch(file: str) -> bool:
    return file.startswith(NEED_TORCH)


def test_every_module_has_its_layer() -> None:
    units = {unit_of(path.relative_to(PACKAGE).as_posix()) for path in FILES}
    assert units - {"__init__"} == set().union(*LAYERS)


def test_imports_point_down() -> None:
    upwards = [
        f"{found.file} imports {found.name}"
        for found in INSIDE
        if found.file != "__init__.py" and layer_of(found.unit) > layer_of(unit_of(found.file))
    ]
    assert upwards == []


def test_no_two_modules_import_each_other() -> None:
    modules = {".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in FILES}
    graph: dict[str, set[str]] = {}
    for found in INSIDE:
        importer = f"edge_ad.{found.file.removesuffix('.py').replace('/', '.')}"
        imported = found.name if found.name in modules else found.name.rpartition(".")[0]
        if imported in modules and imported != importer:
            graph.setdefault(importer, set()).add(imported)
    TopologicalSorter(graph).prepare()


def test_torch_stays_where_the_line_is_not() -> None:
    strays = [
        f"{found.file} imports {found.name}"
        for found in IMPORTS
        if {"torch"} & set(found.name.split(".")[:2]) and not needs_torch(found.file) and not is_check(found)
    ]
    assert strays == []


def is_check(found: Import) -> bool:
    """``require("torch")`` inside a function that then imports something from ``ON_DEMAND``."""
    return not found.at_once and any(file == found.file for file, _ in ON_DEMAND)


def test_what_needs_torch_is_imported_on_demand() -> None:
    files = [path.relative_to(PACKAGE).as_posix() for path in FILES]
    heavy = {f"edge_ad.{file.removesuffix('.py').replace('/', '.')}" for file in files if needs_torch(file)}
    found = [
        (item, module)
        for item in INSIDE
        for module in (item.name, item.name.rpartition(".")[0])
        if module in heavy and not needs_torch(item.file)
    ]
    assert {(item.file, module.removeprefix("edge_ad.")) for item, module in found} == ON_DEMAND
    assert [item for item, _ in found if item.at_once] == []


@pytest.mark.parametrize("vendor", VENDORS)
def test_each_sdk_has_its_file(vendor: str) -> None:
    found = {item.file for item in IMPORTS if item.name.split(".")[0] == vendor}
    assert found == VENDORS[vendor]


BLOCKED = [
    "torch",
    "onnx",
    "onnxscript",
    "pyrealsense2",
    "harvesters",
    "genicam",
    "pyorbbecsdk",
    "depthai",
    "ray",
    "tensorrt",
    "tensorrt_rtx",
    "pycuda",
    "cuda",
    "tritonclient",
]

ON_THE_LINE = f"""
import sys
from pathlib import Path

for name in {BLOCKED!r}:
    sys.modules[name] = None
import edge_ad.cli
import edge_ad.predictor
import edge_ad.runtime.loop
from edge_ad.data import open_dataset

frame = open_dataset(Path(sys.argv[2])).frames("test")[0].frame
print(edge_ad.predictor.open_predictor(Path(sys.argv[1]))(frame).score)
"""

WITHOUT_EXTRAS = f"""
import sys

for name in {BLOCKED!r}:
    sys.modules[name] = None
from edge_ad.errors import MissingExtraError
from edge_ad.predictor import open_predictor

try:
    open_predictor(sys.argv[1])
except MissingExtraError as error:
    print(error)
"""


def run(code: str, *arguments: str | Path) -> str:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_the_line_runs_without_torch_and_sdks(
    bundle_directory: Path, synthetic_root: Path, dataset: Dataset, tmp_path: Path
) -> None:
    build_engine(read_bundle(bundle_directory), tmp_path / "engine", backend="onnxruntime", precision="fp32")
    expected = open_predictor(tmp_path / "engine")(dataset.frames("test")[0].frame).score
    np.testing.assert_allclose(float(run(ON_THE_LINE, tmp_path / "engine", synthetic_root)), expected, rtol=1e-5)


def test_a_served_model_without_its_client_names_the_extra(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle").directory
    assert "pip install 'edge-ad[triton]'" in run(WITHOUT_EXTRAS, f"grpc://127.0.0.1:1/lid?bundle={bundle}")


def test_a_checkpoint_without_torch_names_the_extra(rd_run: Path) -> None:
    assert "pip install 'edge-ad[train]'" in run(WITHOUT_EXTRAS, rd_run)
