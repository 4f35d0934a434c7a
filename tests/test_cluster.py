"""Experiments on a real Ray, with faults that are real."""

from __future__ import annotations

import shutil
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from edge_ad.cluster import Resources, run_on_ray
from edge_ad.errors import ConfigError
from edge_ad.experiments import Experiment, Failure, Outcome, Report, read_report
from tests.datasets import QUICK
from tests.paper_layouts import write_mvtec3d

CONFIG = QUICK.model_copy(update={"checkpoint_every_s": 30.0})


def experiment(data: Path) -> Experiment:
    return Experiment(name=f"{data.name}-rd", data=data, label="rd", config=CONFIG)


def descendants() -> list[psutil.Process]:
    return list(psutil.Process().children(recursive=True))


def listening_addresses() -> set[str]:
    """Where the processes of a running Ray can be reached from."""
    return {
        connection.laddr.ip.removeprefix("::ffff:")
        for process in descendants()
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }


@pytest.fixture(scope="module")
def category(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "bagel"
    write_mvtec3d(root)
    return root


@pytest.mark.slow
def test_a_failed_job_is_tried_again_and_the_others_go_on(category: Path, tmp_path: Path) -> None:
    for name in ("mended", "hopeless"):
        shutil.copytree(category, tmp_path / name)
    damaged = tmp_path / "mended/train/good/rgb/002.png"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:100])
    shutil.rmtree(tmp_path / "hopeless/test/dent")
    shutil.rmtree(tmp_path / "hopeless/test/stain")
    failures: list[Failure] = []
    addresses: set[str] = set()

    def mend(failure: Failure) -> None:
        failures.append(failure)
        addresses.update(listening_addresses())
        damaged.write_bytes(whole)

    experiments = [experiment(tmp_path / "mended"), experiment(tmp_path / "hopeless")]
    outcomes: dict[str, Outcome] = {}
    for outcome in run_on_ray(experiments, tmp_path / "runs", resources=Resources(cpus=1, gpus=0), retrying=mend):
        name = outcome.name if isinstance(outcome, Failure) else outcome.experiment.name
        outcomes[name] = outcome
    assert sorted(failure.name for failure in failures) == ["hopeless-rd", "mended-rd"]
    assert "002.png" in next(failure.what for failure in failures if failure.name == "mended-rd")
    mended, hopeless = outcomes["mended-rd"], outcomes["hopeless-rd"]
    assert isinstance(mended, Report)
    assert mended == read_report(tmp_path / "runs/mended-rd")
    assert isinstance(hopeless, Failure)
    assert "cannot be evaluated" in hopeless.what
    assert addresses == {"127.0.0.1"}


@pytest.mark.slow
def test_a_job_without_gpus_sees_none_and_is_a_failure_when_its_process_dies(category: Path, tmp_path: Path) -> None:
    killed = threading.Event()
    gpus_seen: list[str | None] = []
    before = descendants()  # of the last test, if they are not gone yet

    def kill() -> None:
        while not killed.is_set():
            for process in descendants():
                if process in before:
                    continue
                with suppress(psutil.NoSuchProcess):  # Ray's helpers come and go
                    if "ray::attempt" in " ".join(process.cmdline()):
                        gpus_seen.append(process.environ().get("CUDA_VISIBLE_DEVICES"))
                        process.kill()
                        killed.set()
                        return
            time.sleep(0.05)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    try:
        (outcome,) = run_on_ray([experiment(category)], tmp_path, resources=Resources(cpus=1, gpus=0), retries=0)
    finally:
        killed.set()
        killer.join()
    assert isinstance(outcome, Failure)
    assert outcome.what == "the process of bagel-rd died"
    assert outcome.why
    assert gpus_seen == [""]


@pytest.mark.parametrize(
    ("resources", "nodes", "expected"),
    [
        (Resources(), [{"CPU": 2.0}], (2, 0.0)),
        (Resources(), [{"CPU": 16.0}], (4, 0.0)),
        (Resources(), [{"CPU": 16.0, "GPU": 1.0}], (16, 1.0)),
        (Resources(), [{"CPU": 64.0, "GPU": 8.0}], (8, 1.0)),
        (Resources(gpus=0.5), [{"CPU": 16.0, "GPU": 1.0}], (8, 0.5)),
        (Resources(gpus=0), [{"CPU": 16.0, "GPU": 1.0}], (4, 0.0)),
        (Resources(cpus=3), [{"CPU": 16.0, "GPU": 1.0}], (3, 1.0)),
        (Resources(), 8 * [{"CPU": 2.0}], (2, 0.0)),
        (Resources(), [{"CPU": 64.0}, {"CPU": 4.0, "GPU": 1.0}, {"CPU": 16.0, "GPU": 2.0}], (4, 1.0)),
        (Resources(), [{"CPU": 0.0}, {"CPU": 16.0}], (4, 0.0)),
    ],
    ids=["small", "cpu", "gpu", "gpus", "half", "no-gpu", "told", "small-nodes", "mixed-nodes", "head-without-work"],
)
def test_jobs_share_the_machines(
    resources: Resources, nodes: list[dict[str, float]], expected: tuple[int, float]
) -> None:
    cpus, gpus = resources.settled(nodes)
    assert (cpus, gpus) == expected
    assert any(node["CPU"] >= cpus and node.get("GPU", 0) >= gpus for node in nodes)


@pytest.mark.parametrize(
    ("resources", "nodes"),
    [
        (Resources(cpus=5), 2 * [{"CPU": 4.0}]),
        (Resources(gpus=1), [{"CPU": 4.0}]),
        (Resources(gpus=1), 2 * [{"CPU": 4.0, "GPU": 0.5}]),
        (Resources(cpus=8), [{"CPU": 4.0, "GPU": 1.0}, {"CPU": 64.0}]),
        (Resources(), [{"CPU": 0.0, "GPU": 1.0}, {"CPU": 64.0}]),
        (Resources(), []),
    ],
    ids=["cpus", "gpus", "halves", "cpus-beside-a-gpu", "gpu-without-cpus", "nothing"],
)
def test_a_job_that_no_machine_could_start_is_refused(resources: Resources, nodes: list[dict[str, float]]) -> None:
    with pytest.raises(ConfigError, match="lower --cpus or --gpus"):
        resources.settled(nodes)


@pytest.mark.parametrize("address", ["nowhere", "127.0.0.1:0", "127.0.0.1:99999", "127.0.0.1:http"])
def test_an_address_without_a_cluster_is_refused(address: str, category: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"Ray cannot be reached at {address}"):
        list(run_on_ray([experiment(category)], tmp_path, address=address))
