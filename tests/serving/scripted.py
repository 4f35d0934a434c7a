"""A server of the Open Inference Protocol in this process, that answers as badly as a test asks it to."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnxruntime
from tritonclient.grpc import service_pb2, service_pb2_grpc

from edge_ad.bundle import Bundle, model_name
from edge_ad.types import AnyArray

NAMES = {"uint8": "UINT8", "float32": "FP32"}


@dataclass
class Script:
    """What a scripted server does; a test changes it while the server runs.

    Attributes:
        ready: whether it says that it has loaded the model.
        delay_s: before each answer.
        failure: the error that it gives in the place of an answer.
        typed: whether it sends numbers one by one in the place of raw bytes.
        changed: what it does to an answer.
        described: what it does to the model's metadata.
        headers: of the last request, as sent: name → (type, shape, bytes that came raw).
    """

    ready: bool = True
    delay_s: float = 0.0
    failure: str = ""
    typed: bool = False
    changed: Callable[[Any], None] = lambda answer: None
    described: Callable[[Any], None] = lambda metadata: None
    headers: dict[str, tuple[str, list[int], int]] = field(default_factory=dict)


class _Service(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """The protocol's calls; their names are not ours."""

    def __init__(self, bundle: Bundle, script: Script, mode: str) -> None:
        self._session = onnxruntime.InferenceSession(bundle.directory / model_name(mode))
        self._info, self._script = bundle.mode(mode), script

    def ServerLive(self, request: Any, context: Any) -> Any:  # noqa: N802
        return service_pb2.ServerLiveResponse(live=True)

    def ModelReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        return service_pb2.ModelReadyResponse(ready=self._script.ready and request.name == "widget")

    def ModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        metadata = service_pb2.ModelMetadataResponse(name=request.name)
        for tensors, infos in ((metadata.inputs, self._info.inputs), (metadata.outputs, self._info.outputs)):
            for info in infos:
                shape = [-1 if size is None else size for size in info.shape]
                tensors.add(name=info.name, datatype=NAMES[info.dtype], shape=shape)
        self._script.described(metadata)
        return metadata

    def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        time.sleep(self._script.delay_s)
        if self._script.failure:
            context.abort(grpc.StatusCode.INTERNAL, self._script.failure)
        raw = request.raw_input_contents
        self._script.headers = {
            tensor.name: (tensor.datatype, list(tensor.shape), len(content))
            for tensor, content in zip(request.inputs, raw, strict=True)
        }
        feeds = {
            tensor.name: np.frombuffer(content, np.uint8).reshape(tensor.shape)
            for tensor, content in zip(request.inputs, raw, strict=True)
        }
        names = [output.name for output in self._session.get_outputs()]
        answer = service_pb2.ModelInferResponse(model_name=request.model_name)
        for name, array in zip(names, self._session.run(names, feeds), strict=True):
            self._add(answer, name, array)
        self._script.changed(answer)
        return answer

    def _add(self, answer: Any, name: str, array: AnyArray) -> None:
        tensor = answer.outputs.add(name=name, datatype="FP32", shape=array.shape)
        if self._script.typed:
            tensor.contents.fp32_contents.extend(array.ravel().tolist())
        else:
            answer.raw_output_contents.append(array.tobytes())


@contextmanager
def scripted_server(
    bundle: Bundle, script: Script, port: int = 0, mode: str = "full", identity: tuple[bytes, bytes] | None = None
) -> Iterator[str]:
    """Serves a bundle's model as ``widget``, encrypted if it has an identity: private key and certificate.

    Yields:
        ``HOST:PORT``.
    """
    server = grpc.server(ThreadPoolExecutor(max_workers=2), options=[("grpc.so_reuseport", 0)])
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(_Service(bundle, script, mode), server)
    place = f"127.0.0.1:{port}"
    if identity is None:
        bound = server.add_insecure_port(place)
    else:
        bound = server.add_secure_port(place, grpc.ssl_server_credentials([identity]))
    server.start()
    try:
        yield f"127.0.0.1:{bound}"
    finally:
        server.stop(None).wait(10)


def uri_of(server: str, bundle: Path, timeout_ms: int = 30_000) -> str:
    """How the model of a scripted server is named."""
    return f"grpc://{server}/widget?bundle={bundle}&timeout_ms={timeout_ms}"
