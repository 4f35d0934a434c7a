"""Served models against a server that answers as badly as it is asked to; test_kserve_servers.py has real ones."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_ad.backends import kserve
from edge_ad.backends.kserve_uri import ServedModelUri
from edge_ad.bundle import read_bundle
from edge_ad.errors import BundleError, ConfigError, EngineError
from edge_ad.predictor import Predictor, open_predictor
from edge_ad.types import AnomalyResult, Frame
from tests.cli.command_line import edge_ad
from tests.factories import make_feeds
from tests.serving.scripted import Script, scripted_server, uri_of
from tests.serving.servers import free_ports

PARTS = "synthetic://?fps=0&size=64&pool=4&frames=6"


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def scripted(sample_bundle: Path, script: Script) -> Iterator[str]:
    """The URI of a scripted server's model."""
    with scripted_server(read_bundle(sample_bundle), script) as address:
        yield uri_of(address, sample_bundle)


def within(timeout_ms: int, uri: str) -> str:
    """The URI with less time for an answer."""
    return uri.replace("timeout_ms=30000", f"timeout_ms={timeout_ms}")


def judged_at_last(predictor: Predictor, frame: Frame, limit_s: float = 60) -> AnomalyResult:
    """Judges again and again until that works."""
    deadline_s = time.monotonic() + limit_s
    while True:
        try:
            return predictor(frame)
        except EngineError:
            if time.monotonic() > deadline_s:
                raise
        time.sleep(0.02)


def test_no_server_is_said_with_its_remedy(sample_bundle: Path) -> None:
    [port] = free_ports(1)
    done = edge_ad("run", "--engine", f"grpc://127.0.0.1:{port}/widget?bundle={sample_bundle}", "--camera", PARTS)
    assert done.exit_code == 4
    assert f"127.0.0.1:{port} is not available" in done.stderr and "remedy" in done.stderr


def test_images_travel_as_bytes_with_their_batch(scripted: str, script: Script) -> None:
    with_script = open_predictor(scripted)
    with_script.backend.run(make_feeds(2))
    size = 2 * 64 * 64
    assert script.headers == {"rgb": ("UINT8", [2, 64, 64, 3], 3 * size), "depth": ("UINT8", [2, 64, 64, 2], 2 * size)}


def test_answers_in_numbers_are_as_good_as_in_bytes(scripted: str, script: Script, frames: list[Frame]) -> None:
    predictor = open_predictor(scripted)
    raw = predictor(frames[0])
    script.typed = True
    typed = predictor(frames[0])
    np.testing.assert_array_equal(raw.anomaly_map, typed.anomaly_map)
    assert raw.score == typed.score


def without_score(answer: Any) -> None:
    del answer.outputs[1], answer.raw_output_contents[1]


def cut_short(answer: Any) -> None:
    answer.raw_output_contents[0] = answer.raw_output_contents[0][:-3]


def empty(answer: Any) -> None:
    del answer.raw_output_contents[:]


def transposed(answer: Any) -> None:
    answer.outputs[0].shape[:] = [64, 1, 64]


def integers(answer: Any) -> None:
    answer.outputs[1].datatype = "INT32"


@pytest.mark.parametrize(
    ("change", "output"),
    [
        (without_score, "score"),
        (cut_short, "anomaly_map"),
        (empty, "anomaly_map"),
        (transposed, "anomaly_map"),
        (integers, "score"),
    ],
)
def test_an_answer_that_is_none_is_an_error_of_its_frame(
    scripted: str, script: Script, frames: list[Frame], change: Callable[[Any], None], output: str
) -> None:
    predictor = open_predictor(scripted)
    good = predictor(frames[0]).score
    script.changed = change
    with pytest.raises(EngineError, match=rf"gave no {output} of widget. its answer has no FP32"):
        predictor(frames[0])
    script.changed = lambda answer: None
    assert predictor(frames[0]).score == good


def test_an_error_of_the_server_is_passed_on(scripted: str, script: Script, frames: list[Frame]) -> None:
    predictor = open_predictor(scripted)
    good = predictor(frames[0]).score
    script.failure = "the GPU fell off the bus"
    with pytest.raises(EngineError, match=r"cannot run widget. the GPU fell off the bus \(INTERNAL\). Remedy"):
        predictor(frames[0])
    script.failure = ""
    assert predictor(frames[0]).score == good


def test_a_late_answer_is_an_error(scripted: str, script: Script, frames: list[Frame]) -> None:
    predictor = open_predictor(within(100, scripted))
    script.delay_s = 0.5
    with pytest.raises(EngineError, match="gave no answer for widget within 100 ms"):
        predictor(frames[0])


def test_the_first_answer_may_take_longer(scripted: str, script: Script) -> None:
    """The golden samples, which wait for a model that nobody has warmed up."""
    script.delay_s = 0.3
    open_predictor(within(100, scripted)).close()


def test_a_server_that_hangs_while_it_is_opened(scripted: str, script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kserve, "FIRST_ANSWER_TIMEOUT_MS", 100)
    script.delay_s = 0.5
    with pytest.raises(EngineError, match="within 100 ms"):
        open_predictor(within(50, scripted))


def test_a_server_that_comes_back_is_found_again(sample_bundle: Path, script: Script, frames: list[Frame]) -> None:
    bundle = read_bundle(sample_bundle)
    with scripted_server(bundle, script) as address:
        predictor = open_predictor(uri_of(address, sample_bundle))
        good = predictor(frames[0]).score
    with pytest.raises(EngineError, match="is not available.*by itself"):
        predictor(frames[0])
    with scripted_server(bundle, script, port=int(address.rpartition(":")[2])):
        assert judged_at_last(predictor, frames[0]).score == good


def test_a_model_that_still_loads_is_said(scripted: str, script: Script) -> None:
    script.ready = False
    with pytest.raises(EngineError, match="does not run widget.*still loading"):
        open_predictor(scripted)


def no_depth(metadata: Any) -> None:
    del metadata.inputs[1]


def one_more_input(metadata: Any) -> None:
    metadata.inputs.add(name="gain", datatype="FP32", shape=[-1])


def float_colour(metadata: Any) -> None:
    metadata.inputs[0].datatype = "FP32"


def smaller_map(metadata: Any) -> None:
    metadata.outputs[0].shape[1] = 32


def one_more_output(metadata: Any) -> None:
    metadata.outputs.add(name="debug", datatype="FP32", shape=[-1, 9])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (no_depth, "it has no input depth"),
        (one_more_input, "it takes gain too"),
        (float_colour, r"its input rgb is FP32 \[-1, 64, 64, 3\], and the bundle's UINT8 \['N', 64, 64, 3\]"),
        (smaller_map, r"its output anomaly_map is FP32 \[-1, 32, 64\]"),
    ],
)
def test_another_model_is_refused_by_its_metadata(
    scripted: str, script: Script, change: Callable[[Any], None], told: str
) -> None:
    script.described = change
    with pytest.raises(EngineError, match=f"is not what .* describes. {told}"):
        open_predictor(scripted)


def test_outputs_that_nobody_asks_for_do_no_harm(scripted: str, script: Script) -> None:
    script.described = one_more_output
    open_predictor(scripted).close()


def test_the_mode_comes_from_the_uri_or_the_command(bundle_directory: Path, script: Script) -> None:
    bundle = read_bundle(bundle_directory)
    with scripted_server(bundle, script, mode="rgb_only") as address:
        uri = uri_of(address, bundle_directory)
        for predictor in (open_predictor(uri, "rgb_only"), open_predictor(f"{uri}&mode=rgb_only")):
            assert predictor.mode == "rgb_only"
            assert predictor.threshold == bundle.thresholds.modes["rgb_only"].value
            predictor.close()
        with pytest.raises(ConfigError, match="--mode full and mode=rgb_only contradict each other"):
            open_predictor(f"{uri}&mode=rgb_only", "full")
        with pytest.raises(EngineError, match="it has no input depth"):
            open_predictor(uri)
        with pytest.raises(BundleError, match="has no mode 4d"):
            open_predictor(uri, "4d")


def test_the_precision_sets_the_tolerance(scripted: str, script: Script) -> None:
    """1 % off is what float16 may be, not float32."""

    def slightly_off(answer: Any) -> None:
        for place, content in enumerate(answer.raw_output_contents):
            answer.raw_output_contents[place] = (1.01 * np.frombuffer(content, np.float32)).astype(np.float32).tobytes()

    script.changed = slightly_off
    open_predictor(f"{scripted}&precision=fp16").close()
    with pytest.raises(EngineError, match="in fp32 does not give the answers"):
        open_predictor(scripted)


def test_a_uri_is_taken_apart() -> None:
    uri = ServedModelUri.parse("grpc://box:8001/lid?bundle=/data/a%20b%26c+d&timeout_ms=50&precision=int8&version=2")
    assert (uri.server, uri.model, uri.bundle, uri.tls) == ("box:8001", "lid", Path("/data/a b&c+d"), False)
    assert (uri.timeout_ms, uri.precision, uri.version, uri.mode) == (50, "int8", "2", None)
    assert ServedModelUri.parse("grpcs://[::1]:1/lid?bundle=b&ca=ca.pem").tls


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("http://box:8000/lid?bundle=b", "http:// is not grpc or grpcs"),
        ("grpc://box/lid?bundle=b", "server is not valid"),
        ("grpc://box:8001?bundle=b", "model is not valid"),
        ("grpc://box:8001/lid", "bundle is not valid"),
        ("grpc://box:8001/lid?bundle=", "bundle is given no value"),
        ("grpc://box:8001/lid?bundle=b&bundle=c", "bundle is given twice"),
        ("grpc://box:8001/lid?bundle=b&tls=1", "there is no option tls"),
        ("grpc://box:8001/lid?bundle=b&timeout_ms=0", "timeout_ms is not valid"),
        ("grpc://box:8001/lid?bundle=b&precision=fp8", "precision is not valid"),
        ("grpc://box:8001/lid?bundle=b&ca=ca.pem", "ca is for grpcs"),
    ],
)
def test_a_uri_that_is_wrong_is_said(text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        open_predictor(text)
    assert text in str(caught.value) and "Remedy" in str(caught.value)


def test_results_of_a_server_need_a_place(tmp_path: Path) -> None:
    done = edge_ad("evaluate", "grpc://box:8001/lid?bundle=b", tmp_path)
    assert done.exit_code == 2
    assert "add --output DIRECTORY" in done.stderr


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_an_encrypted_connection_trusts_the_certificates_it_is_given(sample_bundle: Path, tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "ca.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
        + ["-subj", "/CN=box", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)],
        check=True,
        capture_output=True,
    )
    identity = (key.read_bytes(), certificate.read_bytes())
    with scripted_server(read_bundle(sample_bundle), Script(), identity=identity) as address:
        uri = uri_of(address, sample_bundle)
        open_predictor(uri.replace("grpc://", "grpcs://") + f"&ca={certificate}").close()
        for untrusted in (uri.replace("grpc://", "grpcs://"), uri):
            with pytest.raises(EngineError, match="is not available"):
                open_predictor(untrusted)


def test_certificates_that_are_missing_are_named(sample_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"ca\.pem cannot be read"):
        open_predictor(f"grpcs://127.0.0.1:1/widget?bundle={sample_bundle}&ca={tmp_path / 'ca.pem'}")
