"""Processes of this machine: whether one still runs, and how those of a run find each other.

What was left by a process that does not run any more may be swept.
"""

import os
import signal
import threading
import time
from pathlib import Path

# In the environment of processes that train together: the number of the socket that the first
# listens on, which it was given, so that nobody else has its port. The others have it empty.
LISTENING = "LMKIT_LISTENING"
# The number of a pipe whose other end is their launcher's, and goes with it.
LAUNCHER = "LMKIT_LAUNCHER"
LAST_SAVE = 600  # seconds that a process without its launcher gets to save and end


def end_with_launcher() -> None:
    """Let this process be asked to stop, as by SIGTERM, when its launcher is gone, even killed."""
    pipe = os.environ.get(LAUNCHER)
    if pipe is not None:
        threading.Thread(target=_outlive, args=(int(pipe),), daemon=True).start()


def _outlive(pipe: int) -> None:
    os.read(pipe, 1)  # nothing is ever written to it: this is its end
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(LAST_SAVE)
    os._exit(128 + signal.SIGTERM)


def is_alive(process: int) -> bool:
    """Whether a process of this number runs, whoever owns it; where nobody can say, it does."""
    if os.name == "nt":  # nobody can say without opening the process
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # another user's
        return True
    return not _is_zombie(process)


def _is_zombie(process: int) -> bool:
    """Whether it has ended, and its parent has not asked after it yet."""
    try:
        state = Path(f"/proc/{process}/stat").read_bytes().rpartition(b") ")[2]
    except OSError:  # another system
        return False
    return state.startswith(b"Z")
