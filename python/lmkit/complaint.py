"""What went wrong: lines on stderr, or a line to the launcher that started this process.

Processes that train together mostly meet the same error. So they do not print it: they hand it to
the launcher, which says each once.
"""

import os
import signal
import sys
from typing import NamedTuple

# In the environment of a process that the launcher started: the number of the pipe to write to.
TO_LAUNCHER = "LMKIT_COMPLAINTS"
INTERRUPTED = 128 + signal.SIGINT


class Complaint(NamedTuple):
    """The last word of a process that failed.

    Attributes:
        message: what is wrong, and where.
        hint: what to do about it, or None.
        exit_code: what the process ends with.
        kind: the name of the error's class.
    """

    message: str
    hint: str | None
    exit_code: int
    kind: str

    def lines(self) -> str:
        """As it is printed."""
        message = one_line(self.message)
        if self.exit_code == INTERRUPTED:
            return f"{message}\n"
        return f"error: {message}\n" + (f"hint: {one_line(self.hint)}\n" if self.hint else "")

    def say(self) -> None:
        """Hand it to the launcher, or print it where there is none."""
        if not self._hand_on():
            sys.stderr.write(self.lines())

    def _hand_on(self) -> bool:
        pipe = os.environ.get(TO_LAUNCHER)
        if pipe is None:
            return False
        import json
        from select import PIPE_BUF

        line = json.dumps(self).encode() + b"\n"
        if len(line) > PIPE_BUF:  # another process's line could come into its midst
            return False
        try:
            os.write(int(pipe), line)
        except OSError:  # the launcher has gone
            return False
        return True


def one_line(text: str) -> str:
    """The text without line breaks and without escape sequences that a file's name may hold."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text.strip())
