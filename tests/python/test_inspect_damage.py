"""`lmkit inspect` finds damage in every kind of file, and never fails otherwise."""

import json
import os
import random
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest

from inspected import make_files, make_run, make_shards, said
from lmkit.errors import LmkitError, MalformedError, MismatchError, MissingFileError
from lmkit.inspection import Ask, Report, inspect

EXAMPLES = 10 * int(os.environ.get("LMKIT_EXAMPLES", "20"))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_files(tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    return make_shards(tmp_path / "shards")


def damage_of(path: Path, kind: type[Exception] = MalformedError) -> Report:
    report = inspect(path)
    assert report.whole is False
    assert isinstance(report.damage, kind)
    return report


def flipped(source: Path, folder: Path, at: int) -> Path:
    copy = folder / source.name
    raw = bytearray(source.read_bytes())
    raw[at] ^= 1
    copy.write_bytes(raw)
    return copy


def test_a_changed_id_is_found_by_the_checksum(files: Path, tmp_path: Path) -> None:
    copy = flipped(files / "train.npy", tmp_path, 200)
    shutil.copy(files / "train.npy.json", tmp_path)
    assert "its sidecar speaks of xxh3" in str(damage_of(copy).damage)
    assert inspect(copy, Ask(verify=False)).whole is None


def test_a_torn_token_file(files: Path, tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes((files / "train.npy").read_bytes()[:-3])
    damage_of(tmp_path / "a.npy")
    (tmp_path / "l.bin").write_bytes((files / "l.bin").read_bytes()[:-3])
    assert inspect(tmp_path / "l.bin").kind == "numbers without a header or a sidecar"


def test_changed_counts(files: Path, tmp_path: Path) -> None:
    size = (files / "some.counts").stat().st_size
    assert "checksum" in str(damage_of(flipped(files / "some.counts", tmp_path, size - 20)).damage)


def test_a_tokenizer_with_another_merge(files: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(files / "tok", tmp_path / "tok")
    merges = (folder / "merges.txt").read_text().splitlines()
    (folder / "merges.txt").write_text("\n".join(merges[:-1]) + "\n")
    damage_of(folder)


def test_a_sidecar_alone(files: Path, tmp_path: Path) -> None:
    shutil.copy(files / "train.npy.json", tmp_path)
    damage_of(tmp_path / "train.npy.json", MissingFileError)


def test_a_checkpoint(run: Path, tmp_path: Path) -> None:
    shutil.copy(run / "checkpoint_10.pt.json", tmp_path)
    copy = flipped(run / "checkpoint_10.pt", tmp_path, 5000)
    damage_of(copy, MismatchError)
    damage_of(tmp_path / "checkpoint_10.pt.json", MismatchError)
    copy.write_bytes((run / "checkpoint_10.pt").read_bytes()[:-1])
    assert "bytes, its sidecar speaks of" in str(damage_of(copy, MismatchError).damage)
    (tmp_path / "x.pt").write_bytes(b"not a zip")
    damage_of(tmp_path / "x.pt", MismatchError)


def test_the_command_tells_and_fails_with_the_code(run: Path, tmp_path: Path) -> None:
    for entry in run.iterdir():
        if entry.is_file():
            shutil.copy(entry, tmp_path)
    flipped(run / "best.pt", tmp_path, 5000)
    done = said(tmp_path, code=5)
    assert "whole: NO" in done.stdout
    assert done.stderr.startswith(f"error: {tmp_path / 'best.pt'}: damaged: its sha256 is")
    assert json.loads(said(tmp_path, "--json", code=5).stdout)["whole"] is False


def mutated(raw: bytes, chance: random.Random) -> bytes:
    """Some of the bytes changed, left out or doubled."""
    changed = bytearray(raw)
    for _ in range(chance.randrange(1, 4)):
        place = chance.randrange(min(len(changed), chance.choice([64, 300, 1 << 30])) or 1)
        kind = chance.randrange(3)
        if kind == 0:
            changed[place : place + 1] = bytes([chance.choice([0, 127, 255, 1])])
        elif kind == 1:
            del changed[place : place + chance.randrange(1, 20)]
        else:
            changed[place:place] = changed[: chance.randrange(1, 9)]
    return bytes(changed)


def altered(value: Any, chance: random.Random) -> Any:
    """JSON with some value of another type, or missing."""
    if isinstance(value, dict | list) and value and chance.random() < 0.9:
        copy = value.copy()
        key = chance.choice(list(copy) if isinstance(copy, dict) else range(len(copy)))
        if chance.random() < 0.2:
            del copy[key]
        else:
            copy[key] = altered(copy[key], chance)
        return copy
    return chance.choice([None, [], {}, "x", -1, 2.5, True, [1], {"a": 1}, 10**30])


def test_whatever_is_damaged_is_reported_and_never_fails_otherwise(
    files: Path, run: Path, shards: Path, tmp_path: Path
) -> None:
    """Any change to any file gives a report, or one of our errors."""
    places = {files / name: files / name for name in ("train.npy", "l.bin", "m.idx", "some.counts")}
    places |= {files / "m.bin": files / "m", files / "train.npy.json": files / "train.npy"}
    places |= {files / "tok" / name: files / "tok" for name in ("lmkit.json", "merges.txt")}
    places |= {shards / "manifest.json": shards}
    places |= {run / name: run for name in ("metrics.jsonl", "config.toml", "best.pt.json")}
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps({"architectures": ["X"], "vocab_size": 3}))
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (model / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    index = {"weight_map": {"a": "model.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    assert inspect(model).whole
    places |= dict.fromkeys(model.iterdir(), model)
    chance = random.Random(0)
    for _ in range(EXAMPLES):
        file, path = chance.choice(list(places.items()))
        raw = file.read_bytes()
        change = mutated(raw, chance)
        if file.suffix == ".json" and chance.random() < 0.8:
            change = json.dumps(altered(json.loads(raw), chance)).encode()
        file.write_bytes(change)
        try:
            json.dumps(inspect(path).as_json())
        except LmkitError:
            pass  # so damaged that its kind cannot be told
        finally:
            file.write_bytes(raw)
            if file.name == "train.npy":
                told = json.loads((files / "train.npy.json").read_bytes())
                os.utime(file, ns=(told["modified_ns"], told["modified_ns"]))


@pytest.mark.parametrize("raw", [b"PK\3\4", b"\x80\2Q.", b"garbage", b""])
def test_no_bytes_under_a_checkpoints_name_escape(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "checkpoint_1.pt").write_bytes(raw)
    assert isinstance(inspect(tmp_path / "checkpoint_1.pt").damage, MismatchError)
