"""SIGINT, SIGTERM and SIGUSR1 to a request the loop reads between two steps.

Python runs signal handlers between two bytecodes of the main thread, which may be minutes away
inside a long backward pass. So the interpreter's C handler writes the signal's number to a socket
(``signal.set_wakeup_fd``), and a thread of its own reads it: it says at once that the run stops
after this step, and at the second SIGINT or SIGTERM it ends the process on the spot. Who asks once
may be heard twice: a batch queue, or torchrun, signals a process beside whoever started it, which
hands the signal on. So what comes in the same moment as the first is the first.

Handlers belong to the main thread; elsewhere (a trainer run in a worker thread) nothing is caught.
"""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

STOPPING = (signal.SIGINT, signal.SIGTERM)
SAME_MOMENT = 0.1  # seconds; nobody presses a key twice in them
MOMENT = 0.5  # seconds for what is held back of the output, whose reader may read no more


class StopSignals:
    """While entered, the first stopping signal is a request and the second is the end.

    Attributes:
        received: the signal that asked the run to stop, or None.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        """``say`` is called from another thread with the sentence for the person who pressed."""
        self.received: signal.Signals | None = None
        self._say = say
        self._save_wanted = False
        self._telling: threading.Thread | None = None
        self._previous: dict[signal.Signals, Any] = {}

    @property
    def exit_code(self) -> int:
        """What the process ends with after the signal received: 130 or 143, 0 without one."""
        return 0 if self.received is None else 128 + self.received

    def take_save_request(self) -> bool:
        """Whether SIGUSR1 asked for a checkpoint since the last call."""
        if not self._save_wanted:  # not reset then, or one that comes just now would be lost
            return False
        self._save_wanted = False
        return True

    def __enter__(self) -> Self:
        self._active = threading.current_thread() is threading.main_thread()
        if self._active:
            self._receiver, self._sender = socket.socketpair()
            self._sender.setblocking(False)
            for number in (*STOPPING, signal.SIGUSR1):
                self._previous[number] = signal.signal(number, _leave_it_to_the_watcher)
            self._previous_descriptor = signal.set_wakeup_fd(
                self._sender.fileno(), warn_on_full_buffer=False
            )
            self._watcher = threading.Thread(target=self._watch, name="lmkit-signals", daemon=True)
            self._watcher.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._active:
            return
        self._wait_until_told()  # while the second signal is heard
        signal.set_wakeup_fd(self._previous_descriptor)
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._sender.close()  # the watcher reads the end and returns
        self._watcher.join()
        self._wait_until_told()
        self._receiver.close()

    def _wait_until_told(self) -> None:
        if self._telling is not None:
            self._telling.join()

    def _watch(self) -> None:
        while numbers := self._receiver.recv(16):
            for number in numbers:
                self._take(number)

    def _take(self, number: int) -> None:
        if number == signal.SIGUSR1:
            self._save_wanted = True
        elif number in STOPPING and self.received is None:
            self.received = signal.Signals(number)
            self._first = time.monotonic()
            self._telling = _aside(
                self._tell,
                f"{self.received.name} received: stopping after this step and saving a checkpoint; "
                "once more leaves at once, without saving",
            )
        elif number in STOPPING and time.monotonic() - self._first > SAME_MOMENT:
            _aside(sys.stdout.flush).join(MOMENT)
            os._exit(128 + number)

    def _tell(self, sentence: str) -> None:
        """Say it when it is true that once more leaves at once."""
        time.sleep(SAME_MOMENT)
        self._say(sentence)


def _aside(function: Callable[..., object], *arguments: object) -> threading.Thread:
    """Call a function that may wait for a reader for ever, in a thread that nobody waits for."""
    thread = threading.Thread(target=function, args=arguments, daemon=True)
    thread.start()
    return thread


def _leave_it_to_the_watcher(number: int, frame: FrameType | None) -> None:
    """Stand in for the handler that would end the process; the byte on the socket says it all."""
