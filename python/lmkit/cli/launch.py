"""``lmkit train --nproc N``: one command to N processes that train together, and their one end.

What torchrun does, for one machine: each process gets its place through the environment. Where one
dies the others are ended, and the run begins again from its last checkpoint, as often as allowed.
What several say went wrong is said once. Loads no torch.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType

import click

from lmkit.complaint import TO_LAUNCHER, Complaint
from lmkit.errors import LostProcessError
from lmkit.process import LAUNCHER, LISTENING

LOOK = 0.05  # seconds between two looks at the processes
GRACE = 5  # seconds for the others to end by themselves, once one has failed: one may say why
PATIENCE = 60  # seconds they get to end after they were asked to
RESTART_COUNT = "TORCHELASTIC_RESTART_COUNT"  # torchrun's name for it
KILLED = 128  # what a process ends with is above this by the number of the signal
STOPPED = (KILLED + signal.SIGINT, KILLED + signal.SIGTERM)
ENDED = (0, *STOPPED)
REFUSED = range(2, 6)  # misuse, or files or a system that would be the same the next time


def launch(
    words: Sequence[str],
    nproc: int,
    max_restarts: int,
    folder: str,
    say: Callable[[Complaint], None],
) -> int:
    """Run ``lmkit train`` with these words in ``nproc`` processes; the exit code of them all.

    Checkpoints that were in ``folder`` before may be another run's: only new ones are gone on from.
    What goes wrong is told to ``say``.
    """
    before, goes_on = _checkpoints(folder), False
    for restart in range(max_restarts + 1):
        code = _Job(words, nproc, restart if goes_on else 0, say).wait()
        if code == 0 or code in STOPPED or code in REFUSED or restart == max_restarts:
            break
        goes_on = bool(_checkpoints(folder) - before)
        click.echo(
            f"note: a process ended with {code}; beginning again"
            f"{' from the last checkpoint' if goes_on else ''} "
            f"(restarts left: {max_restarts - restart - 1})",
            err=True,
        )
    return code


def checkpoint_after_restart(folder: str) -> str | None:
    """The run's ``folder`` where this process was begun again, by us or torchrun, and can go on."""
    again = os.environ.get(RESTART_COUNT, "0") != "0"
    return folder if again and _checkpoints(folder) else None


def _checkpoints(folder: str) -> set[tuple[str, int, int]]:
    """The checkpoints of a run folder, each told from others of its name."""
    found = set()
    for path in Path(folder).glob("checkpoint_*"):
        if path.suffix in {".pt", ".dcp"}:
            with suppress(FileNotFoundError):  # it is pruned or set aside
                stat = path.stat()
                found.add((path.name, stat.st_ino, stat.st_mtime_ns))
    return found


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
    """N processes; a signal that ends this one goes to them, and where it is killed they stop."""

    def __init__(
        self, words: Sequence[str], nproc: int, restart: int, say: Callable[[Complaint], None]
    ) -> None:
        self._asked = words, nproc, restart
        self._say = say
        self._processes: list[subprocess.Popen[bytes]] = []
        self._is_stopped = False

    def _begin(self) -> None:
        words, nproc, restart = self._asked
        threads = str(max(1, (os.cpu_count() or 1) // nproc))
        # Closed here at the end: where the first process is gone, nobody is to answer.
        with socket.create_server(("127.0.0.1", 0)) as listening:
            common = {
                "OMP_NUM_THREADS": threads,
                **os.environ,
                "WORLD_SIZE": str(nproc),
                RESTART_COUNT: str(restart),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(listening.getsockname()[1]),
                TO_LAUNCHER: str(self._complaints.writing),
                LAUNCHER: str(self._life[0]),
            }
            for rank in range(nproc):
                own = {"RANK": str(rank), "LOCAL_RANK": str(rank), LISTENING: ""}
                inherited = [self._complaints.writing, self._life[0]]
                if rank == 0:
                    own[LISTENING] = str(listening.fileno())
                    inherited.append(listening.fileno())
                self._processes.append(_start(words, common | own, inherited))

    def wait(self) -> int:
        """Begin, and wait for all; the first process's code, or that of one that failed."""
        before = {
            number: signal.signal(number, self._pass_on)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
        }
        self._complaints = _Complaints(self._say)
        self._life = os.pipe()  # its second end is this process's alone
        try:
            self._begin()  # in here, so that no signal leaves them alone
            return self._wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            for process in self._processes:
                process.kill()
                process.wait()
            self._complaints.close()
            for end in self._life:
                os.close(end)

    def _wait(self) -> int:
        while self._some_run():
            if self._failure() is not None:
                self._end_the_others()
                break
            time.sleep(LOOK)
        return self._failure() or _exit_code(self._processes[0].returncode)

    def _some_run(self) -> bool:
        """Whether a process still runs; says what they have complained of."""
        running = any(process.poll() is None for process in self._processes)
        self._complaints.say_new()
        return running

    def _failure(self) -> int | None:
        """The exit code of the process that is the reason why not all ended as asked."""
        codes = [process.poll() for process in self._processes]
        failed = [_exit_code(code) for code in codes if code]
        if codes[0] is not None and _exit_code(codes[0]) in ENDED:
            # All is done and saved then: what kills another one after that has cost nothing.
            failed = [code for code in failed if code <= KILLED]
        # One that refused says why, one that was killed cannot; who lost another ends with 1.
        return max(
            (code for code in failed if code not in STOPPED),
            key=lambda code: (code in REFUSED, code),
            default=None,
        )

    def _end_the_others(self) -> None:
        """Let them say and save what they have, but not for ever."""
        self._wait_for_all(GRACE)
        if not self._is_stopped:  # a second request is to leave without saving
            self._send(signal.SIGTERM)
        self._wait_for_all(PATIENCE)

    def _wait_for_all(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while self._some_run() and time.monotonic() < deadline:
            time.sleep(LOOK)

    def _pass_on(self, number: int, _frame: FrameType | None) -> None:
        self._is_stopped |= number != signal.SIGUSR1
        self._send(number)

    def _send(self, number: int) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.send_signal(number)


class _Complaints:
    """A pipe that processes write to what went wrong; each thing is said once, when it comes.

    That another process is lost says nothing where that one has told why: it waits for the end.
    """

    def __init__(self, say: Callable[[Complaint], None]) -> None:
        self._say = say
        reading, self.writing = os.pipe()
        os.set_blocking(reading, False)
        self._pipe = os.fdopen(reading, "rb", buffering=0)
        self._said: set[Complaint] = set()
        self._losses: list[Complaint] = []

    def say_new(self) -> None:
        # Whole lines come: none is longer than what a pipe takes in one piece.
        for line in (self._pipe.readall() or b"").splitlines():
            complaint = Complaint(*json.loads(line))
            if complaint.kind == LostProcessError.__name__:
                self._losses.append(complaint)
            elif complaint not in self._said:
                self._said.add(complaint)
                self._say(complaint)

    def close(self) -> None:
        self.say_new()
        if self._losses and not self._said:
            self._say(self._losses[0])
        self._pipe.close()
        os.close(self.writing)


def _start(
    words: Sequence[str], environment: Mapping[str, str], inherited: Sequence[int]
) -> "subprocess.Popen[bytes]":
    """One of the processes, with the sockets and pipes that it inherits.

    In a group of its own, so that a terminal's Ctrl-C reaches it from us alone: a second one
    would end it at once.
    """
    return subprocess.Popen(  # noqa: S603 - lmkit itself
        [sys.executable, "-m", "lmkit", "train", *words],
        env=environment,
        stdin=subprocess.DEVNULL,
        pass_fds=inherited,
        process_group=0,
    )


def _exit_code(code: int) -> int:
    """As a shell tells it: 137 for a process that was killed."""
    return KILLED - code if code < 0 else code
