"""Runs a model on a server that speaks the Open Inference Protocol (KServe v2) over gRPC: Triton, MLServer, others.

The channel connects again by itself, so a server that was away costs the frames of that time and no more.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edge_ad.backends.base import Precision, check_feeds
from edge_ad.backends.golden import golden_differences
from edge_ad.backends.kserve_uri import ServedModelUri
from edge_ad.bundle import FULL, Bundle, golden_name, read_bundle
from edge_ad.errors import ConfigError, EngineError
from edge_ad.extras import require
from edge_ad.types import AnyArray, TensorSpec

ASKING_TIMEOUT_MS = 5_000
"""At least, for what is asked when a model is opened."""

FIRST_ANSWER_TIMEOUT_MS = 30_000
"""At least, for the golden samples: a model that was not warmed up takes long for its first answer."""

WIRE = {"uint8": ("UINT8", "uint_contents"), "float32": ("FP32", "fp32_contents")}
"""Of each type that bundles have: the protocol's name, and the field of an answer that is not raw."""

EXPORT_AGAIN = (
    "name the bundle and the mode that it was exported from, and its precision; or export it again with "
    "'edge-ad export-triton'"
)

CHANNEL = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # gRPC would wait up to two minutes before it tries a server again that has been away for long.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 5000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # Without pings, a connection whose other end lost power would be trusted for a quarter of an hour.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
)


class KServeBackend:
    """A served model. Making it asks the server for nothing; :func:`open_served` does.

    Args:
        uri: where it is.
        inputs: what it takes, from the bundle.
        outputs: what it gives, from the bundle.

    Raises:
        MissingExtraError: the client is not installed.
        EngineError: the certificates cannot be read.
    """

    def __init__(self, uri: ServedModelUri, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
        # gRPC would note each lost connection on standard error; the verdicts say it.
        os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
        self._grpc = require("tritonclient.grpc", extra="triton")
        self._uri = uri
        self.name = f"{uri.model} on {uri.server}"
        self.inputs, self.outputs = tuple(inputs), tuple(outputs)
        self.timeout_ms = uri.timeout_ms
        try:
            if uri.ca is not None:
                uri.ca.read_bytes()
        except OSError as error:
            raise EngineError(f"{uri.ca} cannot be read", why=str(error), remedy="check the path in ca=") from error
        self._client = self._grpc.InferenceServerClient(
            uri.server,
            ssl=uri.tls,
            root_certificates=None if uri.ca is None else str(uri.ca),
            channel_args=list(CHANNEL),
        )

    def run(self, feeds: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
        """Sends the inputs as raw bytes and waits for the outputs; see :meth:`edge_ad.types.Backend.run`."""
        batch = check_feeds(feeds, self.inputs)
        inputs = []
        for spec in self.inputs:
            tensor = self._grpc.InferInput(spec.name, list(feeds[spec.name].shape), WIRE[spec.dtype][0])
            tensor.set_data_from_numpy(feeds[spec.name])
            inputs.append(tensor)
        outputs = [self._grpc.InferRequestedOutput(spec.name) for spec in self.outputs]
        answer = self._asked(
            "infer",
            self._uri.model,
            inputs,
            model_version=self._uri.version,
            outputs=outputs,
        ).get_response()
        return {spec.name: self._array(answer, spec, batch) for spec in self.outputs}

    def check_served(self) -> None:
        """Asks whether the server is there and runs the model, and whether that has our inputs and outputs.

        Raises:
            EngineError: it does not, or is not there.
        """
        uri = self._uri
        if not self._asked("is_server_live"):
            raise EngineError(f"{uri.server} is not live", remedy="look into the server's log")
        # Not is_server_ready: one broken model of another line would make the whole server unready.
        if not self._asked("is_model_ready", uri.model, uri.version):
            raise EngineError(
                f"{uri.server} does not run {uri.model}",
                why="the server has no such model, or is still loading it, or could not load it",
                remedy="check the name and the server's log; models are made with 'edge-ad export-triton'",
            )
        metadata = self._asked("get_model_metadata", uri.model, uri.version)
        self._check_tensors("input", self.inputs, metadata.inputs, exactly=True)
        self._check_tensors("output", self.outputs, metadata.outputs, exactly=False)

    def close(self) -> None:
        """Closes the connection; may be called twice."""
        self._client.close()

    def _asked(self, method: str, *arguments: Any, **options: Any) -> Any:
        """The answer to a call of the client.

        Raises:
            EngineError: the server does not answer in time, or with an error.
        """
        utils = require("tritonclient.utils", extra="triton")
        try:
            return getattr(self._client, method)(*arguments, client_timeout=self.timeout_ms / 1000, **options)
        except utils.InferenceServerException as error:
            raise self._error(error.status() or "", error.message()) from error

    def _error(self, status: str, details: str) -> EngineError:
        uri = self._uri
        kind = status.removeprefix("StatusCode.")
        if kind == "UNAVAILABLE":
            return EngineError(
                f"{uri.server} is not available",
                why=details,
                remedy="check the address and start the server; whoever waits for it gets answers again by itself",
            )
        if kind == "DEADLINE_EXCEEDED":
            return EngineError(
                f"{uri.server} gave no answer for {uri.model} within {self.timeout_ms:g} ms",
                why="the server hangs, is overloaded or too slow",
                remedy="look at its load; give it more instances, or more time with timeout_ms=",
            )
        return EngineError(
            f"{uri.server} cannot run {uri.model}",
            why=f"{details} ({kind})",
            remedy="look into the server's log; export the model again with 'edge-ad export-triton'",
        )

    def _check_tensors(self, kind: str, specs: Sequence[TensorSpec], served: Iterable[Any], *, exactly: bool) -> None:
        """Compares what the bundle says with the server's metadata."""
        found = {tensor.name: (tensor.datatype, list(tensor.shape)) for tensor in served}
        problems = [] if not exactly else [f"it takes {name} too" for name in found if name not in _names(specs)]
        for spec in specs:
            if spec.name not in found:
                problems.append(f"it has no {kind} {spec.name}")
                continue
            datatype, shape = found[spec.name]
            if datatype != WIRE[spec.dtype][0] or not _fits(shape, spec):
                sizes = ["N" if size is None else size for size in spec.shape]
                problems.append(
                    f"its {kind} {spec.name} is {datatype} {shape}, and the bundle's {WIRE[spec.dtype][0]} {sizes}"
                )
        if problems:
            raise EngineError(
                f"{self._uri.model} on {self._uri.server} is not what {self._uri.bundle} describes",
                why="; ".join(problems),
                remedy=EXPORT_AGAIN,
            )

    def _array(self, answer: Any, spec: TensorSpec, batch: int) -> AnyArray:
        """An output of an answer, by name, whether it came as raw bytes or as a list of numbers.

        Raises:
            EngineError: it is missing, or of another type or size.
        """
        datatype, field = WIRE[spec.dtype]
        shape = (batch, *(size for size in spec.shape[1:] if size is not None))
        raw = answer.raw_output_contents
        for place, tensor in enumerate(answer.outputs):
            if tensor.name != spec.name or tensor.datatype != datatype or not _fits([-1, *tensor.shape[1:]], spec):
                continue
            typed = getattr(tensor.contents, field)
            content = raw[place] if place < len(raw) else np.array(typed, spec.dtype).tobytes()
            if len(content) == math.prod(shape) * np.dtype(spec.dtype).itemsize:
                array: AnyArray = np.frombuffer(content, spec.dtype).reshape(shape).copy()
                return array
        raise EngineError(
            f"{self._uri.server} gave no {spec.name} of {self._uri.model}",
            why=f"its answer has no {datatype} {list(shape)} of this name",
            remedy="look into the server's log",
        )


def open_served(uri: ServedModelUri, mode: str | None = None) -> tuple[KServeBackend, Bundle, str]:
    """A served model, checked: it must have the bundle's inputs and outputs and give its golden answers.

    Args:
        uri: where it is.
        mode: the operating mode that it must be for; None for what the URI says.

    Returns:
        The backend, the bundle and the mode.

    Raises:
        ConfigError: the mode contradicts the URI.
        BundleError: the bundle is damaged or has no such mode.
        EngineError: the server is not there, or does not run this model.
        MissingExtraError: the client is not installed.
    """
    if mode is not None and uri.mode not in (None, mode):
        raise ConfigError(f"--mode {mode} and mode={uri.mode} contradict each other", remedy="leave one of them out")
    bundle, mode = read_bundle(uri.bundle), mode or uri.mode or FULL
    backend = KServeBackend(uri, *bundle.mode(mode).tensor_specs())
    try:
        backend.timeout_ms = max(uri.timeout_ms, ASKING_TIMEOUT_MS)
        backend.check_served()
        backend.timeout_ms = max(uri.timeout_ms, FIRST_ANSWER_TIMEOUT_MS)
        _check_golden(backend, bundle.directory / golden_name(mode), uri.precision)
        backend.timeout_ms = uri.timeout_ms
    except BaseException:
        backend.close()
        raise
    return backend, bundle, mode


def _check_golden(backend: KServeBackend, golden_path: Path, precision: Precision) -> None:
    for found in golden_differences(backend, golden_path, precision):
        if not found.passes:
            raise EngineError(
                f"{backend.name} in {precision} does not give the answers in {golden_path.name}",
                why=f"{found.output} differs by {found.difference:.3g}, and {found.allowed:.3g} is allowed",
                remedy=EXPORT_AGAIN,
            )


def _names(specs: Sequence[TensorSpec]) -> set[str]:
    return {spec.name for spec in specs}


def _fits(served: Sequence[int], spec: TensorSpec) -> bool:
    """Whether a server's shape, with the batch first and -1 for any size, can be the bundle's.

    Triton knows no scalars: a score is (N, 1) there.
    """
    wanted = spec.shape if len(served) == len(spec.shape) else (*spec.shape, 1)
    return len(served) == len(wanted) and all(
        size is None or given in (-1, size) for given, size in zip(served, wanted, strict=True)
    )
