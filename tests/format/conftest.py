from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support_snapshot import build_index


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one snapshot, not to be changed."""
    folder = tmp_path_factory.mktemp("snapshots")
    build_index().save(folder, generation="g", seq=5)
    return folder


@pytest.fixture
def damaged(original: Path, tmp_path: Path) -> Path:
    """A copy of the snapshot, for the test to damage."""
    folder = tmp_path / "copy"
    shutil.copytree(original, folder)
    return next(folder.iterdir())
