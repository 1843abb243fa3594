"""Whether a process of this machine still runs: what was left by one that does not may be swept."""

import os
from pathlib import Path


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
