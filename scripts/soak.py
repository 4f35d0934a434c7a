"""A line under every fault there is, for minutes or for days: does each part get one verdict, in order, in time?

Trains a small model of a synthetic product, starts ``edge-ad run`` on it as a user would, announces parts to it
over TCP, and meanwhile does to it what happens in plants: see ``soak_faults.py``. At the end the books are
audited. Leaves with 1 where a promise is broken.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from soak_faults import FAULTS, Scene, errors_in_peace, recoveries
from soak_plc import Plc, audit

RATE_PER_S = 6.0
LEAST_GAP_S = 0.08
BUDGET_MS = 500
SLACK_S = 0.02
"""Of the wire and of this process, in which the answers' times are taken."""
CAMERA = "soak://{control}?width=640&height=480&fps=30&pool=4&defect_rate=0.2"
LIMIT_MB_PER_H = 1.0
SAMPLE_S = 2.0
KEPT_PICTURES = 20
CONFIG = """
model = "rd"
steps = 16

[preprocess]
image_size_px = 64
modalities = ["rgb", "depth"]
"""
HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="directory for the report, samples and the line's own log")
    parser.add_argument("--bundle", type=Path, help="of 640×480 synthetic frames; by default one is trained")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        output = options.output or directory
        output.mkdir(parents=True, exist_ok=True)
        bundle = options.bundle or train(directory)
        report = soak(bundle, directory, output, 60 * options.minutes, options.seed)
    (output / "report.json").write_text(json.dumps(report, indent=1))
    print(json.dumps({name: value for name, value in report.items() if name != "line"}, indent=1))
    for problem in report["broken_promises"]:
        print(f"broken: {problem}", file=sys.stderr)
    sys.exit(bool(report["broken_promises"]))


def train(directory: Path) -> Path:
    """A small model with both sensors, and with one where the other fails."""
    camera = "synthetic://?width=640&height=480&fps=0&defect_rate=0&pool=24"
    config = directory / "config.toml"
    config.write_text(CONFIG)
    captures, run, bundle = (str(directory / name) for name in ("captures", "run", "bundle"))
    for arguments in (
        ("capture", captures, "--camera", camera, "--frames", "24"),
        ("train", captures, "--output", run, "--config", str(config)),
        ("export", run, "--output", bundle),
    ):
        subprocess.run([sys.executable, "-m", "edge_ad", *arguments], check=True, stdout=2)
    return Path(bundle)


@contextmanager
def plug_in(directory: Path) -> Iterator[dict[str, str]]:
    """The environment in which ``soak://`` is a camera, by an entry point as any other driver has."""
    info = directory / "soak_camera-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: soak-camera\nVersion: 0\n")
    (info / "entry_points.txt").write_text("[edge_ad.cameras]\nsoak = soak_camera:SoakCamera\n")
    paths = [str(directory), str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")]
    yield {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}


def soak(bundle: Path, directory: Path, output: Path, duration_s: float, seed: int) -> dict[str, Any]:
    """Runs the line for so long, and returns what came of it."""
    with plug_in(directory) as environment, Scene.prepared(directory, environment) as scene:
        command = [
            *(sys.executable, "-m", "edge_ad", "run", "--engine", str(bundle), "--json"),
            *("--camera", CAMERA.format(control=scene.control), "--trigger", f"tcp://127.0.0.1:{scene.port}"),
            *("--deadline-ms", str(BUDGET_MS), "--jsonl", str(scene.disk / "inspections.jsonl")),
            *("--sqlite", str(scene.database), "--overlays", str(scene.disk / "overlays")),
        ]
        with (output / "line.log").open("w") as log, (output / "line.json").open("w+") as result:
            line = subprocess.Popen(command, stdout=result, stderr=log, env=environment)
            try:
                plc = connected(scene.port, line)
                scene.attach(line.pid, plc)
                samples = operated(scene, plc, line, duration_s, random.Random(seed))
                time.sleep(2 * BUDGET_MS / 1000)
                line.terminate()
                line.wait(60)
            finally:
                line.kill()
            result.seek(0)
            own = json.loads(result.read() or "{}")
    return report_of(plc, scene, samples, own, line.returncode, output)


def connected(port: int, line: subprocess.Popen[bytes]) -> Plc:
    """A client, once the line listens and lives."""
    deadline_s = time.monotonic() + 60
    while True:
        try:
            plc = Plc(port)
            break
        except OSError:
            if line.poll() is not None or time.monotonic() > deadline_s:
                raise
            time.sleep(0.2)
    while not plc.books.heartbeats and time.monotonic() < deadline_s:
        time.sleep(0.05)
    return plc


def operated(
    scene: Scene, plc: Plc, line: subprocess.Popen[bytes], duration_s: float, chance: random.Random
) -> list[dict[str, float]]:
    """Parts, faults and samples, until the time is up."""
    stop = threading.Event()
    samples: list[dict[str, float]] = []
    workers: list[Callable[[], None]] = [
        lambda: pass_parts(plc, stop, chance),
        lambda: sample(line.pid, stop, samples),
        lambda: tidy(scene.disk / "overlays", stop),
    ]
    threads = [threading.Thread(target=worker, daemon=True) for worker in workers]
    for thread in threads:
        thread.start()
    scene.play(duration_s, line)
    stop.set()
    for thread in threads:
        thread.join(30)
    return samples


def pass_parts(plc: Plc, stop: threading.Event, chance: random.Random) -> None:
    """Announces parts at random times; one in fifty twice, and now and then what is no part."""
    number = 0
    while not stop.wait(LEAST_GAP_S + chance.expovariate(1 / (1 / RATE_PER_S - LEAST_GAP_S))):
        number += 1
        plc.announce(f"part-{number}")
        if chance.random() < 0.02:
            plc.announce(f"part-{number}")
        if chance.random() < 0.005:
            plc.send('{"no": "part"}\n')


def tidy(overlays: Path, stop: threading.Event) -> None:
    """Keeps the newest pictures, as a plant's own clean-up would: the disk is small."""
    while not stop.wait(1.0):
        for picture in sorted(overlays.glob("*.png"))[:-KEPT_PICTURES]:
            picture.unlink(missing_ok=True)


def sample(process_id: int, stop: threading.Event, samples: list[dict[str, float]]) -> None:
    """Memory, handles and threads of the line, every few seconds."""
    line = psutil.Process(process_id)
    started_s = time.monotonic()
    while not stop.wait(SAMPLE_S):
        try:
            with line.oneshot():
                memory = line.memory_full_info()
                samples.append(
                    {
                        "at_s": time.monotonic() - started_s,
                        "rss_mb": (memory.rss - memory.shared) / 1e6,
                        "handles": line.num_fds(),
                        "threads": line.num_threads(),
                        "cpu_s": sum(line.cpu_times()[:2]),
                    }
                )
        except psutil.Error:
            return


def slope_mb_per_h(samples: list[dict[str, float]]) -> float:
    """Theil-Sen slope of the private memory after warm-up, the first third of the run."""
    settled = samples[len(samples) // 3 :]
    times_h = np.array([one["at_s"] for one in settled]) / 3600
    sizes = np.array([one["rss_mb"] for one in settled])
    if len(settled) < 10:
        return math.nan
    step = max(1, len(settled) // 400)
    times_h, sizes = times_h[::step], sizes[::step]
    first, second = np.triu_indices(len(times_h), 1)
    return float(np.median((sizes[second] - sizes[first]) / (times_h[second] - times_h[first])))


def report_of(
    plc: Plc, scene: Scene, samples: list[dict[str, float]], own: dict[str, Any], code: int, output: Path
) -> dict[str, Any]:
    """All figures, and the promises that they break."""
    (output / "samples.json").write_text(json.dumps(samples))
    settled = samples[len(samples) // 3 :] or samples
    figures = audit(plc.books, BUDGET_MS / 1000 + SLACK_S)
    found = recoveries(scene, plc.books)
    span_h = (settled[-1]["at_s"] - settled[0]["at_s"]) / 3600
    slope = slope_mb_per_h(samples)
    broken = [
        f"{name}: {figures[name]}"
        for name in ("unanswered", "answered_twice", "unknown_parts", "out_of_order", "late_ok_or_ng")
        if figures[name]
    ]
    broken += [f"{name}: {one}" for name, kind in found.items() for one in kind["broken"]]
    if code != 0 and not own.get("sink_errors"):
        broken.append(f"the line left with {code}")
    if span_h > 0.5 and not slope < LIMIT_MB_PER_H:
        broken.append(f"memory grows by {slope:.2f} MB/h")
    handles = [one["handles"] for one in settled]
    if np.median(handles[-10:]) > np.median(handles[:10]) + 2:
        broken.append(f"handles grow from {np.median(handles[:10]):.0f} to {np.median(handles[-10:]):.0f}")
    beats = np.diff(plc.books.heartbeats)
    return {
        **figures,
        "in_peace": errors_in_peace(scene, plc.books),
        "faults": found,
        "memory": {"slope_mb_per_h": slope, "over_h": span_h, "mb": [settled[0]["rss_mb"], settled[-1]["rss_mb"]]},
        "handles": [min(handles), max(handles)],
        "threads": [min(one["threads"] for one in settled), max(one["threads"] for one in settled)],
        "cpu_share": (samples[-1]["cpu_s"] - samples[0]["cpu_s"]) / (samples[-1]["at_s"] - samples[0]["at_s"]),
        "longest_without_heartbeat_s": float(beats.max()) if len(beats) else None,
        "refused_lines": plc.books.refused,
        "kinds_of_fault": list(FAULTS),
        "broken_promises": broken,
        "line": own,
    }


if __name__ == "__main__":
    main()
