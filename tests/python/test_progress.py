"""Progress: a bar on a terminal, a line every ten seconds elsewhere, nothing when quiet."""

import os
import pty
import subprocess
import sys

import pytest

from lmkit.cli import progress
from lmkit.cli.progress import progress_bar

WORK = """
import time
from lmkit.cli.progress import progress_bar
with progress_bar(("Counting", "Merging"), ("B", "merges")) as callback:
    for done in range(6):
        callback(0, done * 1_000_000, 5_000_000); time.sleep(0.1)
    callback(1, 5, 10)
print("done")
"""


def on_a_terminal(**env: str) -> bytes:
    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-c", WORK],
        stderr=theirs,
        stdout=subprocess.DEVNULL,
        env={k: v for k, v in os.environ.items() if k != "NO_COLOR"} | env,
    )
    os.close(theirs)
    seen = b""
    try:
        while piece := os.read(ours, 4096):
            seen += piece
    except OSError:
        pass  # how a pseudo-terminal says that nobody is left
    os.close(ours)
    assert child.wait() == 0
    return seen


def test_a_terminal_gets_a_bar_with_rate_and_time_left():
    seen = on_a_terminal(TERM="xterm-256color", COLUMNS="120")
    assert b"\x1b[" in seen
    for part in (b"Counting", b"of 5.0 MB", b"MB/s", b"left", b"Merging"):
        assert part in seen


@pytest.mark.parametrize("env", [{"NO_COLOR": "1", "TERM": "xterm"}, {"TERM": "dumb"}])
def test_a_terminal_that_wants_no_escapes_gets_none(env):
    assert b"\x1b" not in on_a_terminal(**env)


def test_a_file_gets_a_line_every_ten_seconds(monkeypatch, capsys):
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with progress_bar("Counting", "B") as callback:
        assert callback is not None
        for now in range(0, 31, 2):
            callback(0, now * 1_000_000, 60_000_000)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "Counting: 10.0 of 60.0 MB, 1.0 MB/s, 50 s left",
        "Counting: 20.0 of 60.0 MB, 1.0 MB/s, 40 s left",
        "Counting: 30.0 of 60.0 MB, 1.0 MB/s, 30 s left",
    ]


def test_what_has_no_known_end_has_no_time_left(monkeypatch, capsys):
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with progress_bar("Reading", "documents") as callback:
        assert callback is not None
        callback(0, 0, 0)
        now = 11.0
        callback(0, 22, 0)
    assert capsys.readouterr().err == "Reading: 22 documents, 2.0 documents/s\n"


def test_quiet_shows_nothing(capsys):
    with progress_bar("Counting", "B", quiet=True) as callback:
        assert callback is None
    assert capsys.readouterr().err == ""


def test_a_rate_counts_only_what_was_done_on_its_clock(monkeypatch, capsys):
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with progress_bar("Evaluating", "batches") as callback:
        assert callback is not None
        now = 11.0
        callback(0, 5, 50)
        now = 31.0
        callback(0, 15, 50)
    assert capsys.readouterr().err.splitlines() == [
        "Evaluating: 5 of 50 batches",
        "Evaluating: 15 of 50 batches, 0.5 batches/s, 1 min 10 s left",
    ]
