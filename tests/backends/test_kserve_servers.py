"""Served models against real servers: MLServer, and Triton where it is."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from edge_ad.bundle import read_bundle
from edge_ad.data.synthetic import write_synthetic
from edge_ad.errors import EngineError
from edge_ad.predictor import open_predictor
from edge_ad.triton import export_triton
from edge_ad.types import Frame
from tests.cli.command_line import edge_ad, start
from tests.factories import make_bundle, make_feeds
from tests.serving import servers
from tests.serving.servers import Server

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


def test_two_lines_share_a_server(server: Server, sample_bundle: Path) -> None:
    lines = [start("run", "--engine", server.uri(sample_bundle), "--camera", PARTS) for _ in range(2)]
    told = [line.communicate(timeout=60) for line in lines]
    assert [line.returncode for line in lines] == [0, 0], told
    scores = [[json.loads(row)["score"] for row in stdout.splitlines()] for stdout, _ in told]
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)
    assert len(scores[0]) == 6


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
    engine = server.uri(sample_bundle, timeout_ms=1000)
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
        wait_for("gave no answer for widget within 1000 ms", "ERROR")
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
    assert "Traceback" not in stderr and "chttp2" not in stderr


def test_a_model_that_the_server_has_not_is_named(server: Server, sample_bundle: Path) -> None:
    uri = server.uri(sample_bundle).replace("/widget?", "/lid?")
    with pytest.raises(EngineError, match=rf"127.0.0.1:{server.port} (does not|cannot) run lid"):
        open_predictor(uri)


def test_a_model_of_another_training_is_refused(server: Server, tmp_path: Path) -> None:
    """Same inputs, same outputs, other weights."""
    other = make_bundle(tmp_path / "other", seed=8).directory
    with pytest.raises(EngineError, match="does not give the answers in golden.safetensors.*export-triton"):
        open_predictor(server.uri(other))
