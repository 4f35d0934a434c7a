"""Real servers of the Open Inference Protocol, each in a process of its own on a free port of the loopback."""

from __future__ import annotations

import ctypes.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tritonclient.grpc
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig
from tritonclient.utils import InferenceServerException

ROOT = Path(__file__).parents[2]
START_S = 60
STOP_S = 20

PYTRITON = Path(os.environ.get("EDGE_AD_PYTRITON", Path(sys.prefix) / "pytriton"))
"""Where scripts/test unpacks the package nvidia-pytriton, for its server; its Python part wants NumPy 1."""

TRITON = PYTRITON / "pytriton" / "tritonserver"


def free_ports(count: int) -> list[int]:
    """Ports of the loopback that nobody listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    for opened in sockets:
        opened.bind(("127.0.0.1", 0))
    ports = [opened.getsockname()[1] for opened in sockets]
    for opened in sockets:
        opened.close()
    return ports


def read_config(directory: Path) -> Any:
    """``config.pbtxt`` in Triton's own message."""
    return text_format.Parse((directory / "config.pbtxt").read_text(), ModelConfig())


class Server:
    """A server's process, which can be stopped and started again on the same port.

    Args:
        command: of the process.
        port: where it will listen.
        model: that it serves; it is up when that is ready.
        directory: of the process; its log goes there.
        environment: on top of ours.
        shared_memory: how the names of what it shares begin, which outlives a kill.
    """

    def __init__(
        self,
        command: list[str],
        port: int,
        model: str,
        directory: Path,
        environment: Mapping[str, str],
        shared_memory: str = "",
    ) -> None:
        self._shared_memory = shared_memory
        self._command, self._directory, self._environment = command, directory, environment
        self._process: subprocess.Popen[bytes] | None = None
        self.port, self.model = port, model

    def uri(self, bundle: Path, timeout_ms: int = 30_000) -> str:
        return f"grpc://127.0.0.1:{self.port}/{self.model}?bundle={bundle}&timeout_ms={timeout_ms}"

    def start(self) -> None:
        log = self._directory / "server.log"
        with log.open("ab") as stream:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._directory,
                env={**os.environ, **self._environment},
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )
        deadline_s = time.monotonic() + START_S
        while not self._ready():
            if self._process.poll() is not None or time.monotonic() > deadline_s:
                self.stop()
                raise AssertionError(f"the server does not start:\n{log.read_text()[-4000:]}")
            time.sleep(0.1)

    def _ready(self) -> bool:
        with tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{self.port}") as client:
            try:
                return bool(client.is_model_ready(self.model, client_timeout=2))
            except InferenceServerException:
                return False

    def send(self, number: signal.Signals) -> None:
        """Sends a signal to the server and to whatever it has started."""
        assert self._process is not None
        os.killpg(self._process.pid, number)

    def stop(self) -> None:
        """Kills the server and whatever it has started."""
        if self._process is not None:
            self.send(signal.SIGKILL)
            self._process.wait(STOP_S)
            self._process = None
        if self._shared_memory:
            for path in Path("/dev/shm").glob(f"{self._shared_memory}*"):
                path.unlink()


def mlserver(model: Path, directory: Path) -> Server:
    """MLServer with a model of a Triton repository, whose metadata it takes from ``config.pbtxt``."""
    config = read_config(model)
    grpc_port, http_port, metrics_port = free_ports(3)
    settings = {
        "host": "127.0.0.1",
        "grpc_port": grpc_port,
        "http_port": http_port,
        "metrics_port": metrics_port,
        "metrics_endpoint": None,
        "parallel_workers": 0,
        "debug": False,
    }
    described = {
        kind: [
            {"name": x.name, "datatype": {2: "UINT8", 11: "FP32"}[x.data_type], "shape": [-1, *x.dims]} for x in tensors
        ]
        for kind, tensors in (("inputs", config.input), ("outputs", config.output))
    }
    runtime = "tests.serving.mlserver_runtime.ExportedModel"
    model_settings = {
        "name": config.name,
        "implementation": runtime,
        "parameters": {"uri": str(model)},
        **described,
    }
    (directory / config.name).mkdir(parents=True)
    (directory / "settings.json").write_text(json.dumps(settings))
    (directory / config.name / "model-settings.json").write_text(json.dumps(model_settings))
    command = [sys.executable, "-m", "mlserver.cli.main", "start", str(directory)]
    return Server(command, grpc_port, config.name, directory, {"PYTHONPATH": str(ROOT)})


def triton(model: Path, directory: Path) -> Server:
    """Triton with a model of a repository, run by its Python backend in the place of ONNX Runtime's."""
    config = (model / "config.pbtxt").read_text()
    for runtime in ("platform", "backend", "default_model_filename"):
        config, count = re.subn(rf"^{runtime}: .*\n", "", config, flags=re.MULTILINE)
        assert count == 1
    served = directory / "models" / model.name
    shutil.copytree(model, served)
    (served / "config.pbtxt").write_text(f'{config}backend: "python"\n')
    shutil.copy(Path(__file__).with_name("triton_model.py"), served / "1" / "model.py")
    backend = directory / "backends" / "python"
    shutil.copytree(TRITON / "backends" / "python", backend)
    shutil.copy(_stub(), backend)
    [port] = free_ports(1)
    shared_memory = f"edge-ad-test-{os.getpid()}-{port}-"
    command = [
        str(TRITON / "bin" / "tritonserver"),
        f"--model-repository={directory / 'models'}",
        f"--backend-directory={directory / 'backends'}",
        "--allow-http=false",
        "--allow-metrics=false",
        "--grpc-address=127.0.0.1",
        f"--grpc-port={port}",
        f"--backend-config=python,shm-region-prefix-name={shared_memory}",
    ]
    libraries = str(PYTRITON / "nvidia_pytriton.libs")
    packages = os.pathsep.join(path for path in sys.path if path.endswith("site-packages"))
    environment = {"LD_LIBRARY_PATH": libraries, "PYTHONPATH": packages}
    return Server(command, port, model.name, directory, environment, shared_memory)


def triton_is_here() -> bool:
    """Whether pip's Triton is installed and can run this Python."""
    library = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return _stub().is_file() and ctypes.util.find_library(library) is not None


def _stub() -> Path:
    """What runs Python inside Triton."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return TRITON / "python_backend_stubs" / version / "triton_python_backend_stub"
