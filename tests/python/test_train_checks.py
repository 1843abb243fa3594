"""Before the first step: whatever does not fit is refused in one sentence, and nothing is left."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import lmkit
from lmkit.errors import (
    LmkitError,
    MalformedError,
    MismatchError,
    MissingFileError,
    TrainingError,
    UsageError,
)
from lmkit.lm import training_data
from lmkit.lm.checkpoint import checkpoints_in
from lmkit.lm.trainer import Trainer
from tiny_run import losses, make_inputs, records, resume, settings, train

pytestmark = pytest.mark.usefixtures("on_one_thread")


def refused(inputs: dict[str, str], run: Path, **others: object) -> LmkitError:
    """The error a run ends with before it begins; nothing is left of it."""
    with pytest.raises(LmkitError) as caught:
        train(inputs, run, max_iters=2, **others)
    assert not run.exists()
    return caught.value


def tokens_file(folder: Path, ids: np.ndarray) -> str:
    np.save(folder / "ids.npy", ids)
    return str(folder / "ids.npy")


@pytest.mark.parametrize("dtype", ["<i4", "<u2", "<u4", "<i8"])
def test_an_id_outside_the_vocabulary_is_named_with_its_place(
    inputs: dict[str, str], tmp_path: Path, dtype: str
):
    ids = np.arange(3000) % 256
    ids[2345] = 257
    error = refused(inputs, tmp_path / "run", train_data=tokens_file(tmp_path, ids.astype(dtype)))
    assert isinstance(error, MalformedError)
    assert error.exit_code == 3
    assert "2,345" in str(error)
    assert "257" in str(error)


def test_a_negative_id_is_outside_too(inputs: dict[str, str], tmp_path: Path):
    ids = (np.arange(3000) % 256).astype("<i4")
    ids[5] = -1
    error = refused(inputs, tmp_path / "run", val_data=tokens_file(tmp_path, ids))
    assert error.exit_code == 3
    assert "-1" in str(error)


def test_a_tokenizer_larger_than_the_model_says_the_flag_that_fits(
    inputs: dict[str, str], tmp_path: Path
):
    error = refused(inputs, tmp_path / "run", vocab_size=256)
    assert isinstance(error, UsageError)
    assert error.exit_code == 2
    assert "--vocab_size 256" in str(error).replace("is ", "")
    assert error.hint == "pass --vocab_size 257"


def test_too_few_tokens_for_one_window(inputs: dict[str, str], tmp_path: Path):
    ids = np.zeros(16, "<i4")
    for name in ("train_data", "val_data"):
        error = refused(inputs, tmp_path / "run", **{name: tokens_file(tmp_path, ids)})
        assert error.exit_code == 2
        assert "16 tokens" in str(error)


def test_sizes_that_do_not_fit_each_other(inputs: dict[str, str], tmp_path: Path):
    assert "--context_length 32" in str(refused(inputs, tmp_path / "run", context_length=32))
    assert "--d_model 16" in str(refused(inputs, tmp_path / "run", n_heads=3))


def test_inputs_that_are_not_there(
    inputs: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    for name in ("train_data", "val_data", "vocab_path", "merges_path"):
        error = refused(inputs, tmp_path / "run", **{name: str(tmp_path / "absent")})
        assert isinstance(error, MissingFileError), name
        assert "absent" in str(error)
        assert "is text" not in capsys.readouterr().err
    assert "--train_data" in str(refused({**inputs, "train_data": None}, tmp_path / "run"))


def test_an_unknown_device(inputs: dict[str, str], tmp_path: Path):
    assert refused(inputs, tmp_path / "run", device="abacus").exit_code == 2


def tokenized(folder: Path, vocab_path: str | Path, merges_path: str) -> Path:
    (folder / "text.txt").write_text("what there is to learn, " * 40)
    tokenizer = lmkit.Tokenizer.from_files(vocab_path, merges_path)
    lmkit.tokenize(folder / "text.txt", folder / "text.npy", tokenizer)
    return folder / "text.npy"


def test_the_sidecar_of_untouched_data_spares_the_pass_over_it(
    inputs: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    text = str(tokenized(tmp_path, inputs["vocab_path"], inputs["merges_path"]))
    read: list[object] = []
    monkeypatch.setattr(training_data, "_read_through", lambda *_: read.append(1) or "hash")
    train({**inputs, "train_data": text, "val_data": None}, tmp_path / "run", max_iters=1)
    assert not read
    Path(text).touch()
    train({**inputs, "train_data": text, "val_data": None}, tmp_path / "again", max_iters=1)
    assert read


def test_text_is_tokenized_beside_it_once(
    inputs: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    text, run = tmp_path / "text.txt", tmp_path / "run"
    text.write_text("what there is to learn, " * 40)
    given = {**inputs, "train_data": str(text), "val_data": None}
    train(given, run, max_iters=2)
    [made] = tmp_path.glob("text.txt.*.npy")
    assert f"{text} is text: tokenizing it into {made}" in capsys.readouterr().err
    assert lmkit.open_tokens(made)[:4].tolist() == list(b"what")
    before = made.stat().st_mtime_ns
    train(given, tmp_path / "again", max_iters=2)
    assert "which was made of it before" in capsys.readouterr().err
    assert made.stat().st_mtime_ns == before
    assert losses(run) == losses(tmp_path / "again")

    text.write_text("something else to learn, " * 40)
    train(given, tmp_path / "third", max_iters=2)
    assert lmkit.open_tokens(made)[:4].tolist() == list(b"some")
    # A .npy under another name is what it is, and a folder is neither.
    made.rename(tmp_path / "ids")
    train({**given, "train_data": str(tmp_path / "ids")}, tmp_path / "fourth", max_iters=2)
    assert losses(tmp_path / "fourth") == losses(tmp_path / "third")
    assert "is a folder" in str(refused(inputs, tmp_path / "fifth", train_data=str(tmp_path)))


def test_data_of_another_tokenizer(inputs: dict[str, str], tmp_path: Path):
    """The sidecar says which tokenizer made the data."""
    other = json.loads(Path(inputs["vocab_path"]).read_text())
    other["zz"] = 300
    (tmp_path / "other.vocab").write_text(json.dumps(other))
    tokenized(tmp_path, tmp_path / "other.vocab", inputs["merges_path"])
    error = refused(inputs, tmp_path / "run", train_data=str(tmp_path / "text.npy"))
    assert isinstance(error, MismatchError)
    assert error.exit_code == 5
    assert "another tokenizer" in str(error)


def test_a_new_run_refuses_a_folder_that_holds_one(inputs: dict[str, str], tmp_path: Path):
    run = tmp_path / "run"
    train(inputs, run, max_iters=2)
    before = (run / "metrics.jsonl").read_text()
    with pytest.raises(UsageError, match="already holds 1 checkpoint") as caught:
        train(inputs, run, max_iters=3)
    assert "--load_checkpoint latest" in str(caught.value.hint)
    assert (run / "metrics.jsonl").read_text() == before
    Trainer(settings(inputs, run, max_iters=3), force=True).train()
    assert [iteration for iteration, _ in checkpoints_in(run)] == [3]
    assert (run / "superseded" / "checkpoint_2.pt").exists()


def test_a_loss_that_is_no_number_ends_the_run_with_advice(
    inputs: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    forward = torch.nn.Embedding.forward
    calls = 0

    def spoilt(self: torch.nn.Embedding, ids: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return forward(self, ids) * (float("nan") if calls > 3 else 1.0)

    monkeypatch.setattr(torch.nn.Embedding, "forward", spoilt)
    run = tmp_path / "run"
    with pytest.raises(TrainingError, match="the loss became nan at iteration 4") as caught:
        train(inputs, run, max_iters=10)
    assert caught.value.exit_code == 1
    for flag in ("lower --learning_rate", "--max_grad_norm", "higher --weight_decay"):
        assert flag in str(caught.value.hint)
    # The three sound steps are kept.
    assert [iteration for iteration, _ in checkpoints_in(run)] == [3]


@pytest.mark.parametrize(
    ("where", "error"),
    [
        (
            (torch.nn.Embedding, "forward"),
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 1 bytes"),
        ),
        ((torch.Tensor, "backward"), torch.OutOfMemoryError("CUDA out of memory. Tried to\nfree")),
        ((torch.optim.AdamW, "step"), MemoryError()),
    ],
    ids=["forward", "backward", "update"],
)
def test_a_failed_allocation_ends_the_run_with_the_numbers_and_the_flags(
    where: tuple[type, str],
    error: Exception,
    inputs: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    """In its third step; the two before it are kept, unless the update itself broke off."""
    before, calls = getattr(*where), 0

    def full(*arguments: object, **options: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise error
        return before(*arguments, **options)

    monkeypatch.setattr(*where, full)
    run = tmp_path / "run"
    with pytest.raises(TrainingError) as caught:
        train({**inputs, "val_data": None}, run, max_iters=10)
    assert "out of memory on cpu with --batch_size 4 and --context_length 16, " in str(caught.value)
    assert "GiB a sequence" in str(caught.value)
    assert "\n" not in str(caught.value)
    for flag in ("--batch_size (auto", "--context_length", "--d_model"):
        assert flag in str(caught.value.hint)
    kept = [iteration for iteration, _ in checkpoints_in(run)]
    assert kept == ([] if where[1] == "step" else [2])


def test_validation_disturbs_nothing_and_finds_the_same_twice(
    inputs: dict[str, str], tmp_path: Path
):
    often, never = tmp_path / "often", tmp_path / "never"
    history = train(inputs, often, max_iters=6, eval_interval=1)
    train({**inputs, "val_data": None}, never, max_iters=6)
    losses = [[r["loss"] for r in runs if "loss" in r] for runs in (history, records(never))]
    assert losses[0] == losses[1]
    state = torch.load(often / "checkpoint_6.pt", weights_only=True)
    assert state["best_val_loss"] == min(r["val_loss"] for r in history if "val_loss" in r)


def test_the_loss_is_the_mean_over_the_whole_batch(inputs: dict[str, str], tmp_path: Path):
    """And not that of the last micro-batch."""
    one, four = tmp_path / "one", tmp_path / "four"
    whole = train(inputs, one, max_iters=1, batch_size=4)
    parts = train(inputs, four, max_iters=1, batch_size=1, grad_accum_steps=4)
    assert parts[1]["loss"] == pytest.approx(whole[1]["loss"], abs=1e-5)
    assert parts[1]["grad_norm"] == pytest.approx(whole[1]["grad_norm"], rel=1e-4)


def test_a_prompt_is_continued_at_each_evaluation_and_disturbs_nothing(
    inputs: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    train(inputs, tmp_path / "without", max_iters=10)
    capsys.readouterr()
    train(inputs, tmp_path / "with", max_iters=10, sample_prompt="3 times")
    printed = capsys.readouterr().out
    assert printed.count("\nSample: 3 times") == 2
    assert losses(tmp_path / "with") == losses(tmp_path / "without")


def test_an_empty_prompt_that_nothing_begins_is_refused_at_the_door(tmp_path: Path):
    inputs = make_inputs(tmp_path)
    vocab = Path(inputs["vocab_path"])
    plain = {token: n for token, n in json.loads(vocab.read_text()).items() if n < 256}
    vocab.write_text(json.dumps(plain))
    with pytest.raises(UsageError, match=r"an empty --sample_prompt needs <\|endoftext\|>"):
        train(inputs, tmp_path / "run", max_iters=10, sample_prompt="")
    assert not (tmp_path / "run").exists()


def test_epochs_resume_bit_for_bit(inputs: dict[str, str], tmp_path: Path):
    one, two = tmp_path / "one", tmp_path / "two"
    train(inputs, one, max_iters=8, sampling="epoch")
    train(inputs, two, max_iters=5, sampling="epoch")
    resume(two, max_iters=8)
    assert losses(one) == losses(two)


def test_several_files_are_mixed_by_weight_and_resume_bit_for_bit(
    inputs: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    mixed = f"{inputs['train_data']}=3,{inputs['val_data']}"
    one, two = tmp_path / "one", tmp_path / "two"
    train({**inputs, "train_data": mixed}, one, max_iters=8)
    train({**inputs, "train_data": mixed}, two, max_iters=5)
    resume(two, max_iters=8)
    assert losses(one) == losses(two)
    train(inputs, tmp_path / "three", max_iters=8)
    assert losses(tmp_path / "three") != losses(one)
    capsys.readouterr()
    resume(two, max_iters=9, train_data=mixed.replace("=3", "=2"))
    assert "is not the data of the checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("typed", "said"),
    [("a.npy=x,b.npy", "'x' is no weight"), ("a.npy=0,b.npy", "must be above 0"), ("a,b", "a: no")],
)
def test_weights_that_are_none(inputs: dict[str, str], tmp_path: Path, typed: str, said: str):
    error = refused(inputs, tmp_path / "run", train_data=typed)
    assert error.exit_code == 2
    assert said in str(error)
