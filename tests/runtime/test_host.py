from __future__ import annotations

import threading
import time
from pathlib import Path

import psutil
import pytest

from edge_ad.runtime.host import Host


def make_sensor(root: Path, place: str, **files: str) -> None:
    directory = root / "sys/class" / place
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (directory / name).write_text(content)


def test_temperatures_of_a_jetson(tmp_path: Path) -> None:
    make_sensor(tmp_path, "thermal/thermal_zone0", type="cpu-thermal\n", temp="51531\n")
    make_sensor(tmp_path, "thermal/thermal_zone1", type="gpu-thermal\n", temp="49000\n")
    make_sensor(tmp_path, "thermal/thermal_zone2", type="cv0-thermal\n", temp="-256000\n")
    make_sensor(tmp_path, "thermal/thermal_zone3", type="tj-thermal\n")
    (tmp_path / "sys/class/thermal/thermal_zone3/temp").mkdir()  # one that cannot be read
    make_sensor(tmp_path, "hwmon/hwmon0", name="cpu_thermal\n", temp1_input="51600\n")
    assert Host(tmp_path).temperature_c() == pytest.approx({"cpu": 51.6, "gpu": 49.0})


def test_temperatures_of_a_pc(tmp_path: Path) -> None:
    make_sensor(tmp_path, "thermal/thermal_zone0", type="x86_pkg_temp\n", temp="47000\n")
    make_sensor(tmp_path, "hwmon/hwmon0", name="coretemp\n", temp1_input="47000\n", temp2_input="61000\n")
    make_sensor(tmp_path, "hwmon/hwmon1", name="nvme\n", temp1_input="38850\n", fan1_input="900\n")
    make_sensor(tmp_path, "hwmon/hwmon2", name="broken\n", temp1_input="n/a\n")
    assert Host(tmp_path).temperature_c() == pytest.approx({"x86-pkg-temp": 47.0, "coretemp": 61.0, "nvme": 38.85})


def test_what_is_not_told_is_absent(tmp_path: Path) -> None:
    figures = Host(tmp_path).figures()
    assert figures.temperature_c == {}
    assert set(figures.process) <= {"cpu_share"}


def test_the_process_agrees_with_psutil(tmp_path: Path) -> None:
    host, judge = Host(), psutil.Process()
    before = host.figures().process
    assert before["rss_bytes"] == pytest.approx(judge.memory_info().rss, rel=0.2)
    assert before["open_files"] == judge.num_fds() - 1, "psutil counts the listing of them too"
    assert before["threads"] == judge.num_threads()
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    with (tmp_path / "file").open("w"):
        after = host.figures().process
    done.set()
    thread.join()
    assert (after["open_files"], after["threads"]) == (before["open_files"] + 1, before["threads"] + 1)


def test_cpu_share_is_since_the_figures_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu_s, wall_s = 10.0, 1000.0
    monkeypatch.setattr(time, "process_time", lambda: cpu_s)
    monkeypatch.setattr(time, "monotonic", lambda: wall_s)
    host = Host(tmp_path)
    assert "cpu_share" not in host.figures().process, "over no time there is no share"
    cpu_s, wall_s = 13.0, 1002.0
    assert host.figures().process["cpu_share"] == 1.5
    wall_s = 1004.0
    assert host.figures().process["cpu_share"] == 0.0


def test_this_machine_has_plausible_temperatures() -> None:
    assert all(-40 < celsius < 150 for celsius in Host().temperature_c().values())
