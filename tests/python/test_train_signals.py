"""Signals: the first is a request and is answered at once, the second ends the process."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from lmkit.lm.signals import StopSignals

# One long call that holds the interpreter's main thread, as a backward pass does, but not the lock.
BUSY = """
import threading, time
from lmkit.lm.signals import StopSignals
with StopSignals(lambda text: print(text, flush=True)) as signals:
    print("ready", flush=True)
    __import__("ctypes").CDLL(None).sleep(5)
    __import__("ctypes").CDLL(None).sleep(5)
print("left", signals.received)
raise SystemExit(signals.exit_code)
"""


def start(script: str) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_is_answered_inside_a_long_call_and_the_second_leaves(number: signal.Signals):
    process = start(BUSY)
    time.sleep(0.2)
    process.send_signal(number)
    began = time.monotonic()
    assert process.stdout is not None
    assert process.stdout.readline().startswith(f"{number.name} received: stopping after this step")
    assert time.monotonic() - began < 2
    process.send_signal(number)
    assert process.wait(timeout=4) == 128 + number
    process.communicate()


def test_the_request_is_read_between_steps_and_the_handlers_come_back():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    said: list[str] = []
    with StopSignals(said.append) as signals:
        assert signals.received is None
        assert signals.exit_code == 0
        os.kill(os.getpid(), signal.SIGTERM)
        deadline = time.monotonic() + 5
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
        deadline = time.monotonic() + 5
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
