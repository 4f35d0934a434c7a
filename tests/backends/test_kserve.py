"""Served models: against real servers, and against one that answers as badly as it is asked to."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_ad.backends import kserve
from edge_ad.backends.kserve_uri import ServedModelUri
from edge_ad.bundle import read_bundle
from edge_ad.cameras import camera_from_uri, opened
from edge_ad.data.synthetic import write_synthetic
from edge_ad.errors import BundleError, ConfigError, EngineError
from edge_ad.predictor import Predictor, open_predictor
from edge_ad.triton import export_triton
from edge_ad.types import Frame
from tests.cli.command_line import edge_ad, start
from tests.factories import make_bundle, make_feeds
from tests.serving import servers
from tests.serving.scripted import Script, scripted_server, uri_of
from tests.serving.servers import Server, free_ports

PARTS = "synthetic://?fps=0&size=64&pool=4&frames=6"
LIVE = "synthetic://?fps=50&size=64&pool=2"
SERVERS = [
    pytest.param(
        "mlserver",
        id="MLServer",
        marks=pytest.mark.skipif(find_spec("mlserver") is None, reason="there is no MLServer for this Python"),
    ),
    pytest.param(
        "triton",
        id="Triton",
        marks=pytest.mark.skipif(not servers.triton_is_here(), reason="scripts/test unpacks pip's Triton"),
    ),
]


@pytest.fixture(scope="module")
def exported(sample_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle's model in a repository."""
    return export_triton(read_bundle(sample_bundle).directory, tmp_path_factory.mktemp("models"), max_batch=4).directory


@pytest.fixture(scope="module", params=SERVERS)
def server(
    request: pytest.FixtureRequest, exported: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    running: Server = getattr(servers, request.param)(exported, tmp_path_factory.mktemp(request.param))
    running.start()
    yield running
    running.stop()


@pytest.fixture
def frames() -> list[Frame]:
    camera = camera_from_uri(PARTS)
    with opened(camera):
        return [frame for frame in (camera.read(1) for _ in range(6)) if isinstance(frame, Frame)]


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def scripted(sample_bundle: Path, script: Script) -> Iterator[str]:
    """The URI of a scripted server's model."""
    with scripted_server(read_bundle(sample_bundle), script) as address:
        yield uri_of(address, sample_bundle)


def run_until(predictor: Predictor, frame: Frame, wanted: type[Exception] | None, limit_s: float = 20) -> list[str]:
    """Judges again and again until that works, or fails as ``wanted``; the errors on the way."""
    told: list[str] = []
    deadline_s = time.monotonic() + limit_s
    while time.monotonic() < deadline_s:
        try:
            predictor(frame)
            if wanted is None:
                return told
        except EngineError as error:
            told.append(str(error))
            if wanted is EngineError:
                return told
        time.sleep(0.02)
    raise AssertionError(f"nothing changed within {limit_s} s: {told[-3:]}")


def test_a_served_model_judges_like_its_bundle(server: Server, sample_bundle: Path, frames: list[Frame]) -> None:
    served, local = open_predictor(server.uri(sample_bundle)), open_predictor(sample_bundle)
    for frame in frames:
        ours, theirs = served(frame), local(frame)
        np.testing.assert_allclose(ours.anomaly_map, theirs.anomaly_map, atol=1e-4)
        assert ours.score == pytest.approx(theirs.score, abs=1e-4)
    assert (served.model_id, served.threshold, served.mode) == (local.model_id, local.threshold, "full")
    assert served.description == f"rd rgb+normals, widget on 127.0.0.1:{server.port} fp32"
    served.close()
    served.close()


def test_a_batch_goes_through_whole(server: Server, sample_bundle: Path) -> None:
    served, local = open_predictor(server.uri(sample_bundle)), open_predictor(sample_bundle)
    feeds = make_feeds(3, seed=5)
    ours, theirs = served.backend.run(feeds), local.backend.run(feeds)
    assert {name: array.shape for name, array in ours.items()} == {"anomaly_map": (3, 64, 64), "score": (3,)}
    for name, array in ours.items():
        np.testing.assert_allclose(array, theirs[name], atol=1e-4)
        array += 1  # it is ours
    served.close()


def test_the_line_runs_on_a_server(server: Server, sample_bundle: Path) -> None:
    lines = []
    for engine in (server.uri(sample_bundle), str(sample_bundle)):
        done = edge_ad("run", "--engine", engine, "--camera", PARTS)
        assert done.exit_code == 0, done.stderr
        lines.append([json.loads(line) for line in done.stdout.splitlines()])
    assert [line["decision"] for line in lines[0]] == [line["decision"] for line in lines[1]]
    assert [line["score"] for line in lines[0]] == pytest.approx([line["score"] for line in lines[1]], abs=1e-4)
    assert len(lines[0]) == 6


def test_a_served_model_is_evaluated(server: Server, sample_bundle: Path, tmp_path: Path) -> None:
    write_synthetic(tmp_path / "data", train=1, validation=1, test_good=3, test_per_defect=1, size_px=64)
    reports = []
    for model in (server.uri(sample_bundle), str(sample_bundle)):
        done = edge_ad("evaluate", model, tmp_path / "data", "--output", tmp_path / "report", "--json")
        assert done.exit_code == 0, done.stderr
        reports.append(json.loads(done.stdout)["metrics"])
    assert reports[0] == pytest.approx(reports[1], abs=1e-3)
    assert (tmp_path / "report" / "report.html").is_file()


def test_a_server_that_hangs_or_dies_costs_its_time_and_no_more(server: Server, sample_bundle: Path) -> None:
    """The whole line, while the server is stopped, goes on, is killed and is started again."""
    engine = server.uri(sample_bundle, "&timeout_ms=300")
    line = start("run", "--engine", engine, "--camera", LIVE)
    assert line.stdout is not None

    def wait_for(text: str, decision: str) -> None:
        for row in line.stdout or ():
            inspection = json.loads(row)
            if inspection["decision"] in decision and text in inspection.get("reason", ""):
                return
        raise AssertionError(f"the line ended: {line.communicate()[1]}")

    try:
        wait_for("", "OK NG")
        server.send(signal.SIGSTOP)
        wait_for("gave no answer for widget within 300 ms", "ERROR")
        server.send(signal.SIGCONT)
        wait_for("", "OK NG")
        server.stop()
        wait_for("is not available", "ERROR")
        server.start()
        wait_for("", "OK NG")
        line.send_signal(signal.SIGINT)
        _, stderr = line.communicate(timeout=30)
    finally:
        line.kill()
        line.communicate()
        server.stop()
        server.start()
    assert line.returncode == 0, stderr
    assert "Traceback" not in stderr


def test_a_model_that_the_server_has_not_is_named(server: Server, sample_bundle: Path) -> None:
    uri = server.uri(sample_bundle).replace("/widget?", "/lid?")
    with pytest.raises(EngineError, match=rf"127.0.0.1:{server.port} (does not|cannot) run lid"):
        open_predictor(uri)


def test_a_model_of_another_training_is_refused(server: Server, tmp_path: Path) -> None:
    """Same inputs, same outputs, other weights."""
    other = make_bundle(tmp_path / "other", seed=8).directory
    with pytest.raises(EngineError, match="does not give the answers in golden.safetensors.*export-triton"):
        open_predictor(server.uri(other))


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
    script.failure = "the GPU fell off the bus"
    with pytest.raises(EngineError, match=r"cannot run widget. the GPU fell off the bus \(INTERNAL\). Remedy"):
        predictor(frames[0])
    script.failure = ""
    assert run_until(predictor, frames[0], None) == []


def test_a_late_answer_is_an_error(scripted: str, script: Script, frames: list[Frame]) -> None:
    predictor = open_predictor(f"{scripted}&timeout_ms=100")
    script.delay_s = 0.5
    with pytest.raises(EngineError, match="gave no answer for widget within 100 ms"):
        predictor(frames[0])


def test_the_first_answer_may_take_longer(scripted: str, script: Script) -> None:
    """The golden samples, which wait for a model that nobody has warmed up."""
    script.delay_s = 0.3
    open_predictor(f"{scripted}&timeout_ms=100").close()


def test_a_server_that_hangs_while_it_is_opened(scripted: str, script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kserve, "FIRST_ANSWER_TIMEOUT_MS", 100)
    script.delay_s = 0.5
    with pytest.raises(EngineError, match="within 100 ms"):
        open_predictor(f"{scripted}&timeout_ms=50")


def test_a_server_that_comes_back_is_found_again(sample_bundle: Path, script: Script, frames: list[Frame]) -> None:
    bundle = read_bundle(sample_bundle)
    with scripted_server(bundle, script) as address:
        predictor = open_predictor(uri_of(address, sample_bundle))
        good = predictor(frames[0]).score
    told = run_until(predictor, frames[0], EngineError)
    assert "is not available" in told[-1] and "by itself" in told[-1]
    with scripted_server(bundle, script, port=int(address.rpartition(":")[2])):
        run_until(predictor, frames[0], None)
        assert predictor(frames[0]).score == good


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


def test_certificates_that_are_missing_are_named(sample_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"ca\.pem cannot be read"):
        open_predictor(f"grpcs://127.0.0.1:1/widget?bundle={sample_bundle}&ca={tmp_path / 'ca.pem'}")
