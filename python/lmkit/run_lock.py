"""Whether a training run is going on in a folder, told from outside, without torch."""

import os
import socket
from pathlib import Path

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
    if host != socket.gethostname():
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True  # it is somebody else's, but it is there
    return True
