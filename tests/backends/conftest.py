from __future__ import annotations

from pathlib import Path

import pytest

from tests.factories import make_bundle


@pytest.fixture(scope="session")
def sample_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundle")).directory
