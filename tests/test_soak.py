"""Two minutes of the soak run: every fault once, and each part still gets one verdict, in order, in time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).parents[1] / "scripts" / "soak.py"


@pytest.mark.slow
def test_a_line_keeps_its_promises_under_every_fault(tmp_path: Path) -> None:
    command = [sys.executable, SOAK, "--minutes", "2", "--output", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=550, check=False)
    assert (tmp_path / "report.json").is_file(), done.stderr[-3000:]
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["broken_promises"] == []
    assert done.returncode == 0
    assert report["verdicts"] == report["triggers"] > 300
    assert report["decisions"]["OK"] + report["decisions"]["NG"] > 0.4 * report["triggers"]
    assert report["modes"]["rgb_only"] > 0, "without depth, colour judges"
    # Without a mount or a compiler two of them cannot happen.
    assert set(report["kinds_of_fault"]) - set(report["faults"]) <= {"full disk", "clock jump"}
