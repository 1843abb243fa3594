"""What the tests share: Ctrl-C, and where the large corpora are, for those that need them."""

import os
import signal
from pathlib import Path

import pytest

# A shell's background job ignores SIGINT, and so would every process that the tests start and stop.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder of shared corpora: ``$LMKIT_SHARED``, or ``shared`` beside the repository."""
    default = Path(__file__).resolve().parents[2].parent / "shared"
    folder = Path(os.environ.get("LMKIT_SHARED", default))
    if not folder.is_dir():
        pytest.skip(f"no shared data at {folder}; LMKIT_SHARED names another folder")
    return folder
