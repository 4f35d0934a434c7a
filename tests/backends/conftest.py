from __future__ import annotations

from pathlib import Path

import pytest

from edge_ad.cameras import camera_from_uri, opened
from edge_ad.types import Frame
from tests.factories import make_bundle


@pytest.fixture(scope="session")
def sample_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundle")).directory


@pytest.fixture
def frames() -> list[Frame]:
    """Parts that fit ``sample_bundle``."""
    camera = camera_from_uri("synthetic://?fps=0&size=64&pool=4&frames=6")
    with opened(camera):
        return [frame for frame in (camera.read(1) for _ in range(6)) if isinstance(frame, Frame)]
