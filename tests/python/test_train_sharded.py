"""A model cut over processes (FSDP2): the same losses, and checkpoints that any number reads."""

import json
import shutil
import signal
from pathlib import Path

import pytest
import torch

from lmkit.config import TrainConfig
from lmkit.errors import UsageError
from lmkit.lm.checkpoint import load_model, read_checkpoint
from lmkit.lm.checkpoint_names import checkpoints_in
from lmkit.lm.device import Device
from lmkit.lm.distributed import Ranks
from lmkit.lm.export import export_model
from lmkit.lm.sharding import check_sharding
from many_processes import kill_one_and_wait, wait_for
from tiny_run import (
    FOREVER,
    assert_same_losses,
    assert_same_tensors,
    flags,
    losses,
    make_documents,
    records,
    resume,
    run_script,
    settings,
    start_command,
    train,
)

pytestmark = pytest.mark.usefixtures("on_one_thread")

# Accumulated, clipped and averaged: what must not depend on who holds what.
COMMON = {
    "grad_accum_steps": 2,
    "max_grad_norm": 0.5,
    "ema_decay": 0.9,
    "eval_interval": 3,
    "num_eval_batches": 3,  # which 2 and 4 processes cannot share equally
    "tie_embeddings": True,
    "save_interval": 4,
}

# For a run that is killed, and for the same run left alone.
UNDISTURBED = {"save_interval": 5, "log_interval": FOREVER, "eval_interval": FOREVER}
STRAIGHT = 30

# Four processes forked from one that has loaded everything: each takes part in those of the runs
# that have a place for it. A run is [first process, how many, settings, NaNs at step].
PROCESSES = """
import json, os, socket, sys
import torch
import torch._dynamo, torch.distributed.checkpoint, torch.distributed.fsdp
from lmkit.lm.report import Report
from lmkit.lm.sharded_writer import ShardedWriter
from lmkit.lm.stepper import Stepper
from lmkit.lm.trainer import Trainer
from lmkit.process import LISTENING

torch.set_num_threads(1)
runs = json.loads(sys.argv[1])
servers = [socket.create_server(("127.0.0.1", 0)) for _ in runs]

backward = Stepper.backward

def take_part(rank, count, server, given, nan_at):
    port = server.getsockname()[1]
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_RANK": str(rank),
                   "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ[LISTENING] = "" if rank else str(server.detach())
    server.close()
    trainer = Trainer(given, report=Report())
    def spoilt(stepper, batch):
        loss = backward(stepper, batch)
        if rank == count - 1 and batch in nan_at:
            next(iter(trainer.model.parameters())).grad.mul_(float("nan"))
        return loss
    Stepper.backward = spoilt
    trainer.train()

children = []
for process in range(4):
    child = os.fork()
    if not child:
        for server, (first, count, given, nan_at) in zip(servers, runs):
            if first <= process < first + count:
                take_part(process - first, count, server, given, nan_at)
            server.close()
        sys.stdout.flush()
        os._exit(0)
    children.append(child)
for server in servers:
    server.close()
codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
sys.exit(max(map(abs, codes)))
"""


def together(jobs: list[tuple[int, int, dict[str, object], list[int]]]) -> str:
    """Let four processes do the jobs, each (first, count, settings, NaNs); what was printed."""
    done = run_script(PROCESSES, json.dumps(jobs))
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def runs(inputs: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of one, two and four processes, with copies of the model and with shares of it."""
    folder = tmp_path_factory.mktemp("runs")

    def given(name: str, **others: object) -> dict[str, object]:
        return settings(inputs, folder / name, **{**COMMON, "max_iters": 8, **others})

    def going_on(name: str, checkpoint: str, **others: object) -> dict[str, object]:
        start = {"checkpoint_dir": str(folder / name), "load_checkpoint": str(folder / checkpoint)}
        return {**start, "max_iters": 8, **others}

    muon = {"optimizer": "muon", "qk_norm": True, "n_kv_heads": 1, "tie_embeddings": False}
    muon |= {"max_iters": 4, "eval_interval": FOREVER}
    (folder / "documents").mkdir()
    documents = make_documents(folder / "documents") | {"max_iters": 5}
    plain = settings(inputs, folder, parallel="fsdp", **UNDISTURBED, max_iters=STRAIGHT)
    bad = {"save_interval": 2, "max_bad_steps": 1, "on_bad_steps": "rollback", "keep_last": 2}
    train(inputs, folder / "one", **COMMON, max_iters=8)
    said = together(
        [
            (0, 4, given("fsdp4", parallel="fsdp"), []),
            (0, 4, given("ddp4"), []),
            (0, 2, given("fsdp2", parallel="fsdp", sample_prompt="3"), []),
            (2, 2, given("ddp2"), []),
            (0, 2, going_on("fsdp4-fsdp2", "fsdp4/checkpoint_4.dcp"), []),
            (2, 2, going_on("fsdp4-ddp2", "fsdp4/checkpoint_4.dcp", parallel="ddp"), []),
            (0, 2, going_on("fsdp2-fsdp2", "fsdp2/checkpoint_4.dcp"), []),
            (2, 2, going_on("one-fsdp2", "one/checkpoint_4.pt", parallel="fsdp"), []),
            (0, 2, given("muon2", parallel="fsdp", **muon), []),
            (2, 2, given("bad2", parallel="fsdp", **bad), [5, 6, 7]),
            (0, 2, {**plain, "checkpoint_dir": str(folder / "straight")}, []),
            (2, 2, given("respect2", parallel="fsdp", respect_documents=True, **documents), []),
            (2, 2, given("mask2", parallel="fsdp", mask_documents=True, **documents), []),
        ]
    )
    (folder / "said").write_text(said)
    train(inputs, folder / "muon", **{**COMMON, **muon})
    for name in ("respect", "mask"):
        train({}, folder / name, **{**COMMON, **documents, f"{name}_documents": True})
    return folder


@pytest.mark.parametrize("name", ["fsdp4", "ddp4", "fsdp2", "ddp2"])
def test_the_losses_are_those_of_one_process(runs: Path, name: str):
    assert_same_losses(runs / name, runs / "one")
    assert validation(runs / name) == pytest.approx(validation(runs / "one"), abs=1e-3)


def validation(run: Path) -> list[float]:
    return [record["val_loss"] for record in records(run) if "val_loss" in record]


def test_only_the_first_process_speaks(runs: Path):
    said = (runs / "said").read_text().splitlines()
    assert len([line for line in said if line.startswith("Starting training...")]) == 13
    saving = [line for line in said if line.startswith("Saving checkpoint to")]
    assert sum(line.endswith("fsdp4/checkpoint_8.dcp") for line in saving) == 1
    assert (runs / "fsdp2" / "train.log").read_text().count("Sample: 3") == 2
    assert (runs / "fsdp2" / "metrics.jsonl").read_text().count("save_stall") == 4


@pytest.mark.parametrize("name", ["fsdp4-fsdp2", "fsdp4-ddp2", "one-fsdp2"])
def test_a_run_goes_on_with_other_processes(runs: Path, name: str):
    assert list(losses(runs / name)) == [5, 6, 7, 8]
    for step, loss in losses(runs / name).items():
        assert loss == pytest.approx(losses(runs / "one")[step], abs=2e-3), step
    suffix = "pt" if name.endswith("ddp2") else "dcp"
    assert [path.name for _, path in checkpoints_in(runs / name)] == [f"checkpoint_8.{suffix}"]
    ours, theirs = (read_checkpoint(checkpoints_in(runs / run)[0][1]) for run in (name, "one"))
    for part in ("model", "average"):
        for parameter, value in theirs[part].items():
            torch.testing.assert_close(ours[part][parameter], value, atol=2e-3, rtol=1e-2)


def test_with_as_many_processes_it_goes_on_bit_for_bit(runs: Path):
    one, other = (runs / name / "checkpoint_8.dcp" for name in ("fsdp2", "fsdp2-fsdp2"))
    states = [read_checkpoint(path) for path in (one, other)]
    for state in states:
        state.pop("spent")
        for name in ("checkpoint_dir", "load_checkpoint"):
            state["config"].pop(name)
    assert_same_tensors(*states)


def test_one_process_goes_on_with_what_four_wrote(runs: Path, tmp_path: Path):
    run = tmp_path / "run"
    shutil.copytree(runs / "fsdp4", run)
    resume(run, max_iters=12)
    resume(
        runs / "one",
        max_iters=12,
        checkpoint_dir=str(tmp_path / "one"),
        load_checkpoint=str(runs / "one" / "checkpoint_8.pt"),
    )
    for step, loss in losses(tmp_path / "one").items():
        assert losses(run)[step] == pytest.approx(loss, abs=2e-3), step
    assert {path.name for _, path in checkpoints_in(run)} == {
        "checkpoint_12.pt",
        "checkpoint_8.dcp",
        "checkpoint_4.dcp",
    }


def test_tied_weights_are_stored_once_and_read_as_one(runs: Path):
    state = read_checkpoint(runs / "fsdp4" / "checkpoint_8.dcp")
    model = state["model"]
    assert model["lm_head.weight"] is model["token_embeddings.weight"]
    assert state["settings"]["processes"] == 4
    assert state["settings"]["parallel"] == "fsdp"
    reference = read_checkpoint(runs / "one" / "checkpoint_8.pt")
    assert state.keys() == reference.keys()
    assert state["optimizer"]["param_groups"] == reference["optimizer"]["param_groups"]
    assert state["optimizer"]["state"].keys() == reference["optimizer"]["state"].keys()


@pytest.mark.parametrize(("path", "reference"), [("", ""), ("best.dcp", "best.pt")])
def test_what_reads_a_model_reads_its_shares(runs: Path, path: str, reference: str):
    """The run folder's newest and its best, as ``generate`` and ``evaluate`` load them."""
    model, tokenizer = load_model(runs / "fsdp4" / path)
    whole, _ = load_model(runs / "one" / reference)
    assert tokenizer.vocab_size == 257
    assert model.context_length == 16
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, atol=2e-3, rtol=1e-2)


def test_shares_are_exported_as_a_whole(runs: Path, tmp_path: Path):
    said = export_model(runs / "fsdp4", tmp_path / "out.safetensors", format="safetensors")
    assert said.checkpoint == f"{runs}/fsdp4/best.dcp"
    whole = export_model(runs / "one", tmp_path / "one.safetensors", format="safetensors")
    assert (said.parameters, said.iteration) == (whole.parameters, whole.iteration)


def test_muon_is_the_same_with_shares(runs: Path):
    assert_same_losses(runs / "muon2", runs / "muon")


@pytest.mark.parametrize("name", ["respect", "mask"])
def test_documents_are_kept_apart_with_shares(runs: Path, name: str):
    assert_same_losses(runs / f"{name}2", runs / name)
    assert validation(runs / f"{name}2") == pytest.approx(validation(runs / name), abs=1e-3)


def test_bad_updates_are_skipped_and_gone_back_from_by_all(runs: Path):
    """Batches 5 and 6 spoil one process's gradient: back to step 4, and on with batch 7, 8, …"""
    log = (runs / "bad2" / "train.log").read_text()
    assert "going on from there with batch 7, past the bad ones" in log
    state = read_checkpoint(runs / "bad2" / "checkpoint_8.dcp")
    assert state["bad_steps"]["skipped"] == 1  # batch 7 is bad too, but alone
    assert state["data"]["next_batch"] == 8 + 1 + 2
    assert [path.name for _, path in checkpoints_in(runs / "bad2")] == [
        "checkpoint_8.dcp",
        "checkpoint_6.dcp",
    ]
    assert all(bool(value.isfinite().all()) for value in state["model"].values())


def test_a_killed_process_costs_nothing_but_time(
    inputs: dict[str, str], runs: Path, tmp_path: Path
):
    """Begun again, the run is bit for bit the one that nobody killed."""
    run = tmp_path / "run"
    given = settings(inputs, run, parallel="fsdp", **UNDISTURBED, max_iters=FOREVER)
    reached = STRAIGHT
    while reached >= STRAIGHT:  # we may look late, and then there is nothing to compare
        process = start_command(*flags(given), "--force", "--nproc", "2", "--max_restarts", "1")
        wait_for(run / "checkpoint_5.dcp", process)
        reached = kill_one_and_wait(process, run)
        if reached >= STRAIGHT:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=120)
    wait_for(run / f"checkpoint_{reached + 5}.dcp", process)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 143, said
    assert "beginning again from the last checkpoint (restarts left: 0)" in said
    last = checkpoints_in(run)[0][0]
    assert list(losses(run)) == list(range(1, last + 1))
    assert not list(run.glob(".*"))
    straight = losses(runs / "straight")
    common = straight.keys() & losses(run).keys()
    assert {step: losses(run)[step] for step in common} == {s: straight[s] for s in common}


@pytest.mark.parametrize(
    ("device", "auto_batch", "said"),
    [
        ("cpu", True, "--batch_size auto and --parallel fsdp do not go together"),
        ("mps", False, "--parallel fsdp and --device mps do not go together"),
    ],
)
def test_what_cannot_be_cut_is_refused(device: str, auto_batch: bool, said: str):
    with pytest.raises(UsageError, match=said):
        check_sharding(TrainConfig(), Device(torch.device(device)), auto_batch=auto_batch)


def test_one_process_has_nothing_to_cut():
    assert not Ranks().cut_model(TrainConfig(parallel="fsdp"))
    assert Ranks(0, 2).cut_model(TrainConfig(parallel="fsdp"))
    assert not Ranks(0, 2).cut_model(TrainConfig())
