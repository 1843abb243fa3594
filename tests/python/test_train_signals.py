"""Signals: the first is a request and is answered at once, the second ends the process."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lmkit.lm.signals import StopSignals
from tiny_run import environment, flags, make_inputs, settings

# One call of minutes that holds the interpreter's main thread, as a backward pass does, but not the
# lock, and that no signal cuts short.
BUSY = """
import hashlib
from lmkit.lm.signals import StopSignals
with StopSignals(lambda text: print(text, flush=True)) as signals:
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 1_000_000_000)
print("left", signals.received)
raise SystemExit(signals.exit_code)
"""


# One that waits for its reader, as does what it says of signals.
UNREAD = """
from lmkit.lm.signals import StopSignals
with StopSignals(lambda text: print(text * 9999, flush=True)):
    print("ready", flush=True)
    while True:  # where Python holds nothing back, a signal cuts one short
        print("x" * 999_999)
"""


# `lmkit train` with such a call in its backward pass.
LONG_BACKWARD = """
import hashlib, sys, torch
from lmkit.__main__ import run

class Long(torch.autograd.Function):
    @staticmethod
    def forward(ctx, loss):
        return loss.clone()

    @staticmethod
    def backward(ctx, gradient):
        print("in backward", flush=True)
        hashlib.pbkdf2_hmac("sha256", b"", b"", 1_000_000_000)
        print("out of backward", flush=True)
        return gradient

backward = torch.Tensor.backward
torch.Tensor.backward = lambda loss: backward(Long.apply(loss))
sys.argv[0] = "lmkit"
run()
"""


# What a queue does that signals a process, and the launcher that hands it on.
TWICE_AT_ONCE = """
import os, signal, time
from lmkit.lm.signals import StopSignals
with StopSignals(lambda text: None) as signals:
    print("ready", flush=True)
    for _ in range(2):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.02)
raise SystemExit(f"left in peace after {signals.received.name}")
"""


def start(script: str) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_is_answered_inside_a_long_call_and_the_second_leaves(number: signal.Signals):
    process = start(BUSY)
    process.send_signal(number)
    assert process.stdout is not None
    assert process.stdout.readline().startswith(f"{number.name} received: stopping after this step")
    process.send_signal(number)
    assert process.communicate()[0] == ""  # it never came out of the call
    assert process.returncode == 128 + number


def test_the_second_leaves_though_nobody_reads_the_output():
    """As where a pager has been given standard output and error, and shows its first page."""
    process = start(UNREAD)
    while process.poll() is None:  # the first may come while the second is told
        process.send_signal(signal.SIGINT)
        time.sleep(0.05)
    assert process.returncode == 130
    process.stdout.close()


def test_two_in_the_same_moment_are_one():
    done = subprocess.run(
        [sys.executable, "-c", TWICE_AT_ONCE], capture_output=True, text=True, check=False
    )
    assert done.stderr == "left in peace after SIGTERM\n"


def test_a_run_answers_inside_its_backward_pass_and_leaves_at_the_second(tmp_path: Path):
    given = settings(make_inputs(tmp_path), tmp_path / "run", max_iters=10)
    process = subprocess.Popen(
        [sys.executable, "-c", LONG_BACKWARD, "train", *flags(given)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(),
    )
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if line == "in backward\n":
            break
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline().startswith("note: SIGINT received: stopping"), said
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate()
    assert process.returncode == 130
    assert rest == ""
    assert not list((tmp_path / "run").glob("checkpoint_*.pt"))


def test_the_request_is_read_between_steps_and_the_handlers_come_back():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    said: list[str] = []
    with StopSignals(said.append) as signals:
        assert signals.received is None
        assert signals.exit_code == 0
        os.kill(os.getpid(), signal.SIGTERM)
        deadline = time.monotonic() + 60
        while not said and time.monotonic() < deadline:
            time.sleep(0.01)
    assert len(said) == 1
    assert signals.received == signal.SIGTERM
    assert signals.exit_code == 143
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    assert signal.set_wakeup_fd(-1) == -1


def test_sigusr1_asks_for_a_checkpoint_once():
    with StopSignals(lambda _: None) as signals:
        os.kill(os.getpid(), signal.SIGUSR1)
        deadline = time.monotonic() + 60
        while not (asked := signals.take_save_request()) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert asked
        assert not signals.take_save_request()
        assert signals.received is None


def test_outside_the_main_thread_nothing_is_caught():
    before = signal.getsignal(signal.SIGINT)
    seen: list[object] = []

    def run() -> None:
        with StopSignals(lambda _: None):
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [before]
