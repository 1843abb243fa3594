"""What the tests share: where the large corpora are, for those that need them."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder of shared corpora: ``$LMKIT_SHARED``, or ``shared`` beside the repository."""
    default = Path(__file__).resolve().parents[2].parent / "shared"
    folder = Path(os.environ.get("LMKIT_SHARED", default))
    if not folder.is_dir():
        pytest.skip(f"no shared data at {folder}; LMKIT_SHARED names another folder")
    return folder
