"""What the tests share: Ctrl-C, tiny inputs, and where the large corpora are."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

# A shell's background job ignores SIGINT, and so would every process that the tests start and stop.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Beside others a process of pytest-xdist computes on its share of the cores, and so do those it
# starts: threads of torch that outnumber the cores mostly wait for each other.
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    share = (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, share)))


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder of shared corpora: ``$LMKIT_SHARED``, or ``shared`` beside the repository."""
    default = Path(__file__).resolve().parents[2].parent / "shared"
    folder = Path(os.environ.get("LMKIT_SHARED", default))
    if not folder.is_dir():
        pytest.skip(f"no shared data at {folder}; LMKIT_SHARED names another folder")
    return folder


@pytest.fixture(scope="module")
def on_one_thread() -> Iterator[None]:
    """Compute on one thread while the tests of a module run; see `tiny_run.one_thread`."""
    from tiny_run import one_thread  # loads torch, which most tests do without

    with one_thread():
        yield


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The settings that name what a tiny run learns from, for all tests of a module."""
    from tiny_run import make_inputs

    return make_inputs(tmp_path_factory.mktemp("inputs"))
