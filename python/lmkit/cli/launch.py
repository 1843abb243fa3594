"""``lmkit train --nproc N``: one command to N processes that train together, and their one end.

What torchrun does, for one machine: each process gets its place through the environment. Where one
dies the others are ended, and the run begins again from its last checkpoint, as often as allowed.
Loads no torch.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType

import click

PATIENCE = 60  # seconds the others get to end, once one has failed
RESTART_COUNT = "TORCHELASTIC_RESTART_COUNT"  # torchrun's name for it
STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM)


def launch(words: Sequence[str], nproc: int, max_restarts: int) -> int:
    """Run ``lmkit train`` with these words in ``nproc`` processes; the exit code of them all."""
    for restart in range(max_restarts + 1):
        code = _Job(words, nproc, restart).wait()
        if code == 0 or code in STOPPED or restart == max_restarts:
            break
        click.echo(
            f"note: a process ended with {code}; beginning again from the last checkpoint "
            f"(restarts left: {max_restarts - restart - 1})",
            err=True,
        )
    return code


def checkpoint_after_restart(folder: str) -> str | None:
    """``latest`` where this process was begun again, by us or by torchrun, and can go on."""
    again = os.environ.get(RESTART_COUNT, "0") != "0"
    kept = any(one.suffix in {".pt", ".dcp"} for one in Path(folder).glob("checkpoint_*"))
    return "latest" if again and kept else None


def as_words(values: Mapping[str, object]) -> list[str]:
    """Options that were given, as they are typed."""
    words: list[str] = []
    for name, value in values.items():
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no_{name}")
        else:
            words += [f"--{name}", str(value)]
    return words


class _Job:
    """N processes; a signal that ends this one goes to them."""

    def __init__(self, words: Sequence[str], nproc: int, restart: int) -> None:
        threads = str(max(1, (os.cpu_count() or 1) // nproc))
        common = {
            "OMP_NUM_THREADS": threads,
            **os.environ,
            "WORLD_SIZE": str(nproc),
            RESTART_COUNT: str(restart),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(_free_port()),
        }
        self._processes = [
            subprocess.Popen(  # noqa: S603 - lmkit itself
                [sys.executable, "-m", "lmkit", "train", *words],
                env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdin=subprocess.DEVNULL,
            )
            for rank in range(nproc)
        ]

    def wait(self) -> int:
        """Wait for all; the first process's code, or that of one that failed."""
        before = {
            number: signal.signal(number, self._pass_on)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
        }
        try:
            return self._wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            for process in self._processes:
                process.kill()
                process.wait()

    def _wait(self) -> int:
        while any(process.poll() is None for process in self._processes):
            failure = self._failure()
            if failure is not None:
                self._end_the_others()
                return failure
            time.sleep(0.05)
        return self._failure() or int(self._processes[0].returncode)

    def _failure(self) -> int | None:
        """The exit code of a process that did not end as asked."""
        codes = [process.poll() for process in self._processes]
        return next((_exit_code(code) for code in codes if code and code not in STOPPED), None)

    def _end_the_others(self) -> None:
        """Let them save what they have, but not for ever."""
        self._send(signal.SIGTERM)
        deadline = time.monotonic() + PATIENCE
        for process in self._processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))

    def _pass_on(self, number: int, _frame: FrameType | None) -> None:
        # A terminal's Ctrl-C has reached the processes already; twice would end them at once.
        if number != signal.SIGINT or not sys.stdin.isatty():
            self._send(number)

    def _send(self, number: int) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.send_signal(number)


def _exit_code(code: int) -> int:
    """As a shell tells it: 137 for a process that was killed."""
    return 128 - code if code < 0 else code


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
