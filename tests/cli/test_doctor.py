"""What doctor says of this box, and of boxes that are not here."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from edge_ad.cli import findings
from edge_ad.cli.findings import Finding, Status, abilities, cpu, examine, memory
from edge_ad.errors import CameraError, EdgeAdError, EngineError, MissingExtraError
from edge_ad.probes import PROBES, probe
from tests.cli.command_line import edge_ad

SUBJECTS = {"edge-ad", "CPU", "memory", "disk", "clock", "engine key", "ONNX Runtime"}
SUBJECTS |= {"NVIDIA GPU", "TensorRT", "torch", "teacher weights", "librealsense"}


def test_this_box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_AD_HOME", str(tmp_path / "home"))
    done = edge_ad("doctor", "--json")
    report = json.loads(done.stdout)
    found = {finding["name"]: finding for finding in report["findings"]}
    assert found.keys() >= SUBJECTS
    assert found["ONNX Runtime"]["status"] == "ok" and "CPU" in found["ONNX Runtime"]["value"]
    assert all(finding["value"] for finding in report["findings"])
    assert all(finding["remedy"] for finding in report["findings"] if finding["status"] == "problem")
    assert report["healthy"] == all(finding["status"] != "problem" for finding in report["findings"])
    assert done.exit_code == (0 if report["healthy"] else 1)
    assert report["can"]["inspect on the CPU"]
    assert not (tmp_path / "home").exists(), "doctor changes nothing"


def test_the_table_names_every_finding_and_what_the_box_can_do() -> None:
    told = edge_ad("doctor").stdout
    assert all(subject in told for subject in SUBJECTS)
    assert "This box can inspect on the CPU" in told


def examined(monkeypatch: pytest.MonkeyPatch, answers: dict[str, dict[str, Any] | EdgeAdError]) -> dict[str, Finding]:
    """Findings on a box whose probes answer as told; of several with one name, the first."""

    def answer(name: str) -> dict[str, Any]:
        found = answers[name]
        if isinstance(found, EdgeAdError):
            raise found
        return found

    monkeypatch.setattr(findings, "probe", answer)
    found: dict[str, Finding] = {}
    for finding in examine():
        found.setdefault(finding.name, finding)
    return found


JETSON: dict[str, dict[str, Any] | EdgeAdError] = {
    "onnxruntime": {"version": "1.20.0", "providers": ["CPUExecutionProvider"]},
    "nvidia": {"gpu": "Orin", "compute_capability": "8.7", "driver": "CUDA 12.6", "backend_version": "tensorrt 10.3.0"},
    "gpu-memory": {"through": "pycuda"},
    "tensorrt": {"package": "tensorrt", "version": "10.3.0"},
    "realsense": {
        "version": "2.58.4",
        "cameras": [{"name": "Intel D435", "serial": "0123", "firmware": "5.16", "usb": "3.2"}],
    },
    "orbbec": {"cameras": []},
    "oak": {"cameras": []},
    "genicam": {"cameras": []},
}
NO_PRODUCER = CameraError("no GenTL producer found", why="the variable is not set", remedy="install one")
NO_DRIVER = EngineError("there is no NVIDIA driver on this box", why="libcuda.so.1: cannot open", remedy="none")
MISSING = MissingExtraError("it cannot be imported", why="No module named 'it'", remedy="pip install it")
BROKEN = MissingExtraError("pyrealsense2 cannot be imported", why="libusb-1.0.so.0: cannot open", remedy="apt-get …")
HUNG = EdgeAdError("looking for realsense hung", why="it took more than 20 s", remedy="try by hand")
BUSY = CameraError("a RealSense camera is attached but cannot be opened", why="access denied", remedy="udev rules")


def test_a_box_with_everything(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGE_AD_HOME", str(tmp_path))
    found = examined(monkeypatch, JETSON)
    assert found["NVIDIA GPU"].value == "Orin, compute capability 8.7, driver CUDA 12.6"
    assert found["GPU memory"].value == "reached through pycuda"
    assert found["camera"].value == "realsense://0123: Intel D435, firmware 5.16, USB 3.2"
    can = abilities(list(found.values()))
    assert can["inspect on an NVIDIA GPU"] and can["use a RealSense camera"]


@pytest.mark.parametrize(
    ("name", "answer", "subject", "status", "says"),
    [
        pytest.param("onnxruntime", MISSING, "ONNX Runtime", Status.PROBLEM, "cannot be imported", id="no runtime"),
        pytest.param("nvidia", NO_DRIVER, "NVIDIA GPU", Status.NOTE, "there is no NVIDIA driver", id="no driver"),
        pytest.param("nvidia", {}, "NVIDIA GPU", Status.OK, "it works", id="driver without TensorRT"),
        pytest.param("tensorrt", MISSING, "TensorRT", Status.NOTE, "cannot be imported", id="no TensorRT"),
        pytest.param("gpu-memory", MISSING, "GPU memory", Status.NOTE, "cannot be imported", id="no pycuda"),
        pytest.param("realsense", BROKEN, "librealsense", Status.PROBLEM, "libusb-1.0.so.0", id="no libusb"),
        pytest.param("realsense", HUNG, "librealsense", Status.PROBLEM, "more than 20 s", id="SDK hangs"),
        pytest.param("genicam", NO_PRODUCER, "harvesters", Status.NOTE, "1.0: no GenTL producer", id="no producer"),
        pytest.param("oak", HUNG, "depthai", Status.PROBLEM, "more than 20 s", id="depthai hangs"),
        pytest.param("realsense", BUSY, "librealsense", Status.PROBLEM, "access denied", id="no udev rules"),
    ],
)
def test_a_box_that_lacks_something(
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    answer: dict[str, Any] | EdgeAdError,
    subject: str,
    status: Status,
    says: str,
) -> None:
    monkeypatch.setattr(findings, "_version", lambda package: "1.0")
    found = examined(monkeypatch, {**JETSON, name: answer})
    assert found[subject].status is status
    assert says in found[subject].value
    assert found[subject].remedy or status is Status.OK


def test_a_bare_industrial_pc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGE_AD_HOME", str(tmp_path))
    monkeypatch.setattr(findings, "_version", lambda package: "")
    bare = {**JETSON, "nvidia": NO_DRIVER, "gpu-memory": NO_DRIVER, "tensorrt": MISSING, "realsense": MISSING}
    found = examined(monkeypatch, bare)
    optional = {"NVIDIA GPU", "TensorRT", "torch", "teacher weights", "librealsense"}
    assert {found[name].status for name in optional} == {Status.NOTE}
    assert "GPU memory" not in found
    able = [ability for ability, possible in abilities(list(found.values())).items() if possible]
    assert able == ["inspect on the CPU"]


MORE_CAMERAS = {
    "orbbec": ({"name": "Femto Bolt", "serial": "CL8", "connection": "USB3.2"}, "orbbec://CL8: Femto Bolt, USB3.2"),
    "oak": ({"serial": "1844", "address": "1.1", "state": "UNBOOTED"}, "oak://1844: 1.1, UNBOOTED"),
    "genicam": (
        {"vendor": "Photoneo", "name": "PhoXi", "serial": "2019", "label": ""},
        "genicam://2019: Photoneo PhoXi",
    ),
}


@pytest.mark.parametrize("scheme", MORE_CAMERAS)
def test_cameras_of_other_makes_are_listed(monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    monkeypatch.setattr(findings, "_version", lambda package: "1.0")
    camera, told = MORE_CAMERAS[scheme]
    answers = {**JETSON, "realsense": {"version": "2.58.4", "cameras": []}, scheme: {"cameras": [camera]}}
    monkeypatch.setattr(findings, "probe", lambda name: answers[name])
    found = examine()
    told_of = [finding for finding in found if finding.name == "camera" and finding.status is Status.OK]
    assert [finding.value for finding in told_of] == [told]
    absent = [finding for finding in found if finding.name == "camera" and finding.status is Status.NOTE]
    assert len(absent) == 3 and all(finding.remedy for finding in absent)
    can = abilities(found)
    assert can["use an Orbbec, OAK or GenICam camera"] and not can["use a RealSense camera"]


def test_a_producers_cameras_are_listed_on_this_box(monkeypatch: pytest.MonkeyPatch) -> None:
    genicam = pytest.importorskip("genicam")
    monkeypatch.setenv("GENICAM_GENTL64_PATH", str(Path(genicam.__file__).parent))
    assert [camera["serial"] for camera in probe("genicam")["cameras"]] == ["0", "1", "2"]


def test_a_camera_on_usb_2_is_usable_and_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    camera = {"name": "Intel D435", "serial": "0123", "firmware": "5.16", "usb": "2.1"}
    found = examined(monkeypatch, {**JETSON, "realsense": {"version": "2.58.4", "cameras": [camera]}})
    assert found["camera"].status is Status.NOTE and "USB 3" in found["camera"].remedy
    assert abilities(list(found.values()))["use a RealSense camera"]


def test_a_key_that_others_can_read_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_AD_HOME", str(tmp_path))
    key = tmp_path / "box.key"
    key.write_bytes(bytes(32))
    key.chmod(0o644)
    done = edge_ad("doctor", "--json")
    assert done.exit_code == 1
    report = json.loads(done.stdout)
    assert not report["healthy"]
    (problem,) = [finding for finding in report["findings"] if finding["name"] == "engine key"]
    assert problem["status"] == "problem" and f"rm {key}" in problem["remedy"]


def test_a_place_for_the_key_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("EDGE_AD_HOME", str(tmp_path / "file" / "home"))
    found = examined(monkeypatch, JETSON)
    assert found["engine key"].status is Status.PROBLEM and "EDGE_AD_HOME" in found["engine key"].remedy


X86 = "processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: fpu sse {}\n\nprocessor\t: 1\nmodel name\t: Some CPU\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd asimddp\nCPU part\t: 0xd42\n"


@pytest.mark.parametrize(
    ("cpuinfo", "board", "status", "starts", "ends"),
    [
        pytest.param(X86.format("avx2 avx512f avx512_vnni avx_vnni"), "", "ok", "Some CPU, ", "AVX2, AVX-512, VNNI"),
        pytest.param(X86.format("avx"), "", "note", "Some CPU, ", " core"),
        pytest.param(ARM, "NVIDIA Jetson Orin Nano\0", "ok", "NVIDIA Jetson Orin Nano, ", "NEON, dot product"),
        pytest.param("", "", "ok", "", " core"),
    ],
    ids=["x86", "x86 without AVX2", "Jetson", "no /proc"],
)
def test_cpu(tmp_path: Path, cpuinfo: str, board: str, status: str, starts: str, ends: str) -> None:
    (tmp_path / "device-tree").mkdir()
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    (tmp_path / "device-tree" / "model").write_text(board)
    finding = cpu(tmp_path)
    assert finding.status.value == status
    assert finding.value.startswith(starts) and finding.value.removesuffix("s").endswith(ends)


@pytest.mark.parametrize(
    ("meminfo", "limit", "status", "value"),
    [
        pytest.param((8, 6), "max\n", "ok", "6.0 of 8.0 GiB available", id="plenty"),
        pytest.param((8, 1), "max\n", "note", "1.0 of 8.0 GiB available", id="little left"),
        pytest.param((64, 60), str(1 << 30), "note", "1.0 of 1.0 GiB available", id="small container"),
        pytest.param(None, "max\n", "ok", "not known on this system", id="no /proc"),
    ],
)
def test_memory(tmp_path: Path, meminfo: tuple[int, int] | None, limit: str, status: str, value: str) -> None:
    if meminfo is not None:
        total, free = (gib << 20 for gib in meminfo)
        (tmp_path / "meminfo").write_text(f"MemTotal: {total} kB\nMemFree: 1 kB\nMemAvailable: {free} kB\n")
    (tmp_path / "memory.max").write_text(limit)
    finding = memory(tmp_path, tmp_path)
    assert (finding.status.value, finding.value) == (status, value)


@pytest.fixture
def interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A shell script in the place of the Python that probes run in."""
    script = tmp_path / "python"
    monkeypatch.setattr(sys, "executable", str(script))
    return script


def write_script(path: Path, command: str) -> None:
    path.write_text(f"#!/bin/sh\n{command}\n")
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("command", "what", "why"),
    [
        pytest.param("kill -SEGV $$", "looking for nvidia crashed", "signal 11, Segmentation fault", id="crash"),
        pytest.param("echo boom >&2; exit 3", "looking for nvidia crashed", "boom", id="failure"),
        pytest.param("exit 0", "looking for nvidia crashed", "it answered nothing, exit code 0", id="silence"),
        pytest.param("exec sleep 30", "looking for nvidia hung", "it took more than 0.2 s", id="hang"),
    ],
)
def test_a_driver_that_crashes_or_hangs_is_an_error(interpreter: Path, command: str, what: str, why: str) -> None:
    write_script(interpreter, command)
    with pytest.raises(EdgeAdError) as caught:
        probe("nvidia", timeout_s=0.2 if "sleep" in command else 20)
    assert caught.value.what == what
    assert caught.value.why == why
    assert "-m edge_ad.probes nvidia" in caught.value.remedy


def test_what_a_driver_prints_does_not_matter(interpreter: Path) -> None:
    answer = shlex.quote('{"gpu": "Orin"}')
    write_script(interpreter, f"echo loading; echo {answer}; echo goodbye")
    assert probe("nvidia") == {"gpu": "Orin"}


def test_a_probes_error_comes_back_as_it_was(interpreter: Path) -> None:
    told = {"error": "MissingExtraError", "what": "no libusb", "why": "it is not there", "remedy": "apt-get …"}
    write_script(interpreter, f"echo {shlex.quote(json.dumps(told))}")
    with pytest.raises(MissingExtraError) as caught:
        probe("realsense")
    assert (caught.value.what, caught.value.why, caught.value.remedy) == ("no libusb", "it is not there", "apt-get …")


@pytest.mark.parametrize("name", PROBES)
def test_every_probe_answers_or_says_why_not(name: str) -> None:
    try:
        probe(name)
    except (EngineError, MissingExtraError, CameraError) as error:
        assert error.why and error.remedy
