"""What this box has, asked in a process of its own: a driver that hangs or crashes takes nothing with it.

``python -m edge_ad.probes realsense`` prints what that probe finds as one line of JSON.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from dataclasses import asdict
from typing import Any

from edge_ad import errors
from edge_ad.backends import backend_class
from edge_ad.errors import EdgeAdError
from edge_ad.extras import require

TIMEOUT_S = 20.0
"""A healthy probe takes a second or two on a slow box; librealsense itself gives up after 15 s."""


def probe(name: str, timeout_s: float = TIMEOUT_S) -> dict[str, Any]:
    """Runs one of `PROBES` in a new process.

    Args:
        name: of the probe.
        timeout_s: after so long the process is killed.

    Returns:
        What the probe returned.

    Raises:
        EdgeAdError: of the class that the probe raised; or of this one, if it hung or crashed.
    """
    again = f"see what it says by itself: {sys.executable} -m edge_ad.probes {name}"
    process = subprocess.Popen(
        [sys.executable, "-m", "edge_ad.probes", name],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    try:
        stdout, stderr = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired as error:
        process.kill()
        # Not for long: what is stuck inside a driver does not even die.
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=1)
        raise EdgeAdError(f"looking for {name} hung", why=f"it took more than {timeout_s:g} s", remedy=again) from error
    # Drivers print things of their own too.
    answers = [line for line in stdout.splitlines() if line.startswith("{")]
    if process.returncode != 0 or not answers:
        raise EdgeAdError(f"looking for {name} crashed", why=_cause(process.returncode, stderr), remedy=again)
    answer: dict[str, Any] = json.loads(answers[-1])
    if "error" in answer:
        kind: type[EdgeAdError] = getattr(errors, answer["error"])
        raise kind(answer["what"], why=answer["why"], remedy=answer["remedy"])
    return answer


def _cause(exit_code: int, stderr: str) -> str:
    if exit_code < 0:
        return f"signal {-exit_code}, {signal.strsignal(-exit_code)}"
    last_line = stderr.strip().rpartition("\n")[2]
    return last_line or f"it answered nothing, exit code {exit_code}"


def _onnxruntime() -> dict[str, Any]:
    runtime = require("onnxruntime", extra="", remedy="pip install --force-reinstall onnxruntime")
    return {"version": runtime.__version__, "providers": runtime.get_available_providers()}


def _nvidia() -> dict[str, Any]:
    """Driver and GPU, as far as they can be told without TensorRT."""
    from edge_ad.backends.tensorrt import loader

    loader.require_driver()
    try:
        return asdict(backend_class("tensorrt").box_facts())
    except errors.MissingExtraError:
        return {}


def _gpu_memory() -> dict[str, Any]:
    """The package through which arrays reach the GPU; needs the driver."""
    from edge_ad.backends.tensorrt.device_memory import open_device_memory

    memory = open_device_memory()
    with memory.active():
        memory.free()
    return {"through": {"PycudaMemory": "pycuda", "CudaBindingsMemory": "cuda-bindings"}[type(memory).__name__]}


def _tensorrt() -> dict[str, Any]:
    from edge_ad.backends.tensorrt import loader

    trt = loader.load_tensorrt()
    return {"package": trt.__name__, "version": trt.__version__}


def _realsense() -> dict[str, Any]:
    from edge_ad.cameras.realsense_devices import list_devices, load_sdk

    return {"version": load_sdk().__version__, "cameras": [asdict(device) for device in list_devices()]}


def _orbbec() -> dict[str, Any]:
    from edge_ad.cameras.orbbec_devices import list_devices

    return {"cameras": [asdict(device) for device in list_devices()]}


def _oak() -> dict[str, Any]:
    from edge_ad.cameras.oak_devices import list_devices

    return {"cameras": [asdict(device) for device in list_devices()]}


def _genicam() -> dict[str, Any]:
    from edge_ad.cameras.genicam_devices import list_devices

    return {"cameras": [asdict(device) for device in list_devices()]}


PROBES = {
    "onnxruntime": _onnxruntime,
    "nvidia": _nvidia,
    "gpu-memory": _gpu_memory,
    "tensorrt": _tensorrt,
    "realsense": _realsense,
    "orbbec": _orbbec,
    "oak": _oak,
    "genicam": _genicam,
}


def main() -> None:
    """Runs the probe named on the command line and prints its answer, or the error that a user can mend."""
    try:
        answer = PROBES[sys.argv[1]]()
    except EdgeAdError as error:
        answer = {"error": type(error).__name__, "what": error.what, "why": error.why, "remedy": error.remedy}
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
