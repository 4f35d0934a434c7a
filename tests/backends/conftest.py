from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest

from edge_ad.backends.tensorrt import loader
from edge_ad.cameras import camera_from_uri, opened
from edge_ad.errors import EngineError
from edge_ad.types import Frame
from tests.factories import make_bundle


@pytest.fixture(scope="session")
def sample_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundle")).directory


@pytest.fixture(scope="module")
def builder() -> ModuleType:
    """Skips where TensorRT is not installed, or is one that needs a driver that is absent; a broken one fails."""
    if not any(find_spec(name) for name in ("tensorrt", "tensorrt_rtx")):
        pytest.skip("TensorRT is not installed")
    trt = loader.load_tensorrt()
    if not loader.builds_without_driver(trt):
        try:
            loader.require_driver()
        except EngineError as error:
            pytest.skip(str(error))
    return trt


@pytest.fixture
def frames() -> list[Frame]:
    """Parts that fit ``sample_bundle``."""
    camera = camera_from_uri("synthetic://?fps=0&size=64&pool=4&frames=6")
    with opened(camera):
        return [frame for frame in (camera.read(1) for _ in range(6)) if isinstance(frame, Frame)]
