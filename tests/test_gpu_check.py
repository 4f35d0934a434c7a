"""``scripts/gpu_check.py`` as far as it goes without a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import safetensors.numpy

from edge_ad.backends.tensorrt.half import half_precision_model
from edge_ad.backends.tensorrt.loader import require_driver
from edge_ad.errors import EngineError
from tests.quantized_graphs import run_as_written

ROOT = Path(__file__).parents[1]
CASE = "rd-resnet18"


def gpu_check(*arguments: object, blocked: str = "") -> subprocess.CompletedProcess[str]:
    """Runs the script, as if the ``blocked`` packages were not installed."""
    script = f"import runpy, sys\nfor name in {blocked.split()!r}: sys.modules[name] = None\n"
    script += f"sys.path.insert(0, {str(ROOT / 'scripts')!r})\nsys.argv = ['gpu_check', *sys.argv[1:]]\n"
    script += f"runpy.run_path({str(ROOT / 'scripts/gpu_check.py')!r}, run_name='__main__')"
    command = [sys.executable, "-c", script, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=environment)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("gpu_check")
    done = gpu_check("prepare", "-o", output, "--models=rd", "--backbones=resnet18", "--size=64", "--samples=2")
    assert done.returncode == 0, done.stderr
    return output


@pytest.mark.slow
def test_prepared_graphs_give_the_golden_answers(prepared: Path) -> None:
    directory = prepared / "cases" / CASE
    golden = safetensors.numpy.load_file(directory / "golden.safetensors")
    feeds = {name.removeprefix("input."): x for name, x in golden.items() if name.startswith("input.")}
    expected, peak = golden["output.anomaly_map"], np.abs(golden["output.anomaly_map"]).max()
    allowed = {"model.onnx": 1e-3, "quantized.onnx": 0.2}
    for name, share in allowed.items():
        content = (directory / name).read_bytes()
        for model, tolerance in ((content, share), (half_precision_model(content), max(share, 0.02))):
            given = run_as_written(model, feeds)["anomaly_map"]
            assert np.abs(given - expected).max() <= tolerance * peak, name
    half = onnx.load_from_string(half_precision_model((directory / "quantized.onnx").read_bytes())).graph
    outputs = [node.output[0] for node in half.node if node.op_type in ("Conv", "ConvTranspose")]
    typed = [name for name in outputs if name.endswith("__half")]
    assert len(typed) > 0.8 * len(outputs), "values of settled random networks stay in float16's range"


@pytest.mark.slow
def test_check_needs_no_torch_goes_on_and_is_reported(prepared: Path) -> None:
    words = ("check", "-o", prepared, "--backend=onnxruntime", "--precisions=fp32", "--rounds=3")
    blocked = "torch cv2 onnxscript tensorrt tensorrt_rtx sklearn"
    late = gpu_check(*words, "--budget-s=0", blocked=blocked)
    assert late.returncode == 1 and "call again to go on" in late.stdout
    for batches, rows in (("1", 1), ("1,2", 2)):
        done = gpu_check(*words, f"--batches={batches}", blocked=blocked)
        assert done.returncode == 0, done.stdout + done.stderr
        found = json.loads((prepared / "check-onnxruntime.json").read_text())["rows"]
        assert [row["batch"] for row in found] == [1, 2][:rows]
        assert all(row["p50_ms"] > 0 and row["difference"] < 1e-3 and not row["error"] for row in found)
    report = gpu_check("report", "-o", prepared, blocked=blocked)
    assert report.returncode == 0, report.stderr
    text = (prepared / "report.md").read_text()
    assert f"## {CASE} (" in text and "| onnxruntime | fp32 | 2 |" in text and "No failures." in text


def test_check_without_a_driver_says_so(tmp_path: Path) -> None:
    try:
        require_driver()
    except EngineError:
        pass
    else:
        pytest.skip("this box has a driver")
    (tmp_path / "cases" / CASE).mkdir(parents=True)
    done = gpu_check("check", "-o", tmp_path)
    assert done.returncode == EngineError.exit_code
    assert done.stderr.startswith("error: there is no NVIDIA driver on this box")
    assert not (tmp_path / "check-tensorrt.json").exists()


def test_check_before_prepare_names_the_step_that_is_missing(tmp_path: Path) -> None:
    done = gpu_check("check", "-o", tmp_path)
    assert done.returncode == 2
    assert "prepare" in done.stderr
