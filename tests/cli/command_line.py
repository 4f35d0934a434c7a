"""Runs ``edge-ad`` as a user does: within this process, or in one of its own where signals and pipes matter."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from edge_ad.cli import main

CTRL_C_WORKS = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
"""Shells start what is to run in the background with Ctrl-C ignored, and it is inherited."""

MAIN = (sys.executable, "-c", f"{CTRL_C_WORKS}; from edge_ad.cli import main; main()")


@dataclass(frozen=True)
class Outcome:
    exit_code: int
    stdout: str
    stderr: str


def edge_ad(*arguments: str | Path) -> Outcome:
    stdout, stderr = io.StringIO(), io.StringIO()
    with (
        mock.patch.object(sys, "argv", ["edge-ad", *map(str, arguments)]),
        contextlib.redirect_stdout(stdout),
        contextlib.redirect_stderr(stderr),
    ):
        try:
            main()
            exit_code = 0
        except SystemExit as ending:
            exit_code = int(ending.code or 0)
    return Outcome(exit_code, stdout.getvalue(), stderr.getvalue())


def start(*arguments: str | Path, **pipes: Any) -> subprocess.Popen[str]:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **pipes}
    return subprocess.Popen([*MAIN, *map(str, arguments)], **pipes)
