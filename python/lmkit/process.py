"""Processes of this machine: whether one still runs, and how those of a run find each other.

What was left by a process that does not run any more may be swept.
"""

import os
from pathlib import Path

# In the environment of processes that train together: the number of the socket that the first
# listens on, which it was given, so that nobody else has its port. The others have it empty.
LISTENING = "LMKIT_LISTENING"


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
