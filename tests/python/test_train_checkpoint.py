"""Checkpoints: what is saved comes back, and what is damaged is never taken for whole."""

import copy
import hashlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from lmkit.errors import MismatchError, MissingFileError
from lmkit.lm import checkpoint as checkpoint_module
from lmkit.lm.checkpoint import (
    load_checkpoint,
    read_checkpoint,
    read_latest,
    save_checkpoint,
    sidecar_path,
    write_checkpoint,
)


def silence(_: str) -> None:
    pass


def a_model(width: int = 4) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(width, 8), nn.Linear(8, 2))
    return model, torch.optim.AdamW(model.parameters(), lr=1e-2)


def a_step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    model(torch.ones(3, model[0].in_features)).square().sum().backward()
    optimizer.step()


def assert_same_state(a: nn.Module, b: nn.Module) -> None:
    for (name, one), other in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        assert torch.equal(one, other), name


@pytest.mark.parametrize("target", ["path", "string", "binary file", "memory"])
def test_any_module_and_optimizer_come_back(target: str, tmp_path: Path):
    model, optimizer = a_model()
    a_step(model, optimizer)
    path = tmp_path / "some.pt"
    memory = io.BytesIO()
    if target == "binary file":
        with path.open("wb") as file:
            save_checkpoint(model, optimizer, 7, file)
    else:
        save_checkpoint(
            model, optimizer, 7, {"path": path, "string": str(path)}.get(target, memory)
        )

    other, other_optimizer = a_model()
    a_step(other, other_optimizer)
    a_step(other, other_optimizer)
    if target == "binary file":
        with path.open("rb") as file:
            assert load_checkpoint(file, other, other_optimizer) == 7
    else:
        source = {"path": path, "string": str(path)}.get(target, memory)
        assert load_checkpoint(source, other, other_optimizer) == 7

    assert_same_state(model, other)
    a_step(model, optimizer)
    a_step(other, other_optimizer)
    assert_same_state(model, other)


def test_a_checkpoint_without_an_optimizer_is_none_to_go_on_with(tmp_path: Path):
    """As one that was imported; its model is not taken without what was asked for beside."""
    model, optimizer = a_model()
    before = copy.deepcopy(model)
    write_checkpoint(
        tmp_path / "some.pt",
        {"model": {name: one + 1 for name, one in model.state_dict().items()}, "iteration": 3},
    )
    with pytest.raises(MismatchError, match=r"some\.pt holds no optimizer's state"):
        load_checkpoint(tmp_path / "some.pt", model, optimizer)
    assert_same_state(model, before)
    assert load_checkpoint(tmp_path / "some.pt", model) == 3


def test_the_file_holds_nothing_that_needs_unpickling(tmp_path: Path):
    model, optimizer = a_model()
    save_checkpoint(model, optimizer, 3, tmp_path / "checkpoint_3.pt")
    state = torch.load(tmp_path / "checkpoint_3.pt", weights_only=True)
    assert state["iteration"] == 3
    assert set(state) == {"model", "optimizer", "iteration"}


def test_the_sidecar_holds_size_and_sha256(tmp_path: Path):
    path = tmp_path / "checkpoint_3.pt"
    save_checkpoint(*a_model(), 3, path)
    sidecar = json.loads(sidecar_path(path).read_text())
    assert sidecar == {
        "size": path.stat().st_size,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [
        "checkpoint_3.pt",
        "checkpoint_3.pt.json",
    ]


def test_a_compiled_model_saves_under_its_own_names(tmp_path: Path):
    model, optimizer = a_model()
    save_checkpoint(torch.compile(model), optimizer, 1, tmp_path / "a.pt")
    assert "0.weight" in read_checkpoint(tmp_path / "a.pt")["model"]


def test_a_model_of_another_shape_is_refused_by_name_and_left_alone(tmp_path: Path):
    save_checkpoint(*a_model(), 1, tmp_path / "a.pt")
    wider, optimizer = a_model(width=5)
    before = {name: tensor.clone() for name, tensor in wider.state_dict().items()}
    with pytest.raises(MismatchError, match=r"0\.weight is \(8, 4\), the model's \(8, 5\)"):
        load_checkpoint(tmp_path / "a.pt", wider, optimizer)
    for name, tensor in wider.state_dict().items():
        assert torch.equal(tensor, before[name])


@pytest.mark.parametrize("where", [0, 100, 1000, -1])
def test_a_flipped_bit_is_found(where: int, tmp_path: Path):
    path = tmp_path / "checkpoint_1.pt"
    save_checkpoint(*a_model(), 1, path)
    content = bytearray(path.read_bytes())
    content[where] ^= 1
    path.write_bytes(content)
    with pytest.raises(MismatchError, match=r"checkpoint_1\.pt is damaged") as caught:
        load_checkpoint(path, *a_model())
    assert caught.value.exit_code == 5


@pytest.mark.parametrize("size", [0, 1, 500, -1])
def test_a_torn_file_is_found_with_and_without_its_sidecar(size: int, tmp_path: Path):
    path = tmp_path / "checkpoint_1.pt"
    save_checkpoint(*a_model(), 1, path)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(MismatchError, match="damaged"):
        load_checkpoint(path, *a_model())
    sidecar_path(path).unlink()
    with pytest.raises(MismatchError, match="damaged"):
        read_checkpoint(path, silence)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"size": 3}', b"\xff"])
def test_a_damaged_sidecar_is_found(content: bytes, tmp_path: Path):
    path = tmp_path / "checkpoint_1.pt"
    save_checkpoint(*a_model(), 1, path)
    sidecar_path(path).write_bytes(content)
    with pytest.raises(MismatchError, match=r"checkpoint_1\.pt\.json is damaged"):
        load_checkpoint(path, *a_model())


def test_without_a_sidecar_it_loads_with_a_notice(tmp_path: Path):
    path = tmp_path / "checkpoint_1.pt"
    save_checkpoint(*a_model(), 1, path)
    sidecar_path(path).unlink()
    with pytest.warns(UserWarning, match="no sidecar"):
        assert load_checkpoint(path, *a_model()) == 1


def test_a_pickle_that_would_run_code_is_not_run(tmp_path: Path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    path = tmp_path / "trap.pt"
    torch.save({"model": Trap(), "iteration": 1}, path)
    with pytest.raises(MismatchError, match="holds more than plain data"):
        read_checkpoint(path, silence)
    assert not (tmp_path / "sprung").exists()


def test_a_missing_checkpoint_is_misuse(tmp_path: Path):
    with pytest.raises(MissingFileError, match="there is no checkpoint at"):
        load_checkpoint(tmp_path / "none.pt", *a_model())


def test_latest_passes_over_what_is_damaged_and_says_so(tmp_path: Path):
    for iteration in (9, 10, 100):
        save_checkpoint(*a_model(), iteration, tmp_path / f"checkpoint_{iteration}.pt")
    (tmp_path / "checkpoint_100.pt").write_bytes(b"torn")
    said: list[str] = []
    path, state = read_latest(tmp_path, said.append)
    assert (path, state["iteration"]) == (f"{tmp_path}/checkpoint_10.pt", 10)
    assert len(said) == 1
    assert "passed over checkpoint_100.pt" in said[0]


def test_latest_of_nothing_and_of_nothing_whole(tmp_path: Path):
    with pytest.raises(MissingFileError):
        read_latest(tmp_path)
    (tmp_path / "checkpoint_1.pt").write_bytes(b"torn")
    with pytest.raises(MismatchError, match="none of the 1"):
        read_latest(tmp_path, lambda _: None)


def test_a_crash_between_the_two_renames_leaves_a_pair_that_verifies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "checkpoint_1.pt"
    write_checkpoint(path, {"model": {}, "iteration": 1, "note": "old"})
    replace = Path.replace

    def crash_at_the_checkpoint(self: Path, target: Path) -> Path:
        if Path(target) == path:
            raise KeyboardInterrupt
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", crash_at_the_checkpoint)
    with pytest.raises(KeyboardInterrupt):
        write_checkpoint(path, {"model": {}, "iteration": 1, "note": "new"})
    monkeypatch.undo()
    assert read_checkpoint(path)["note"] == "old"
    write_checkpoint(path, {"model": {}, "iteration": 1, "note": "newer"})
    assert read_checkpoint(path)["note"] == "newer"


# A file size limit stands in for the disk: it fails the same way, inside a write.
SMALL_DISK = """
import resource, signal, sys, torch
from pathlib import Path
from lmkit.errors import SystemRefusedError
from lmkit.lm.checkpoint import write_checkpoint
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    write_checkpoint(Path(sys.argv[1]), {"model": {"w": torch.zeros(100_000)}, "iteration": 1})
except SystemRefusedError as error:
    print(error)
"""


def test_a_full_disk_is_said_and_keeps_the_old_checkpoint(tmp_path: Path):
    path = tmp_path / "checkpoint_1.pt"
    write_checkpoint(path, {"model": {}, "iteration": 1})
    # Not a forked child: this process may have started OpenMP's threads, and a child waits for
    # them for ever.
    said = subprocess.run(
        [sys.executable, "-c", SMALL_DISK, str(path)], capture_output=True, text=True, check=True
    ).stdout
    assert "cannot write" in said
    assert "too large" in said
    assert read_checkpoint(path)["iteration"] == 1
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [path.name, f"{path.name}.json"]


def test_saving_is_synced_before_it_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    order: list[str] = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda number: (order.append("sync"), fsync(number))[1])

    def note(self: Path, target: Path) -> Path:
        order.append(Path(target).name)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", note)
    checkpoint_module.write_checkpoint(tmp_path / "a.pt", {"model": {}, "iteration": 1})
    assert order == ["sync", "sync", "a.pt.json", "sync", "sync", "a.pt", "sync"]


def test_an_archive_that_does_not_begin_as_one_is_refused(tmp_path: Path):
    """Without a sidecar nothing else finds this, and torch's reader has an error of its own."""
    torch.save({"model": {}, "iteration": 1}, tmp_path / "checkpoint_1.pt")
    raw = bytearray((tmp_path / "checkpoint_1.pt").read_bytes())
    raw[0] ^= 1
    (tmp_path / "checkpoint_1.pt").write_bytes(raw)
    with pytest.raises(MismatchError, match="cannot be read"):
        read_checkpoint(tmp_path / "checkpoint_1.pt", silence)
