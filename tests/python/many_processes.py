"""Runs of several processes, for the tests of what they share and of what is left when one dies."""

import subprocess
import time
from pathlib import Path

import psutil

from lmkit.lm.checkpoint_names import checkpoints_in


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    """Wait until a process has made a file."""
    deadline = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def kill_one(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Kill the second of the processes that ``lmkit train --nproc`` started; all of them."""
    children = psutil.Process(process.pid).children()
    next(child for child in children if child.environ()["RANK"] == "1").kill()
    return children


def kill_one_and_wait(process: subprocess.Popen[str], run: Path) -> int:
    """Kill one and wait for the end of the others; the last step that is saved."""
    psutil.wait_procs(kill_one(process), timeout=120)
    return checkpoints_in(run)[0][0]
