"""The folder of a checkpoint that is cut: whole or not there, verified, and nothing but data."""

import dataclasses
import errno
import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed
from torch.distributed.checkpoint.filesystem import FileSystemWriter

from lmkit.config import TrainConfig
from lmkit.errors import MismatchError, MissingFileError, SystemRefusedError, TrainingError
from lmkit.lm.checkpoint import iteration_of, read_checkpoint, read_latest, verifies
from lmkit.lm.checkpoint import write_checkpoint as write_whole
from lmkit.lm.checkpoint_names import checkpoints_in, is_folder, recover_replaced
from lmkit.lm.checkpoint_writer import Saved, prune, snapshot
from lmkit.lm.device import Device
from lmkit.lm.distributed import Ranks
from lmkit.lm.model import Transformer
from lmkit.lm.optimizer import make_optimizer
from lmkit.lm.sharded_checkpoint import fill, read_outline, whole, write_sharded
from lmkit.lm.sharded_writer import ShardedWriter
from lmkit.lm.sharding import cut_state, empty_like_cut, empty_model, own_part
from lmkit.model_config import ModelConfig
from tiny_run import assert_same_tensors, run_script

SHAPE = ModelConfig(vocab_size=11, d_model=8, n_layers=1, n_heads=2, d_ff=8, tie_embeddings=True)
CONFIG = TrainConfig(model=SHAPE, context_length=4)
ALONE = Ranks()


@pytest.fixture(scope="module", autouse=True)
def _group() -> Iterator[None]:
    """One process is a group too, and its share of a model all of it."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def state() -> dict[str, Any]:
    """A model of one block that has taken a step, cut over one process."""
    torch.manual_seed(0)
    model = empty_model(CONFIG, Device(torch.device("cpu")), ALONE)
    with torch.no_grad():
        for parameter in model.parameters():
            own_part(parameter).normal_()
    optimizer = make_optimizer(model, CONFIG)
    ids_BT = torch.arange(8).reshape(2, 4)
    model(ids_BT, ids_BT).backward()
    optimizer.step()
    return {
        "model": model.state_dict(keep_vars=True),
        "optimizer": optimizer.state_dict(),
        "iteration": 3,
        "generators": {"cpu": torch.get_rng_state()},
        "config": {"seed": 0},
    }


def test_a_cut_model_rotates_as_a_whole_one_does():
    shape = dataclasses.replace(SHAPE, rope_theta=500.0, rope_scaling="8,1,4,16")
    config = TrainConfig(model=shape, context_length=4)
    cut = dict(empty_model(config, Device(torch.device("cpu")), ALONE).named_buffers())
    whole_ones = dict(Transformer(shape).named_buffers())
    assert_same_tensors(cut, whole_ones)


@pytest.fixture
def written(state: dict[str, Any], tmp_path: Path) -> Path:
    path = tmp_path / "checkpoint_3.dcp"
    write_sharded(path, snapshot(state), ALONE, None)
    return path


def plain(value: Any) -> Any:
    """A state with whole tensors in place of what is cut."""
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    return value.full_tensor().detach() if hasattr(value, "full_tensor") else value


def test_all_comes_back(state: dict[str, Any], written: Path):
    found = read_checkpoint(written)
    assert_same_tensors(found, plain(dict(state, model=dict(state["model"]))))
    assert found["model"]["lm_head.weight"] is found["model"]["token_embeddings.weight"]
    assert iteration_of(written) == 3
    assert is_folder(written)
    assert {one.name for one in written.iterdir()} == {
        ".metadata",
        "__0_0.distcp",
        "state.pt",
        "checkpoint.json",
    }
    assert not list(written.parent.glob(".*"))


def test_rows_are_cut_from_a_file_and_read_from_a_folder(written: Path, tmp_path: Path):
    model = empty_model(CONFIG, Device(torch.device("cpu")), ALONE)
    whole_state = read_checkpoint(written)
    write_whole(tmp_path / "whole.pt", whole_state)
    cut = cut_state(read_checkpoint(tmp_path / "whole.pt"), model)
    rows = fill(
        read_outline(written),
        written,
        lambda one: empty_like_cut(one.shape, one.dtype, model),
    )
    for one in (cut, rows):
        assert hasattr(one["optimizer"]["state"][0]["exp_avg"], "to_local")
        assert_same_tensors(plain(one), whole_state)


def test_only_what_is_asked_for_is_read(written: Path):
    outline = read_outline(written)
    asked = []
    fill({"model": outline["model"]}, written, lambda one: asked.append(one.name) or whole(one))
    assert len(asked) == len(set(asked))
    assert all(name.startswith("model.") for name in asked)


@pytest.mark.parametrize("name", [".metadata", "__0_0.distcp", "state.pt"])
def test_a_folder_that_was_altered_is_refused(written: Path, name: str):
    content = bytearray((written / name).read_bytes())
    content[len(content) // 2] ^= 1
    (written / name).write_bytes(content)
    with pytest.raises(MismatchError, match=rf"damaged: {name} is not what checkpoint.json says"):
        read_checkpoint(written)
    assert not verifies(written)


def test_a_folder_with_something_missing_is_refused(written: Path):
    (written / "__0_0.distcp").unlink()
    with pytest.raises(MismatchError, match=r"damaged: __0_0\.distcp is missing"):
        read_checkpoint(written)
    (written / "checkpoint.json").unlink()
    with pytest.raises(MismatchError, match=r"damaged: it has no checkpoint\.json"):
        read_checkpoint(written)
    shutil.rmtree(written)
    with pytest.raises(MissingFileError, match="there is no checkpoint at"):
        read_checkpoint(written)


def rewrite_manifest(folder: Path, **others: object) -> None:
    manifest = json.loads((folder / "checkpoint.json").read_bytes())
    (folder / "checkpoint.json").write_text(json.dumps({**manifest, **others}))


@pytest.mark.parametrize(
    ("others", "said"),
    [
        ({"format": 2}, "has format 2, this version of lmkit reads 1"),
        ({"files": {"../x": {"size": 1, "sha256": ""}}}, r"damaged: \.\./x is no file of"),
        ({"files": {}}, "damaged: files are missing"),
        ({"files": [1]}, "the manifest .* is damaged"),
        ({"iteration": None}, "the manifest .* is damaged"),
    ],
)
def test_a_manifest_that_lies_is_refused(written: Path, others: dict[str, object], said: str):
    rewrite_manifest(written, **others)
    with pytest.raises(MismatchError, match=said):
        read_checkpoint(written)


class Attack:
    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("taken",)


@pytest.mark.parametrize("attack", ["named", "through a module"])
def test_nothing_in_a_folder_is_run(
    written: Path, attack: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    if attack == "named":
        content = pickle.dumps(Attack())
    else:  # what a pickle may name would lead on to what it may not
        names = b"\x8c\x29torch.distributed.checkpoint.metadata\x8c\x08os.mkdir\x93"
        names = names.replace(b"\x29", bytes([len("torch.distributed.checkpoint.metadata")]))
        content = b"\x80\x04" + names + b"\x8c\x05taken\x85R."
    (written / ".metadata").write_bytes(content)
    files = json.loads((written / "checkpoint.json").read_bytes())["files"]
    files[".metadata"] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    rewrite_manifest(written, files=files)
    with pytest.raises(MismatchError, match="holds more than plain data"):
        read_checkpoint(written)
    assert not (tmp_path / "taken").exists()


def test_the_newest_that_verifies_is_taken(state: dict[str, Any], written: Path, tmp_path: Path):
    write_sharded(tmp_path / "checkpoint_5.dcp", snapshot(state), ALONE, None)
    write_whole(tmp_path / "checkpoint_4.pt", {"model": {}, "iteration": 4})
    assert [one.name for _, one in checkpoints_in(tmp_path)] == [
        "checkpoint_5.dcp",
        "checkpoint_4.pt",
        "checkpoint_3.dcp",
    ]
    (tmp_path / "checkpoint_5.dcp" / "state.pt").unlink()
    (tmp_path / "checkpoint_4.pt").write_bytes(b"")
    said: list[str] = []
    name, found = read_latest(tmp_path, said.append)
    assert name == str(written)
    assert found["iteration"] == 3
    assert [one.split(":")[0] for one in said] == [
        "passed over checkpoint_5.dcp",
        "passed over checkpoint_4.pt",
    ]
    # The oldest is the only whole one: pruning leaves it alone.
    assert prune(tmp_path, 2) == []
    assert [one.name for one in prune(tmp_path, 3)] == []


def test_old_folders_go_and_the_other_kind_of_the_same_step(state: dict[str, Any], tmp_path: Path):
    writer = ShardedWriter(tmp_path, 2, pytest.fail, None, ALONE)
    write_whole(tmp_path / "checkpoint_3.pt", {"model": {}, "iteration": 3})
    for step in (1, 2, 3):
        name = f"checkpoint_{step}.dcp"
        paths = [tmp_path / name, tmp_path / "best.dcp"]
        writer.write(paths, state | {"iteration": step}, Saved(step, name))
        assert writer.has(step)
    assert writer.wait() is None
    assert sorted(one.name for one in tmp_path.iterdir()) == [
        "best.dcp",
        "checkpoint_2.dcp",
        "checkpoint_3.dcp",
    ]
    assert writer.saved == Saved(3, "checkpoint_3.dcp")
    assert iteration_of(tmp_path / "best.dcp") == 3


def test_the_copy_is_of_the_moment_of_saving():
    model = empty_model(CONFIG, Device(torch.device("cpu")), ALONE)
    parameters = list(model.parameters())
    with torch.no_grad():
        for parameter in parameters:
            own_part(parameter).fill_(1.0)
        copy = snapshot({"model": model.state_dict(keep_vars=True)})["model"]
        for parameter in parameters:
            own_part(parameter).fill_(2.0)
    assert all(bool((own_part(one) == 1).all()) for one in copy.values())
    assert copy["lm_head.weight"] is copy["token_embeddings.weight"]


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def broken(*_: object) -> None:
    raise ValueError("no such plan")


@pytest.mark.parametrize(
    ("failing", "expected", "said"),
    [
        (full, SystemRefusedError, r"cannot write .*checkpoint_3.dcp: No space left on device"),
        (broken, TrainingError, r"cannot write .*checkpoint_3.dcp: no such plan"),
    ],
)
def test_a_write_that_fails_leaves_what_was_there(
    state: dict[str, Any],
    written: Path,
    monkeypatch: pytest.MonkeyPatch,
    failing: Any,
    expected: type[Exception],
    said: str,
):
    monkeypatch.setattr(FileSystemWriter, "write_data", failing)
    told: list[str] = []
    writer = ShardedWriter(written.parent, None, told.append, Saved(1, "checkpoint_1"), ALONE)
    writer.write([written], state | {"iteration": 4}, Saved(4, "checkpoint_4"))
    failure = writer.wait()
    assert isinstance(failure, expected)
    assert "the last whole one is checkpoint_1" in told[0]
    with pytest.raises(expected, match=said):
        raise failure
    assert [one.name for one in written.parent.iterdir()] == [written.name]
    assert read_checkpoint(written)["iteration"] == 3


def test_files_that_another_machine_kept_to_itself_are_missed(
    state: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Processes that do not see one folder each write into their own."""
    mine = {"__8_0.distcp": {"size": 1, "sha256": ""}}
    gathered = Ranks.gathered

    def of_two_machines(self: Ranks, value: Any, group: Any = None) -> list[Any]:
        told = gathered(self, value, group)
        return [*told, (mine, None)] if isinstance(value[0], dict) else told

    monkeypatch.setattr(Ranks, "gathered", of_two_machines)
    with pytest.raises(TrainingError, match=r"__8_0\.distcp, which another process") as caught:
        write_sharded(tmp_path / "checkpoint_3.dcp", snapshot(state), ALONE, None)
    assert "--checkpoint_dir that the machines of all processes see" in str(caught.value.hint)
    assert not list(tmp_path.iterdir())


# Writes one folder again and again, and dies by SIGKILL at the n-th call that changes a name,
# removes or syncs something: whatever is left must be the old folder or the new one.
DYING = """
import json, os, shutil, signal, sys
from pathlib import Path
import torch
from torch import distributed
from dying import dying
from lmkit.lm.checkpoint import read_checkpoint
from lmkit.lm.checkpoint_names import recover_replaced
from lmkit.lm.distributed import Ranks
from lmkit.durable import sweep_temporaries
from lmkit.lm.sharded_checkpoint import write_sharded
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard

torch.set_num_threads(1)
folder = Path(sys.argv[1])
CHANGES = [(os, "fsync"), (torch, "save"), (shutil, "rmtree"), *((Path, name) for name in
           ("replace", "rename", "mkdir"))]

def write(iteration):
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    mesh = init_device_mesh("cpu", (1,))
    tensor = DTensor.from_local(torch.full((4, 2), float(iteration)), mesh, [Shard(0)])
    state = {"model": {"w": tensor}, "iteration": iteration}
    write_sharded(folder / "best.dcp", state, Ranks(), None)
    distributed.destroy_process_group()

write(0)  # loads what torch loads when it is used first, so that the children need not
iteration, died = 0, 0
for after in range(100):
    iteration += 1
    child = os.fork()
    if not child:
        dying(after, *CHANGES)
        write(iteration)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    died += code == -signal.SIGKILL
    assert code in (0, -signal.SIGKILL), code
    sweep_temporaries(folder)
    recover_replaced(folder)
    state = read_checkpoint(folder / "best.dcp")
    assert state["iteration"] in (iteration - 1, iteration)
    assert state["model"]["w"].unique().tolist() == [state["iteration"]]
    assert [one.name for one in folder.iterdir()] == ["best.dcp"]
    iteration = state["iteration"]
    if after and code == 0:
        break
print(died)
"""


def test_killed_at_any_moment_the_old_folder_or_the_new_one_is_there(tmp_path: Path):
    done = run_script(DYING, str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 10


def test_a_folder_about_to_be_replaced_comes_back(written: Path):
    away = written.with_name(f".{written.name}.replaced")
    written.rename(away)
    recover_replaced(written.parent)
    assert read_checkpoint(written)["iteration"] == 3
    shutil.copytree(written, away)
    recover_replaced(written.parent)
    assert not away.exists()
