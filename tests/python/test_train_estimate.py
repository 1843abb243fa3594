"""What a run will take is said before its first step, and a batch is split so that it fits."""

import json
import re
from pathlib import Path

import pytest
import torch

from lmkit.cli import main
from lmkit.config import TrainConfig
from lmkit.errors import UsageError
from lmkit.lm import advice, estimate, micro_batch
from lmkit.lm.device import Device
from lmkit.lm.estimate import memory_per_row, peak_memory
from lmkit.lm.micro_batch import divisors, largest, with_largest_micro_batch
from lmkit.lm.model import Transformer
from lmkit.lm.trainer import Trainer
from lmkit.model_config import ModelConfig
from tiny_run import assert_same_tensors, flags, losses, resume, settings, train

pytestmark = pytest.mark.usefixtures("on_one_thread")

CPU = Device(torch.device("cpu"))
SMALL = ModelConfig(vocab_size=64, d_model=16, n_layers=1, n_heads=2, d_ff=24)


def lmkit_train(given: dict[str, object], *words: str) -> None:
    main.main(["train", *flags(given), *words], prog_name="lmkit", standalone_mode=False)


def test_a_dry_run_says_what_the_run_would_take_and_leaves_nothing(
    inputs: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run = tmp_path / "run"
    lmkit_train(settings(inputs, run, max_iters=1000, save_interval=300), "--dry_run")
    lines = capsys.readouterr().out.splitlines()
    assert lines[:7] == [
        "Using device: cpu",
        "Loading tokenizer...",
        "Tokenizer loaded.",
        "Loading training data...",
        "Loading validation data...",
        "Creating model...",
        "Model created with 12,656 total parameters (12,656 trainable)",
    ]
    # 4 * 16 tokens; 6 * (12,656 - 257 * 16 - 5 * 16) + 12 * 2 * 16 * 16 FLOPs each.
    assert lines[7].startswith("64 tokens and 0.00 GFLOP a step; 1,000 steps go 4.")
    assert lines[8].startswith("About 70")
    assert lines[-1] == "Dry run: nothing was written."
    assert not run.exists()


def test_a_dry_run_in_json_has_the_numbers(
    inputs: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    given = settings(inputs, tmp_path / "run", max_iters=1000, save_interval=300)
    lmkit_train(given, "--dry_run", "--json")
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["event"] == "estimate"
    assert told["parameters"] == 12_656
    assert told["flops_per_token"] == 6 * (12_656 - 257 * 16 - 5 * 16) + 12 * 2 * 16 * 16
    assert told["tokens_per_step"] == 64
    assert told["checkpoint_bytes"] == 12 * 12_656
    assert told["disk"] == 5 * 12 * 12_656  # four, and the best
    assert told["memory"] > 700 << 20
    assert told["free_disk"] > 0


def test_a_dry_run_refuses_what_the_run_would(inputs: dict[str, str], tmp_path: Path):
    run = tmp_path / "run"
    train(inputs, run, max_iters=1)
    with pytest.raises(UsageError, match="already holds 1 checkpoint"):
        lmkit_train(settings(inputs, run), "--dry_run")
    before = sorted(run.iterdir())
    lmkit_train({"load_checkpoint": str(run / "checkpoint_1.pt")}, "--dry_run")
    assert sorted(run.iterdir()) == before


def test_a_run_says_it_too_and_how_long_it_will_take(
    inputs: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    train(inputs, tmp_path / "run", max_iters=10, log_interval=100)
    said = capsys.readouterr().err
    assert "note: 64 tokens and 0.00 GFLOP a step; 10 steps go 0.0" in said
    assert "for the 2 steps left, at 0." in said


def test_what_does_not_fit_is_said_with_the_flags_that_help(
    inputs: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.setattr(estimate, "free_memory", lambda _: 1 << 20)
    monkeypatch.setattr(estimate, "_free_disk", lambda _: 1 << 10)
    train(inputs, tmp_path / "run", max_iters=1)
    said = capsys.readouterr().err
    assert "1 MiB are free: --batch_size auto" in said
    assert "0 MiB are free on the disk: use --keep_last" in said


def test_out_of_memory_ends_with_the_numbers():
    config = TrainConfig(model=ModelConfig(vocab_size=1000, d_model=256, n_layers=4, n_heads=4))
    error = advice.out_of_memory(config, CPU, "no room")
    assert "by estimate 0.97 GiB and 0.179 GiB a sequence: no room" in str(error)
    assert "--batch_size (auto finds what fits" in str(error.hint)
    assert "--context_length" in str(error.hint)


@pytest.mark.parametrize(
    ("shape", "rows", "context"),
    [
        ({"vocab_size": 500, "d_model": 64, "n_layers": 3, "n_heads": 4, "d_ff": 160}, 4, 64),
        ({"vocab_size": 100, "d_model": 128, "n_layers": 2, "n_heads": 2, "d_ff": 128}, 2, 128),
    ],
)
def test_the_estimate_counts_what_the_backward_pass_keeps(
    shape: dict[str, int], rows: int, context: int
):
    model = Transformer(ModelConfig(**shape, max_seq_len=context))
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def count(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return tensor

    ids = torch.zeros(rows, context, dtype=torch.int64)
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        model(ids, ids)
    counted = sum(storage.nbytes() for storage in kept.values())
    config = TrainConfig(model=model.config, batch_size=rows, context_length=context)
    estimated = rows * memory_per_row(config, CPU) / estimate.TEMPORARIES
    assert counted == pytest.approx(estimated, rel=0.15)


def test_the_largest_that_fits():
    assert divisors(12) == [12, 6, 4, 3, 2, 1]
    assert largest(divisors(12), lambda size: size <= 5) == 4
    assert largest(divisors(12), lambda _: False) == 1


@pytest.mark.parametrize(("share", "size"), [(1.01, 24), (0.6, 12), (0.0, 1)])
def test_on_a_cpu_the_estimate_decides(share: float, size: int, monkeypatch: pytest.MonkeyPatch):
    config = TrainConfig(batch_size=8, grad_accum_steps=3)
    with torch.device("meta"):
        model = Transformer(config.model)
    fixed = peak_memory(config, model.parameter_count(), CPU) - 8 * memory_per_row(config, CPU)
    rows = share * 24 * memory_per_row(config, CPU)
    free = int((fixed + rows) / micro_batch.HOST_SHARE)
    monkeypatch.setattr(micro_batch, "free_memory", lambda _: free)
    found = with_largest_micro_batch(config, CPU, model)
    assert (found.batch_size, found.grad_accum_steps) == (size, 24 // size)


def test_on_a_gpu_sizes_are_tried_largest_first(monkeypatch: pytest.MonkeyPatch):
    tried: list[int] = []

    def fits(config: TrainConfig, *_: object) -> bool:
        tried.append(config.batch_size)
        return config.batch_size <= 6

    monkeypatch.setattr(micro_batch, "_runs", fits)
    config = TrainConfig(model=SMALL, batch_size=8, grad_accum_steps=3)
    found = with_largest_micro_batch(config, Device(torch.device("cuda")), Transformer(SMALL))
    assert tried == [24, 12, 8, 6]
    assert (found.batch_size, found.grad_accum_steps) == (6, 4)


def test_a_trial_that_finds_no_room_leaves_the_model_as_it_was(monkeypatch: pytest.MonkeyPatch):
    model = Transformer(SMALL)
    config = TrainConfig(model=SMALL, batch_size=2, context_length=8)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert micro_batch._runs(config, CPU, model)

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch.Tensor, "backward", full)
    assert not micro_batch._runs(config, CPU, model)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert_same_tensors(dict(model.state_dict()), before)


def test_an_automatic_batch_keeps_the_batch_of_the_step(
    inputs: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    def small(config, *_):
        return micro_batch._split(config, 2)

    monkeypatch.setattr("lmkit.lm.preparation.with_largest_micro_batch", small)
    run, same = tmp_path / "run", tmp_path / "same"
    train(inputs, run, max_iters=2, batch_size="auto")
    assert "--batch_size auto: 2 sequences fit, so 16 micro-batches" in capsys.readouterr().err
    train(inputs, same, max_iters=4, batch_size=2, grad_accum_steps=16)
    resume(run, max_iters=4)
    assert losses(run) == losses(same)
    Trainer({"load_checkpoint": str(run / "checkpoint_4.pt"), "batch_size": "auto"}).train()
    assert "batch_size = 2" in (run / "config.toml").read_text()


def test_an_automatic_batch_takes_the_presets(
    inputs: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    given = {name: inputs[name] for name in ("vocab_path", "merges_path", "train_data")}
    given |= {"checkpoint_dir": str(tmp_path / "run"), "device": "cpu", "context_length": 16}
    lmkit_train({**given, "preset": "small", "batch_size": "auto"}, "--dry_run")
    said = capsys.readouterr()
    assert "--batch_size auto: 16 sequences fit, so 1 micro-batch of them make" in said.err
    assert "256 tokens and" in said.out


def test_the_share_of_the_peak_is_told_where_the_peak_is_known(
    inputs: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.setattr(Device, "peak_flops", lambda _: 1e9)
    train(inputs, tmp_path / "run", max_iters=5)
    assert re.search(r"tokens/s \| MFU \d+\.\d% \| ETA 0s", capsys.readouterr().out)


@pytest.mark.parametrize(("peak", "said"), [(None, ": unknown"), (989.4e12, ": 989 TFLOP/s")])
def test_the_convention_is_told_with_the_peak(
    peak: float | None, said: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Device, "peak_flops", lambda _: peak)
    config = TrainConfig()
    with torch.device("meta"):
        model = Transformer(config.model)
    found = estimate.estimate(config, model, Device(torch.device("mps")), 10**9)
    assert "MFU counts, a token, 6 FLOPs" in found.sentences(config)[-1]
    assert found.sentences(config)[-1].endswith(said)
