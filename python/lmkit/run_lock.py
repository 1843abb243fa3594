"""Whether a training run is going on in a folder, told from outside, without torch."""

import socket
from pathlib import Path

from lmkit.process import is_alive

LOCK_NAME = "run.lock"


def is_going(folder: Path) -> bool:
    """Whether the process that ``run.lock`` names is alive; one on another machine is believed to.

    The lock itself is not tried: a run that starts at that moment would find it taken. The file
    stays when a run ends, so that it is there says nothing.
    """
    try:
        words = (folder / LOCK_NAME).read_text(encoding="utf-8").split()
        process, host = int(words[1]), words[3]
    except (OSError, ValueError, IndexError):
        return False
    return host != socket.gethostname() or is_alive(process)
