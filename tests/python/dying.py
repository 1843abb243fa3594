"""A process that dies, by SIGKILL, at the n-th call that changes something on the disk.

Between every two of them a machine can stop: what is there then must be of use.
"""

import os
import signal
from collections.abc import Callable
from typing import Any


def dying(after: int, *functions: tuple[Any, str]) -> None:
    """Let this process die at the call of this number, of all these functions together.

    Each is what has it, a module or a class, and its name there.
    """
    calls = 0

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls >= after > 0:  # two threads may count at once
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return call

    for owner, name in functions:
        setattr(owner, name, counted(getattr(owner, name)))
