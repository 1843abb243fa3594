"""Plots: what is read of a run, what is drawn of it, and when there is nothing to draw."""

import json
import math
import os
import pty
import signal
import socket
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

from lmkit.cli import call
from lmkit.errors import MissingFileError, UsageError
from lmkit.plot import read_run
from lmkit.plot.curves import curves, smoothed, thinned
from lmkit.plot.data import plot_data
from lmkit.plot.history import Columns
from lmkit.plot.naming import run_names
from lmkit.plot.reading import RunReader
from lmkit.plot.terminal import columns, drawing
from lmkit.plot.words import duration, short, time_step
from lmkit.run_lock import is_going
from recorded_run import BYTES_PER_TOKEN, TOKENS_PER_STEP, loss_at, record_run, write_metrics
from tiny_run import make_inputs, one_thread, train


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return record_run(tmp_path / "run")


def plot(*words: str | Path) -> int:
    return call(["plot", *map(str, words)])


def numbers(*words: str | Path, capsys: pytest.CaptureFixture[str]) -> dict:
    assert plot(*words, "--json") == 0
    return json.loads(capsys.readouterr().out)


# --- reading -------------------------------------------------------------------------------------


def test_every_number_of_the_metrics_is_read(run: Path):
    found = read_run(run)
    assert (len(found.training), len(found.validation), len(found.pace)) == (299, 6, 30)
    assert found.training.x["step"][9] == 11
    assert found.training.y["loss"][9] == loss_at(11)
    assert found.training.x["tokens"][-1] == 300 * TOKENS_PER_STEP
    assert found.pace.x["time"][0] == 5.0  # of the step it reports on
    assert [(event.kind, event.step) for event in found.events] == [
        ("skipped", 7),
        ("resumed", 150),
    ]
    assert [sample.step for sample in found.samples] == [50, 100, 150, 200, 250, 300]
    assert found.settings["d_model"] == 16
    assert (found.parameters, found.device, found.torn) == (12_345, "cpu", 0)


def test_a_line_that_is_being_written_is_left_for_later(run: Path):
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"iter": 301, "loss": 2.')
    found = read_run(run)
    assert (len(found.training), found.torn) == (299, 0)


def test_a_growing_file_is_read_on_and_a_replaced_one_anew(run: Path):
    reader = RunReader(run)
    assert len(reader.read().training) == 299
    line = b'{"iter": 301, "loss": 2.0, "lr": 0.1, "grad_norm": 1.0}\n'
    with (run / "metrics.jsonl").open("ab", buffering=0) as file:
        for part, count in ((line[:20], 299), (line[20:-1], 300), (b"\n", 300), (b"{", 300)):
            file.write(part)
            assert len(reader.read().training) == count
    assert reader.read().training.y["loss"][-1] == 2.0
    assert reader.read().torn == 0
    metrics = run / "metrics.jsonl"
    kept = [one for one in metrics.read_bytes().splitlines()[:-1] if json.loads(one)["iter"] <= 100]
    metrics.with_name("new").write_bytes(b"\n".join(kept) + b"\n")
    metrics.with_name("new").replace(metrics)
    found = reader.read()
    assert found.training.x["step"][-1] == 100
    assert [event.kind for event in found.events] == ["skipped"]


def test_lines_that_are_not_whole_are_counted_and_told(
    run: Path, capsys: pytest.CaptureFixture[str]
):
    lines = (run / "metrics.jsonl").read_text().splitlines()
    lines[5] = lines[5][:20]
    infinite = '{"iter": Infinity, "loss": 1.0}'
    (run / "metrics.jsonl").write_text("\n".join([*lines, "[1]", infinite]) + "\n")
    assert numbers(run, capsys=capsys)["runs"][0]["torn_lines"] == 3
    assert plot(run, "--terminal") == 0
    assert f"note: {run}: 3 lines of its metrics are not whole" in capsys.readouterr().err
    (run / "metrics.jsonl").write_text("\n".join([*lines[:5], *lines[6:], "[1]"]) + "\n")
    assert plot(run, "--terminal") == 0
    assert f"note: {run}: 1 line of its metrics is not whole" in capsys.readouterr().err


def test_metrics_of_before_there_were_tokens_in_them(run: Path, capsys: pytest.CaptureFixture[str]):
    """Tokens follow from the settings; the time is not known, and said not to be."""
    write_metrics(run, [{"iter": n, "loss": 5.0 / n, "lr": 1e-3, "grad_norm": 1.0} for n in (1, 2)])
    found = numbers(run, capsys=capsys)["runs"][0]
    assert found["curves"]["loss"]["tokens"] == [64, 128]
    assert found["curves"]["loss"]["time"] == [None, None]
    assert found["train_bits"] is None
    assert plot(run, "--terminal", "--x", "time") == 0
    assert "nothing to draw against this axis" in capsys.readouterr().out


def test_a_run_without_metrics_is_an_error(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        MissingFileError, match=r"empty holds no metrics.jsonl, so there is nothing"
    ):
        plot(tmp_path / "empty")
    with pytest.raises(MissingFileError, match="none: no such run folder"):
        plot(tmp_path / "none")
    (tmp_path / "begun").mkdir()
    write_metrics(tmp_path / "begun", [{"iter": 0, "begun": "new"}])
    with pytest.raises(UsageError, match="has taken no step yet"):
        plot(tmp_path / "begun")
    (tmp_path / "empty" / "metrics.jsonl").write_text("what is this\n")
    with pytest.raises(UsageError, match="holds no metrics of a run"):
        plot(tmp_path / "empty")


def test_a_folder_of_runs_is_answered_with_the_command_for_them(tmp_path: Path):
    one, two = record_run(tmp_path / "runs" / "one"), record_run(tmp_path / "runs" / "two")
    with pytest.raises(MissingFileError) as caught:
        plot(tmp_path / "runs")
    assert caught.value.hint == f"lmkit plot {one} {two}"


def test_names_are_as_long_as_it_takes():
    names = run_names([Path("/a/x/one"), Path("/a/y/one"), Path("/b/two"), Path("/d/checkpoints")])
    assert names == ["x/one", "y/one", "two", "d/checkpoints"]
    assert run_names([Path("/a/one"), Path("/a/one")]) == ["a/one", "a/one"]


def test_a_run_is_going_while_its_process_lives(tmp_path: Path):
    assert not is_going(tmp_path)
    lock = tmp_path / "run.lock"
    lock.write_text(f"process {os.getpid()} on {socket.gethostname()}\n")
    assert is_going(tmp_path)
    child = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"],
                           capture_output=True, text=True, check=True)  # fmt: skip
    lock.write_text(f"process {child.stdout.strip()} on {socket.gethostname()}\n")
    assert not is_going(tmp_path)
    lock.write_text("process 1 on another-machine\n")
    assert is_going(tmp_path)


def test_a_real_run_is_drawn_as_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with one_thread():
        history = train(make_inputs(tmp_path), tmp_path / "run", max_iters=10, sample_prompt="2")
    capsys.readouterr()
    found = numbers(tmp_path / "run", capsys=capsys)["runs"][0]
    losses = [record["loss"] for record in history if "loss" in record]
    assert found["curves"]["loss"]["value"] == pytest.approx(losses, rel=1e-5)
    assert found["curves"]["val_loss"]["step"] == [5, 10]
    assert found["curves"]["tokens_per_second"]["step"] == [5, 10]
    assert found["best_bits_per_byte"] == pytest.approx(found["best_val_loss"] / math.log(2))
    assert [one["step"] for one in found["samples"]] == [5, 10]
    assert found["is_going"]  # this process, which would hold the lock


# --- curves --------------------------------------------------------------------------------------


def test_a_long_curve_is_thinned_and_loses_neither_mean_nor_spike():
    columns = Columns(("loss",))
    for step in range(1, 12_346):
        columns.add((step, step * 2.0, math.nan), {"loss": 9.0 if step == 777 else step % 7})
    curve = thinned(columns, "loss", 1000)
    assert len(curve) == 1000
    assert curve.low is not None
    assert curve.high is not None
    assert (curve.low.min(), curve.high.max()) == (0, 9)
    assert abs(curve.y.mean() - np.mean(columns.y["loss"])) < 0.01
    assert (np.diff(curve.x["step"]) > 0).all()
    assert (curve.x["tokens"] == 2 * curve.x["step"]).all()
    assert (curve.low <= curve.y).all()
    assert (curve.y <= curve.high).all()


def test_a_short_curve_is_as_it_is_but_for_what_is_no_number():
    columns = Columns(("loss",))
    for step, loss in enumerate((5.0, math.inf, None, 4.0)):
        columns.add((step, 0, 0), {"loss": loss})
    curve = thinned(columns, "loss")
    assert (curve.x["step"].tolist(), curve.y.tolist()) == ([0, 3], [5.0, 4.0])


@pytest.mark.parametrize("memory", [0, 0.5, 0.97])
def test_smoothing_is_the_weighted_mean_of_what_came_before(memory: float):
    y = np.random.default_rng(0).normal(size=40)
    for place, value in enumerate(smoothed(y, memory)):
        weights = memory ** np.arange(place, -1, -1.0)
        assert value == pytest.approx(np.average(y[: place + 1], weights=weights))


def test_numbers_and_times_are_short():
    assert [short(one) for one in (0, 0.00012, 7.25, 1234, 5.6e6, 2e12)] == [
        "0", "0.00012", "7.25", "1.23k", "5.6M", "2T"]  # fmt: skip
    assert [duration(one) for one in (0, 59.6, 61, 3600, 3900, 90_000)] == [
        "0s", "1m", "1m 01s", "1h", "1h 05m", "1d 01h"]  # fmt: skip
    assert [time_step(one) for one in (0.2, 7, 3601, 100_000)] == [1, 10, 7200, 172_800]


# --- what is written -----------------------------------------------------------------------------


def test_the_numbers_tell_curves_bits_and_settings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    one = record_run(tmp_path / "one")
    two = record_run(tmp_path / "two", speed=2, optimizer="muon")
    found = numbers(one, two, capsys=capsys)
    assert found["output_path"] is None
    assert [run["name"] for run in found["runs"]] == ["one", "two"]
    assert found["differing"] == ["optimizer"]
    assert ["optimizer", "adamw", "muon"] in found["settings"]
    assert "checkpoint_dir" not in [row[0] for row in found["settings"]]
    first = found["runs"][0]
    assert first["train_bits"] == pytest.approx(1 / math.log(2) / BYTES_PER_TOKEN)
    assert first["best_bits_per_byte"] == pytest.approx(first["best_val_loss"] * first["val_bits"])
    assert first["steps"] == 300
    assert first["max_iters"] == 1000
    assert (first["skipped"], first["resumed"]) == (1, 1)
    assert set(first["curves"]) == {"loss", "val_loss", "lr", "grad_norm", "tokens_per_second"}


def test_a_png_and_an_svg_are_drawn_and_the_same_each_time(tmp_path: Path, run: Path):
    other = record_run(tmp_path / "a_$name_ with <signs>", steps=2500, speed=0.2)
    kept = {}
    for name in ("one.png", "two.png", "one.svg", "two.svg"):
        assert plot(run, other, "--output_path", tmp_path / name, "--log", "--x", "time") == 0
        kept[name] = (tmp_path / name).read_bytes()
    assert kept["one.png"] == kept["two.png"]
    assert kept["one.svg"] == kept["two.svg"]
    assert kept["one.png"].startswith(b"\x89PNG\r\n\x1a\n")
    width, height = (int.from_bytes(kept["one.png"][at : at + 4], "big") for at in (16, 20))
    assert 1490 <= width <= 1510
    assert 990 <= height <= 1010
    assert ET.fromstring(kept["one.svg"]).tag == "{http://www.w3.org/2000/svg}svg"
    named = record_run(tmp_path / "实验 木")
    assert plot(named, "--output_path", tmp_path / "named.svg") == 0
    dark = ["--theme", "dark", "--unit", "bits", "--smoothing", "0"]
    assert plot(run, "--output_path", tmp_path / "dark.png", *dark) == 0
    assert (tmp_path / "dark.png").read_bytes() != kept["one.png"]


def test_an_image_of_one_step_or_of_an_axis_nobody_knows(tmp_path: Path, run: Path):
    write_metrics(run, [{"iter": 1, "loss": 5.0, "lr": 0.0, "grad_norm": 0.0}])
    assert plot(run, "--output_path", tmp_path / "step.png") == 0
    assert plot(run, "--output_path", tmp_path / "time.svg", "--x", "time", "--log") == 0
    assert plot(run, "--output_path", tmp_path / "bits.svg", "--unit", "bits") == 0


def test_an_image_without_matplotlib_names_the_extra(
    tmp_path: Path, run: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UsageError, match=r"writing a \.png needs matplotlib") as caught:
        plot(run, "--output_path", tmp_path / "plot.png")
    assert "pip install 'lmkit[plot]'" in (caught.value.hint or "")
    assert not (tmp_path / "plot.png").exists()


def test_an_output_is_neither_replaced_unasked_nor_of_another_kind(
    tmp_path: Path, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    assert plot(run) == 0
    assert capsys.readouterr().out == "plot.html: 1 run, 299 steps\n"
    with pytest.raises(UsageError, match=r"plot\.html: already exists"):
        plot(run)
    assert plot(run, "--force", "--quiet") == 0
    assert capsys.readouterr().out == ""
    with pytest.raises(UsageError, match=r"plot.pdf ends in none of .html, .png, .svg"):
        plot(run, "--output_path", "plot.pdf")
    with pytest.raises(UsageError, match="nowhere: no such folder"):
        plot(run, "--output_path", "nowhere/plot.html")
    with pytest.raises(UsageError, match="--live and --json exclude each other"):
        plot(run, "--live", "--json")


# --- in the terminal -----------------------------------------------------------------------------


@pytest.mark.parametrize("width", [30, 61, 140])
@pytest.mark.parametrize("look", [{}, {"log": True, "x": "time"}, {"unit": "bits", "x": "tokens"}])
def test_a_drawing_fits_its_terminal(run: Path, width: int, look: dict):
    text = drawing([read_run(run, "实验" * 20)], width, 12, colour=False, **look)
    lines = text.splitlines()
    assert max(map(columns, lines)) <= width
    assert sum(any("\u2801" <= c <= "\u28ff" for c in line) for line in lines) >= 10
    assert "\x1b" not in text
    assert "bits a byte" in text if "unit" in look else "nats a token" in text


def test_a_falling_loss_falls_and_runs_without_colours_have_charts_of_their_own(tmp_path: Path):
    runs = [read_run(record_run(tmp_path / name, speed=9)) for name in ("one", "two")]
    text = drawing(runs[:1], 80, 10, colour=False, smoothing=0)
    rows = [line.partition("┤")[2] for line in text.splitlines() if "┤" in line]
    assert rows[0].strip()
    assert rows[0].rstrip() == rows[0][:10].rstrip()  # only at the left is it high
    assert len(rows[-1].rstrip()) > 60  # and low up to the end
    both = drawing(runs, 80, 10, colour=False)
    assert both.count("└") == 2
    assert drawing(runs, 80, 10, colour=True).count("└") == 1


@pytest.mark.parametrize("plain", [True, False])
def test_colours_are_for_terminals_that_want_them(run: Path, plain: bool):
    ours, theirs = pty.openpty()
    environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    environment |= {"TERM": "xterm-256color", **({"NO_COLOR": "1"} if plain else {})}
    words = [sys.executable, "-m", "lmkit", "plot", str(run), "--terminal"]
    child = subprocess.Popen(words, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    seen = b""
    try:
        while piece := os.read(ours, 65536):
            seen += piece
    except OSError:
        pass  # how a pseudo-terminal says that nobody is left
    os.close(ours)
    assert child.wait() == 0
    assert "┤".encode() in seen
    assert (b"\x1b[34m" in seen) is not plain


# --- live ----------------------------------------------------------------------------------------


def waited_for(true, seconds: float = 120) -> bool:
    """Whether something came to be true in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if true():
            return True
        time.sleep(0.05)
    return False


def follow(run: Path, page: Path) -> subprocess.Popen:
    words = ["plot", str(run), "--live", "--interval", "0.5", "--output_path", str(page)]
    return subprocess.Popen([sys.executable, "-m", "lmkit", *words], stderr=subprocess.PIPE,
                            stdout=subprocess.PIPE, text=True)  # fmt: skip


def test_a_live_page_follows_the_run_until_it_is_interrupted(run: Path, tmp_path: Path):
    (run / "run.lock").write_text(f"process {os.getpid()} on {socket.gethostname()}\n")
    page = tmp_path / "live.html"
    child = follow(run, page)
    try:
        assert waited_for(page.exists)
        assert '"live":0.5' in page.read_text()
        assert '"text":"the end"' not in page.read_text()
        with (run / "metrics.jsonl").open("a") as file:
            file.write('{"iter": 301, "sample": "the end", "prompt": ""}\n')
        assert waited_for(lambda: '"text":"the end"' in page.read_text())
        child.send_signal(signal.SIGINT)
        output, errors = child.communicate(timeout=60)
    finally:
        child.kill()
    assert (child.returncode, errors) == (130, "interrupted\n")
    assert output.startswith(f"Drawing into {page} every 0.5 s")


def test_a_live_page_is_done_when_the_run_is(run: Path, tmp_path: Path):
    holder = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    (run / "run.lock").write_text(f"process {holder.pid} on {socket.gethostname()}\n")
    page = tmp_path / "live.html"
    child = follow(run, page)
    try:
        assert waited_for(page.exists)
        holder.communicate(b"\n")
        assert child.wait(timeout=60) == 0
    finally:
        holder.kill()
        child.kill()
        child.communicate()
    assert '"live":null' in page.read_text()


def test_what_is_written_while_a_live_page_reads_is_not_passed_over(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """As many turns as it takes are taken; the run goes on as long as we want."""
    page, turns = tmp_path / "live.html", []

    class Writing(RunReader):
        def read(self):
            found = super().read()
            if not turns:
                with self.metrics.open("a") as file:
                    file.write('{"iter": 301, "sample": "the end", "prompt": ""}\n')
            found.is_going = len(turns) < 2
            return found

    seen = []

    def sleep(_: float) -> None:
        turns.append("turn")
        seen.append('"text":"the end"' in page.read_text())

    monkeypatch.setattr("lmkit.plot.RunReader", Writing)
    monkeypatch.setattr("lmkit.cli.plot.time.sleep", sleep)
    assert plot(run, "--live", "--output_path", page) == 0
    assert seen == [False, True]


def test_a_run_that_is_over_is_drawn_once(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert plot(run, "--live", "--output_path", tmp_path / "plot.html") == 0
    assert "note: none of the runs goes on, so this is drawn once" in capsys.readouterr().err


def test_plotting_loads_no_torch(run: Path, tmp_path: Path):
    code = (
        "import sys\nfrom lmkit.cli import call\n"
        "assert call(sys.argv[1:]) == 0\n"
        "print(*{'torch', 'matplotlib', 'rich'} & set(sys.modules))"
    )
    words = ["plot", str(run), "--terminal", "--output_path", str(tmp_path / "plot.html")]
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == ""
    assert curves(read_run(run))
    assert plot_data([read_run(run)])["runs"]
