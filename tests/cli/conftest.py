from __future__ import annotations

from pathlib import Path

import pytest

from edge_ad import cameras
from edge_ad.cli import capture as capture_command
from edge_ad.cli import run as run_command
from edge_ad.runtime.reader import Recovery
from tests.factories import make_bundle


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample graph: 64×64 frames, threshold 4."""
    return make_bundle(tmp_path_factory.mktemp("models") / "bundle").directory


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes ``scripted://`` a camera, and giving it up for lost a matter of milliseconds."""
    monkeypatch.setitem(cameras.CAMERAS, "scripted", "tests.cli.scripted_camera:ScriptedCamera")
    monkeypatch.setattr(run_command, "RECOVERY", Recovery((0.0, 0.0), give_up_s=0.0))
    monkeypatch.setattr(capture_command, "RECOVERY", Recovery((0.0, 0.0), give_up_s=0.0))
