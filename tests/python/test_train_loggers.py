"""TensorBoard and Weights & Biases show what metrics.jsonl holds, and cannot end a run."""

import importlib.util
import json
import struct
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from lmkit.errors import UsageError
from lmkit.lm import loggers
from lmkit.lm.preparation import dry_run
from lmkit.lm.report import Report
from lmkit.lm.trainer import Trainer
from tiny_run import losses, records, resume, settings, train

pytestmark = pytest.mark.usefixtures("on_one_thread")

SHOWN = ("loss", "lr", "grad_norm", "val_loss", "tokens_per_second")


def kept(run: Path) -> dict[str, list[tuple[int, float]]]:
    """What metrics.jsonl holds of the shown values, by step."""
    lines = records(run)
    found = {name: [(one["iter"], one[name]) for one in lines if name in one] for name in SHOWN}
    return {name: values for name, values in found.items() if values}


def in_tensorboard(run: Path) -> tuple[dict[str, list[tuple[int, float]]], list[str]]:
    """Scalars by name, and texts."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"tensors": 0}).Reload()
    scalars = {
        name: [(event.step, event.value) for event in events.Scalars(name)]
        for name in events.Tags()["scalars"]
        if name in SHOWN
    }
    texts = [
        content.decode()
        for name in events.Tags()["tensors"]
        for event in events.Tensors(name)
        for content in event.tensor_proto.string_val
    ]
    return scalars, texts


def in_wandb(folder: Path) -> Iterator[dict[str, Any]]:
    """The history of an offline run: a log of LevelDB's form behind seven bytes."""
    from wandb.proto import wandb_internal_pb2

    [path] = folder.glob("run-*.wandb")
    content, place, parts = path.read_bytes(), 7, b""
    while place + 7 <= len(content):
        if (1 << 15) - place % (1 << 15) < 7:  # the rest of a block
            place += (1 << 15) - place % (1 << 15)
            continue
        _, length, kind = struct.unpack_from("<IHB", content, place)
        if place + 7 + length > len(content):  # is being written
            return
        parts += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in {1, 4}:  # whole, or the last part
            record = wandb_internal_pb2.Record.FromString(parts)
            parts = b""
            if record.HasField("history"):
                yield {
                    item.key or "/".join(item.nested_key): json.loads(item.value_json)
                    for item in record.history.item
                }


def drawn(history: list[dict[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    found = {name: [(one["iter"], one[name]) for one in history if name in one] for name in SHOWN}
    return {name: values for name, values in found.items() if values}


def equal(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Equal in float32, which is what TensorBoard keeps."""
    return one.keys() == other.keys() and all(
        [step for step, _ in one[name]] == [step for step, _ in other[name]]
        and [value for _, value in one[name]]
        == pytest.approx([value for _, value in other[name]], rel=1e-6)
        for name in one
    )


def test_tensorboard_shows_the_metrics_and_goes_on_where_the_run_does(
    inputs: dict[str, str], tmp_path: Path
):
    run = tmp_path / "run"
    train(inputs, run, max_iters=12, logger="tensorboard", sample_prompt="3 times")
    (run / "checkpoint_12.pt").unlink()  # as if it had been killed after the one before
    resume(run, max_iters=15)
    scalars, texts = in_tensorboard(run)
    assert [step for step, _ in scalars["loss"]] == list(range(1, 16))
    assert equal(scalars, kept(run))
    assert [text.startswith("    3 times") for text in texts] == [True] * 3
    # Another run in its place takes nothing over.
    Trainer(settings(inputs, run, max_iters=2, logger="tensorboard"), force=True).train()
    assert [step for step, _ in in_tensorboard(run)[0]["loss"]] == [1, 2]


def test_wandb_shows_the_metrics_and_keeps_one_run(
    inputs: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run = tmp_path / "run"
    train(inputs, run, max_iters=5, logger="wandb")
    time.sleep(1.1)  # wandb names the folder of a sitting by its second
    resume(run, max_iters=7)
    sittings = sorted((run / "wandb").glob("offline-run-*"))
    assert len({sitting.name.rpartition("-")[2] for sitting in sittings}) == 1
    assert (run / "wandb" / "lmkit-run-id").read_text() in sittings[0].name
    history: list[dict[str, Any]] = []
    deadline = time.monotonic() + 60  # a process of wandb's own writes it, and may be behind
    while drawn(history) != kept(run) and time.monotonic() < deadline:
        time.sleep(0.02)
        history = [one for sitting in sittings for one in in_wandb(sitting)]
    assert [one["iter"] for one in history if "loss" in one] == list(range(1, 8))
    assert drawn(history) == kept(run)


def test_a_logger_that_cannot_be_opened_is_told_of_once(
    inputs: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    def broken(*_: object) -> loggers.Logger:
        raise OSError("no network")

    monkeypatch.setitem(loggers.LOGGERS, "wandb", broken)
    train(inputs, tmp_path / "run", max_iters=3, logger="wandb,tensorboard")
    said = capsys.readouterr().err
    assert said.count("--logger wandb failed, and the run goes on without it: no network") == 1
    assert [step for step, _ in in_tensorboard(tmp_path / "run")[0]["loss"]] == [1, 2, 3]


def test_a_logger_that_fails_later_is_told_of_once(
    inputs: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    taken: list[int] = []

    def take(_self: object, step: int, *_: object) -> None:
        taken.append(step)
        if step == 2:
            raise ValueError("line one\nline two")

    monkeypatch.setattr(loggers.TensorBoard, "take", take)
    run = tmp_path / "run"
    train(inputs, run, max_iters=6, logger="tensorboard")
    said = capsys.readouterr().err
    assert said.count("--logger tensorboard failed") == 1
    assert "without it: line one\n" in said
    assert taken == [1, 2]
    assert list(losses(run)) == [1, 2, 3, 4, 5, 6]


def test_going_back_from_bad_steps_takes_the_shown_ones_back():
    said: list[str] = []
    shown = loggers.Loggers(said.append)

    class Recorder:
        def __init__(self) -> None:
            self.heard: list[object] = []

        def take(self, *what: object) -> None:
            self.heard.append(what)

        def go_back_to(self, step: int) -> None:
            self.heard.append(step)

        def close(self) -> None:
            self.heard.append("closed")

    recorder = Recorder()
    shown._open["one"] = recorder
    shown.take({"iter": 3, "loss": 1.5, "lr": 1, "device": "cpu"})
    shown.take({"iter": 3, "device": "cpu"})
    shown.take({"iter": 4, "skipped": "loss became nan"})
    shown.go_back_to(2)
    shown.close()
    shown.take({"iter": 5, "loss": 1.0})
    assert recorder.heard == [
        (3, {"loss": 1.5, "lr": 1.0}, {}),
        (4, {}, {"skipped": "loss became nan"}),
        2,
        "closed",
    ]
    assert said == []


def test_a_logger_that_is_not_installed_is_refused_at_the_door(
    inputs: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "wandb" else found(name)
    )
    given = settings(inputs, tmp_path / "run", logger="tensorboard,wandb")
    for start in (Trainer(given).train, lambda: dry_run(given, Report())):
        with pytest.raises(UsageError, match="--logger wandb needs wandb") as caught:
            start()
        assert caught.value.hint == "pip install 'lmkit[wandb]'"
    assert not (tmp_path / "run").exists()


def test_an_unknown_logger_is_named(inputs: dict[str, str], tmp_path: Path):
    with pytest.raises(UsageError, match="--logger must be tensorboard or wandb, or several"):
        train(inputs, tmp_path / "run", logger="tensorboard,comet")
