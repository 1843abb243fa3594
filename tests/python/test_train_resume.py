"""A resumed run takes the steps the uninterrupted one would have taken, bit for bit."""

import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from lmkit.cli import main
from lmkit.errors import MismatchError, MissingFileError, UsageError
from lmkit.lm import device
from lmkit.lm.checkpoint import (
    checkpoints_in,
    load_model,
    save_checkpoint,
    write_checkpoint,
)
from lmkit.lm.generate import generate
from lmkit.lm.model import Transformer
from lmkit.lm.trainer import Trainer
from tiny_run import (
    assert_same_checkpoints,
    flags,
    losses,
    make_inputs,
    resume,
    settings,
    start_command,
    train,
)

pytestmark = pytest.mark.usefixtures("on_one_thread")

FOREVER = 1_000_000


@pytest.fixture(scope="module")
def straight(inputs: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of 20 steps that nothing interrupted."""
    run = tmp_path_factory.mktemp("straight") / "run"
    train(inputs, run, max_iters=20)
    return run


@pytest.fixture
def halfway(straight: Path, tmp_path: Path) -> Path:
    """The same run as it was after 10 steps."""
    run = tmp_path / "halfway"
    shutil.copytree(straight, run)
    for name in ("checkpoint_20.pt", "checkpoint_20.pt.json"):
        (run / name).unlink()
    return run


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    while not path.exists():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)


def output_of(process: subprocess.Popen[str]) -> str:
    return process.communicate(timeout=240)[0]


@pytest.mark.parametrize(
    "other",
    [{}, {"eval_interval": 3, "log_interval": 1, "save_interval": 4}],
    ids=["same", "other"],
)
def test_resumed_equals_uninterrupted(
    inputs: dict[str, str], straight: Path, tmp_path: Path, other: dict[str, int]
):
    run = tmp_path / "run"
    train(inputs, run, max_iters=10)
    resume(run, max_iters=20, **other)
    assert losses(run) == losses(straight)
    assert list(losses(run)) == list(range(1, 21))
    assert_same_checkpoints(run / "checkpoint_20.pt", straight / "checkpoint_20.pt")


def test_resumed_after_kill_9_equals_uninterrupted(
    inputs: dict[str, str], straight: Path, tmp_path: Path
):
    run = tmp_path / "run"
    given = settings(inputs, run, max_iters=FOREVER, save_interval=5)
    process = start_command(*flags(given))
    wait_for(run / "checkpoint_10.pt", process)
    process.kill()
    output_of(process)
    whole = [iteration for iteration, _ in checkpoints_in(run)]
    resume(run, load_checkpoint=str(run / "checkpoint_10.pt"), max_iters=20, save_interval=10)
    assert losses(run) == losses(straight)
    assert_same_checkpoints(run / "checkpoint_20.pt", straight / "checkpoint_20.pt")
    superseded = {int(path.stem.split("_")[1]) for path in (run / "superseded").glob("*.pt")}
    assert superseded == {iteration for iteration in whole if iteration > 10}


@pytest.mark.slow
def test_whenever_it_is_killed_a_whole_checkpoint_is_there(inputs: dict[str, str], tmp_path: Path):
    run, reference = tmp_path / "run", tmp_path / "reference"
    process = start_command(*flags(settings(inputs, run, max_iters=FOREVER, save_interval=1)))
    wait_for(run / "checkpoint_1.pt", process)
    random = np.random.default_rng()
    for _ in range(2):
        time.sleep(random.uniform(0, 1))
        process.kill()
        output_of(process)
        newest = checkpoints_in(run)[0][0]
        process = start_command("--load_checkpoint", "latest", "--checkpoint_dir", str(run))
        wait_for(run / f"checkpoint_{newest + 2}.pt", process)
    process.kill()
    output_of(process)
    last = checkpoints_in(run)[0][0] + 3
    resume(run, max_iters=last)
    train(inputs, reference, max_iters=last)
    assert losses(run) == losses(reference)
    assert_same_checkpoints(run / f"checkpoint_{last}.pt", reference / f"checkpoint_{last}.pt")


@pytest.mark.parametrize(
    "options",
    [
        {"n_kv_heads": 1, "qk_norm": True, "tie_embeddings": True, "z_loss": 1e-3},
        {"optimizer": "muon"},
        {"lr_schedule": "wsd", "warmup_iters": 2, "min_lr": 1e-3, "lr_decay_iters": 7},
    ],
    ids=["model", "muon", "wsd"],
)
def test_every_kind_of_model_and_optimizer_resumes_bit_for_bit(
    inputs: dict[str, str], straight: Path, tmp_path: Path, options: dict[str, object]
):
    one, two = tmp_path / "one", tmp_path / "two"
    train(inputs, one, max_iters=8, **options)
    train(inputs, two, max_iters=5, **options)
    resume(two, max_iters=8)
    assert losses(one) == losses(two)
    assert losses(one)[8] != losses(straight)[8]
    assert_same_checkpoints(one / "checkpoint_8.pt", two / "checkpoint_8.pt")
    generate_something(two)


def generate_something(run: Path) -> None:
    model, tokenizer = load_model(run)
    assert list(generate(model, tokenizer, "1 times", max_new_tokens=3, seed=0))


def test_a_checkpoint_from_before_there_were_these_settings_goes_on(halfway: Path, straight: Path):
    path = halfway / "checkpoint_10.pt"
    state = torch.load(path, weights_only=True)
    later = ("n_kv_heads", "qk_norm", "tie_embeddings", "optimizer", "z_loss", "keep_last")
    later += ("max_time", "max_bad_steps", "on_bad_steps")
    for name in later:
        del state["config"][name]
    for name in ("bad_steps", "evaluation_due"):
        del state[name]
    write_checkpoint(path, state)
    generate_something(halfway)
    resume(halfway)
    assert losses(halfway) == losses(straight)
    assert_same_checkpoints(halfway / "checkpoint_20.pt", straight / "checkpoint_20.pt")


def test_another_optimizer_is_refused(halfway: Path):
    with pytest.raises(MismatchError, match="--optimizer muon"):
        resume(halfway, optimizer="muon")


@pytest.mark.slow
def test_a_compiled_run_resumes_bit_for_bit(inputs: dict[str, str], tmp_path: Path):
    if device._missing_compiler(torch.device("cpu")):
        pytest.skip("no C++ compiler on this machine")
    straight, run = tmp_path / "straight", tmp_path / "run"
    train(inputs, straight, max_iters=8, compile="on")
    train(inputs, run, max_iters=4, compile="on")
    resume(run, max_iters=8)
    assert losses(run) == losses(straight)
    assert_same_checkpoints(run / "checkpoint_8.pt", straight / "checkpoint_8.pt")
    state = torch.load(run / "checkpoint_8.pt", weights_only=True)
    assert state["settings"]["compile"]
    assert not any("_orig_mod" in name for name in state["model"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_step_and_saves(
    number: signal.Signals, inputs: dict[str, str], tmp_path: Path
):
    run = tmp_path / "my run"
    given = settings(inputs, run, max_iters=FOREVER, log_interval=1, save_interval=FOREVER)
    process = start_command(*flags(given))
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("Iter      3"):
            break
    process.send_signal(number)
    output = output_of(process)
    assert process.returncode == 128 + number
    assert f"{number.name} received: stopping after this step" in output
    [(step, checkpoint)] = checkpoints_in(run)
    assert f"Saving checkpoint to {checkpoint}\n" in output
    assert list(losses(run)) == list(range(1, step + 1))

    line = next(line for line in output.splitlines() if "To go on: " in line)
    words = shlex.split(line.split("To go on: ")[1])
    assert words == ["lmkit", "train", "--load_checkpoint", str(checkpoint)]
    more = [*words[1:], "--max_iters", str(step + 2)]
    main.main(more, prog_name="lmkit", standalone_mode=False)
    assert list(losses(run)) == list(range(1, step + 3))


def test_the_split_into_micro_batches_changes_nothing_but_rounding(
    inputs: dict[str, str], straight: Path, tmp_path: Path
):
    run = tmp_path / "run"
    train(inputs, run, max_iters=20, batch_size=1, grad_accum_steps=4)
    for step, loss in losses(straight).items():
        assert losses(run)[step] == pytest.approx(loss, abs=2e-3), step
    assert losses(run)[1] == pytest.approx(losses(straight)[1], abs=1e-5)


def test_accumulated_steps_resume_bit_for_bit(inputs: dict[str, str], tmp_path: Path):
    one, two = tmp_path / "one", tmp_path / "two"
    train(inputs, one, max_iters=12, batch_size=2, grad_accum_steps=2)
    train(inputs, two, max_iters=5, batch_size=2, grad_accum_steps=2)
    resume(two, max_iters=12)
    assert losses(one) == losses(two)
    assert_same_checkpoints(one / "checkpoint_12.pt", two / "checkpoint_12.pt")


def test_the_schedule_keeps_its_length(
    inputs: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    one, two = tmp_path / "one", tmp_path / "two"
    schedule = {"lr_schedule": "cosine", "warmup_iters": 4, "min_lr": 1e-3}
    train(inputs, one, max_iters=14, lr_decay_iters=10, **schedule)
    train(inputs, two, max_iters=10, **schedule)
    history = resume(two, max_iters=14)
    assert "the learning rate stays at 0.001" in capsys.readouterr().err
    assert losses(one) == losses(two)
    assert [record["lr"] for record in history if "lr" in record][10:] == [1e-3] * 4


def test_what_is_not_given_comes_from_the_checkpoint(halfway: Path, straight: Path):
    resume(halfway)
    assert losses(halfway) == losses(straight)
    assert_same_checkpoints(halfway / "checkpoint_20.pt", straight / "checkpoint_20.pt")
    assert "d_ff = 24" in (halfway / "config.toml").read_text()


def test_the_run_goes_on_in_the_folder_of_its_checkpoint(
    halfway: Path, straight: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(halfway.parent)
    Trainer({"load_checkpoint": "halfway/checkpoint_10.pt"}).train()
    assert losses(halfway) == losses(straight)
    assert not (halfway.parent / "checkpoints").exists()


def test_another_folder_begins_a_branch(halfway: Path, straight: Path, tmp_path: Path):
    branch = tmp_path / "branch"
    source = str(halfway / "checkpoint_10.pt")
    given = {"load_checkpoint": source, "checkpoint_dir": str(branch)}
    Trainer(given).train()
    assert_same_checkpoints(branch / "checkpoint_20.pt", straight / "checkpoint_20.pt")
    assert list(losses(branch)) == list(range(11, 21))
    assert list(losses(halfway)) == list(range(1, 21))
    with pytest.raises(UsageError, match="already holds"):
        Trainer(given).train()


def test_other_rates_are_applied_and_said(
    halfway: Path, straight: Path, capsys: pytest.CaptureFixture[str]
):
    resume(halfway, learning_rate=1e-3, weight_decay=0.5)
    notes = capsys.readouterr().err
    assert "note: --learning_rate 0.001 from here on; the checkpoint has 0.01" in notes
    assert "note: --weight_decay 0.5 from here on; the checkpoint has 0.01" in notes
    groups = torch.load(halfway / "checkpoint_20.pt")["optimizer"]["param_groups"]
    assert [group["weight_decay"] for group in groups] == [0.5, 0.0]
    assert losses(halfway)[11] == losses(straight)[11]
    assert losses(halfway)[20] != losses(straight)[20]


def test_each_differing_field_of_the_model_is_named(halfway: Path):
    with pytest.raises(MismatchError) as caught:
        resume(halfway, d_model=32, n_layers=3, n_heads=2)
    assert caught.value.exit_code == 5
    message = str(caught.value)
    assert "--d_model 32 (the checkpoint has 16)" in message
    assert "--n_layers 3 (the checkpoint has 2)" in message
    assert "n_heads" not in message


def test_another_tokenizer_is_refused(halfway: Path, inputs: dict[str, str], tmp_path: Path):
    other = tmp_path / "other.vocab"
    other.write_text(Path(inputs["vocab_path"]).read_text().replace('"!": 33', '"!": 300'))
    given = {"vocab_path": str(other), "merges_path": inputs["merges_path"]}
    with pytest.raises(MismatchError, match="not the one"):
        resume(halfway, **given)
    resume(halfway, vocab_path=inputs["vocab_path"], merges_path=inputs["merges_path"])


def test_the_tokenizer_comes_from_the_checkpoint(tmp_path: Path, straight: Path):
    inputs = make_inputs(tmp_path)
    run = tmp_path / "run"
    train(inputs, run, max_iters=10)
    for name in ("vocab_path", "merges_path"):
        Path(inputs[name]).unlink()
    resume(run, max_iters=20)
    assert losses(run) == losses(straight)


def test_changed_data_is_noticed(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    inputs = make_inputs(tmp_path)
    run = tmp_path / "run"
    train(inputs, run, max_iters=4)
    ids = np.load(inputs["train_data"])
    ids[7] += 1
    np.save(inputs["train_data"], ids)
    capsys.readouterr()
    resume(run, max_iters=6)
    assert "is not the data of the checkpoint" in capsys.readouterr().err


def test_the_latest_that_verifies_is_taken(
    halfway: Path, straight: Path, capsys: pytest.CaptureFixture[str]
):
    torn = (straight / "checkpoint_20.pt").read_bytes()[:1000]
    (halfway / "checkpoint_20.pt").write_bytes(torn)
    shutil.copy(straight / "checkpoint_20.pt.json", halfway)
    resume(halfway)
    assert "passed over checkpoint_20.pt" in capsys.readouterr().err
    assert losses(halfway) == losses(straight)
    assert_same_checkpoints(halfway / "checkpoint_20.pt", straight / "checkpoint_20.pt")


def test_resuming_a_finished_run_changes_nothing(
    straight: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run = tmp_path / "run"
    shutil.copytree(straight, run)
    before = (run / "checkpoint_20.pt").stat().st_mtime_ns
    resume(run)
    assert "nothing is left to do" in capsys.readouterr().err
    assert (run / "checkpoint_20.pt").stat().st_mtime_ns == before
    assert losses(run) == losses(straight)


def test_a_superseded_checkpoint_resumes_in_the_folder_above(halfway: Path, straight: Path):
    (halfway / "superseded").mkdir()
    for name in ("checkpoint_20.pt", "checkpoint_20.pt.json"):
        shutil.copy(straight / name, halfway / "superseded")
    source = str(halfway / "superseded" / "checkpoint_20.pt")
    Trainer({"load_checkpoint": source, "max_iters": 21}).train()
    assert (halfway / "checkpoint_21.pt").exists()
    assert list(losses(halfway)) == list(range(1, 22))


def test_nothing_to_resume_from(tmp_path: Path):
    with pytest.raises(MissingFileError, match="there is no checkpoint in"):
        resume(tmp_path / "none")
    with pytest.raises(MissingFileError, match="there is no checkpoint at"):
        Trainer({"load_checkpoint": str(tmp_path / "none.pt")}).train()


def test_a_checkpoint_without_a_configuration_says_what_it_is_good_for(
    halfway: Path, tmp_path: Path
):
    config = Trainer({"load_checkpoint": str(halfway / "checkpoint_10.pt")})
    assert config.step == 0
    path = tmp_path / "bare.pt"
    model = torch.nn.Linear(2, 2)
    save_checkpoint(model, torch.optim.AdamW(model.parameters()), 3, path)
    with pytest.raises(MismatchError, match="holds no configuration"):
        Trainer({"load_checkpoint": str(path)}).train()


def test_the_configuration_repeats_the_run(straight: Path, tmp_path: Path):
    from lmkit.config import TrainConfig, to_dict
    from lmkit.config_file import from_toml

    config = from_toml(TrainConfig, (straight / "config.toml").read_text())
    run = tmp_path / "again"
    Trainer({**to_dict(config), "checkpoint_dir": str(run)}).train()
    assert losses(run) == losses(straight)
    assert_same_checkpoints(run / "checkpoint_20.pt", straight / "checkpoint_20.pt")


def test_a_checkpoint_says_all_that_its_model_is(straight: Path):
    model, tokenizer = load_model(straight / "checkpoint_20.pt")
    assert isinstance(model, Transformer)
    assert not model.training
    state = torch.load(straight / "checkpoint_20.pt", weights_only=True)
    assert_same = [torch.equal(value, state["model"][k]) for k, value in model.state_dict().items()]
    assert all(assert_same)
    assert tokenizer.decode(tokenizer.encode("one two")) == "one two"
    assert state["data"]["next_batch"] == 21
    assert state["settings"]["threads"] == torch.get_num_threads()
