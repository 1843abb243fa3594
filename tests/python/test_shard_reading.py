"""Shards read as one file: the same ids, the same batches, and what is wrong named by its shard."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import lmkit
from lmkit.cli import main
from lmkit.errors import MalformedError, MismatchError, MissingFileError, UsageError
from lmkit.lm.batches import TokenBatches
from lmkit.lm.training_data import parse_weights
from lmkit.shards import tokens as shard_tokens
from lmkit.shards.tokens import ShardedTokens, is_sharded
from lmkit.token_file import TokenReader
from shard_maker import checksum_of, edit_manifest, make_shards, random_documents
from tiny_run import assert_same_checkpoints, resume, train

pytestmark = pytest.mark.usefixtures("on_one_thread")

IDS = np.random.default_rng(0).integers(0, 1000, 5000).astype(np.int32)
ENDS = random_documents(len(IDS))
SECOND = "shard_00001_of_00007.npy"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_shards(tmp_path / "set", IDS, ENDS, 7, empty=(0, 4))


@pytest.fixture(scope="module")
def sharded(inputs: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The same ids as ``inputs``, in shards."""
    base = tmp_path_factory.mktemp("sharded")
    tokenizer = lmkit.Tokenizer.from_files(inputs["vocab_path"], inputs["merges_path"])
    for name, shards in (("train_data", 9), ("val_data", 2)):
        ids = np.load(inputs[name])
        ends = random_documents(len(ids), longest=300)
        make_shards(base / name, ids, ends, shards, tokenizer=tokenizer.fingerprint)
    return inputs | {name: str(base / name) for name in ("train_data", "val_data")}


def test_any_stretch_is_that_of_the_ids_in_order(folder: Path):
    tokens = ShardedTokens(str(folder))
    assert len(tokens) == 5000
    assert len(tokens.manifest.shards) == 7
    borders = [(end - 1, end + 1) for end in ENDS[:-1].tolist()]
    for start, stop in [(0, 5000), (0, 0), (5000, 5000), (17, 18), *borders]:
        assert tokens.read(start, stop).tolist() == IDS[start:stop].tolist()
    for start in np.random.default_rng(1).integers(0, 4000, 50).tolist():
        assert tokens.read(start, start + 900).tolist() == IDS[start : start + 900].tolist()
    with pytest.raises(UsageError, match="no tokens 4999 to 5001 among 5000"):
        tokens.read(4999, 5001)


@pytest.mark.parametrize(
    ("suffix", "dtype"), [(".npy", "int32"), (".bin", "uint16"), (".npy", "uint32")]
)
def test_open_tokens_gives_a_sequence_of_int32(tmp_path: Path, suffix: str, dtype: str):
    folder = make_shards(tmp_path / "set", IDS.astype(dtype), ENDS, 5, suffix=suffix)
    for place in (folder, str(folder), folder / "manifest.json"):
        tokens = lmkit.open_tokens(place)
        assert len(tokens) == 5000
        assert tokens.shape == (5000,)
        slices = [slice(3, 9), slice(None), slice(-5, None), slice(4000, 10, -7), slice(9, 3)]
        for one in slices:
            assert tokens[one].dtype == np.int32
            assert tokens[one].tolist() == IDS[one].tolist(), one
    assert (tokens[0], tokens[-1]) == (IDS[0], IDS[-1])
    assert isinstance(tokens[0], int)
    with pytest.raises(IndexError):
        tokens[5000]
    assert np.asarray(tokens).tolist() == IDS.tolist()
    assert np.asarray(tokens, dtype=np.int64).dtype == np.int64
    assert not hasattr(tokens, "__setitem__")


@pytest.mark.parametrize("sampling", ["random", "epoch"])
@pytest.mark.parametrize("shards", [1, 7, 120])
def test_batches_are_those_of_one_file(tmp_path: Path, sampling: str, shards: int):
    np.save(tmp_path / "one.npy", IDS)
    folder = make_shards(tmp_path / "set", IDS, ENDS, shards)
    options = {"batch_size": 8, "context_length": 100, "seed": 3, "sampling": sampling}
    one = TokenBatches(TokenReader(tmp_path / "one.npy"), **options)
    other = TokenBatches(ShardedTokens(str(folder)), **options)
    for step in range(1, 20):
        for a, b in zip(one.batch(step), other.batch(step), strict=True):
            assert torch.equal(a, b)


def test_few_files_are_open_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shard_tokens, "OPEN_FILES", 2)

    def open_files() -> int:
        held = list(Path("/proc/self/fd").iterdir())
        return sum(str(folder) in str(file.readlink()) for file in held if file.is_symlink())

    tokens = ShardedTokens(str(folder))
    for start in np.random.default_rng(1).integers(0, 4900, 50).tolist():
        assert tokens.read(start, start + 100).tolist() == IDS[start : start + 100].tolist()
        assert 1 <= open_files() <= 2
    tokens.close()
    assert open_files() == 0


def test_training_from_shards_is_training_from_one_file(inputs, sharded, tmp_path):
    given = {"max_iters": 10, "grad_accum_steps": 2}
    one, many = tmp_path / "one", tmp_path / "many"
    assert [r.get("val_loss") for r in train(inputs, one, **given)] == [
        r.get("val_loss") for r in train(sharded, many, **given)
    ]
    assert_same_checkpoints(one / "checkpoint_10.pt", many / "checkpoint_10.pt")
    train(sharded, tmp_path / "half", **given | {"max_iters": 5})
    resume(tmp_path / "half", max_iters=10)
    assert_same_checkpoints(one / "checkpoint_10.pt", tmp_path / "half" / "checkpoint_10.pt")
    found = [
        CliRunner().invoke(main, ["evaluate", "--checkpoint", str(one), "--data", data, "--json"])
        for data in (inputs["val_data"], sharded["val_data"])
    ]
    assert found[0].exit_code == 0, found[0].output
    assert found[0].output == found[1].output


def test_a_resumed_run_notices_a_changed_shard(sharded, tmp_path, capsys):
    data = tmp_path / "set"
    shutil.copytree(sharded["train_data"], data)
    train(sharded | {"train_data": str(data)}, tmp_path / "run", max_iters=2)
    resume(tmp_path / "run", max_iters=3)
    assert "is not the data of the checkpoint" not in capsys.readouterr().err
    place = data / "shard_00003_of_00009.npy"
    ids = np.load(place)
    ids[5] += 1
    np.save(place, ids)
    (data / f"{place.name}.json").unlink()
    edit_manifest(data, shards={3: {"checksum": checksum_of(ids)}})
    resume(tmp_path / "run", max_iters=4)
    said = capsys.readouterr().err
    assert f"--train_data {data} is not the data of the checkpoint" in said


def test_shards_and_files_are_drawn_from_by_weight(inputs, sharded, tmp_path):
    both = f"{sharded['train_data']}=3,{inputs['train_data']}=1"
    history = train(sharded | {"train_data": both}, tmp_path / "run", max_iters=5)
    assert [record["iter"] for record in history if "loss" in record] == [1, 2, 3, 4, 5]
    assert any("val_loss" in record for record in history)
    assert parse_weights("memory://a/=3,s3://b=1") == [("memory://a/", 3.0), ("s3://b", 1.0)]


def test_another_tokenizer_or_a_smaller_vocabulary_is_refused(sharded, folder, tmp_path):
    with pytest.raises(MismatchError, match="was made with another tokenizer"):
        train(sharded | {"train_data": str(folder)}, tmp_path / "run", max_iters=1)
    data = tmp_path / "with another largest id"
    shutil.copytree(sharded["train_data"], data)
    edit_manifest(data, largest_id=257)
    with pytest.raises(MalformedError, match="holds id 257, outside --vocab_size 257"):
        train(sharded | {"train_data": str(data)}, tmp_path / "run", max_iters=1)


def test_a_copy_is_verified_once_and_says_so(folder: Path, tmp_path: Path):
    said: list[str] = []
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)  # keeps times
    assert np.asarray(ShardedTokens(str(copy), notice=said.append)).tolist() == IDS.tolist()
    assert not said
    shutil.copytree(folder, copy, copy_function=shutil.copyfile, dirs_exist_ok=True)
    tokens = ShardedTokens(str(copy), notice=said.append)
    assert np.asarray(tokens).tolist() == IDS.tolist()
    assert len(said) == 1
    assert "to verify it" in said[0]
    place = copy / SECOND
    with place.open("r+b") as file:
        file.seek(200)
        file.write(b"\0\1\0\0")
    with pytest.raises(MismatchError, match=f"{SECOND}: its checksum is not the one in manifest"):
        np.asarray(ShardedTokens(str(copy)))


def torn(place: Path) -> None:
    place.write_bytes(place.read_bytes()[:-4])


def longer(place: Path) -> None:
    place.write_bytes(place.read_bytes() + b"\0\0\0\0")


def other_tokens(place: Path) -> None:
    np.save(place, np.load(place)[:-1])


def lying_sidecar(place: Path) -> None:
    sidecar = place.with_name(place.name + ".json")
    sidecar.write_text(sidecar.read_text().replace("xxh3-128:", "xxh3-128:0"))


def torn_sidecar(place: Path) -> None:
    sidecar = place.with_name(place.name + ".json")
    sidecar.write_text(sidecar.read_text()[:-9])


@pytest.mark.parametrize(
    ("damage", "error", "sentence"),
    [
        (torn, MalformedError, "torn: its header speaks of"),
        (longer, MalformedError, "torn: its header speaks of"),
        (other_tokens, MalformedError, "but its data set speaks of"),
        (lying_sidecar, MismatchError, "its sidecar and manifest.json do not say the same"),
        (torn_sidecar, MalformedError, "not JSON"),
        (Path.unlink, MissingFileError, "no such file"),
    ],
)
def test_what_is_wrong_is_named_by_its_shard(folder: Path, damage, error, sentence: str):
    damage(folder / SECOND)
    with pytest.raises(error, match=sentence) as raised:
        np.asarray(ShardedTokens(str(folder)))
    assert SECOND in str(raised.value)


def test_a_torn_bin_is_named_by_its_shard(tmp_path: Path):
    folder = make_shards(tmp_path / "set", IDS, ENDS, 7, suffix=".bin")
    torn(folder / "shard_00001_of_00007.bin")
    with pytest.raises(MalformedError, match=r"shard_00001_of_00007.bin: holds .* speaks of"):
        np.asarray(ShardedTokens(str(folder)))


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/b", "..", "", "a\\b", "C:x"])
def test_a_shard_does_not_lead_out_of_its_folder(folder: Path, name: str):
    edit_manifest(folder, shards={1: {"name": name}})
    with pytest.raises(MalformedError, match=r"shard 1 is called .* no name in this folder"):
        ShardedTokens(str(folder))


def test_what_is_no_data_set_is_refused(folder: Path, tmp_path: Path):
    edit_manifest(folder, format=99, lmkit="9.9")
    with pytest.raises(MalformedError, match=r"manifest of format 99, written by lmkit 9.9"):
        lmkit.open_tokens(folder)
    (folder / "manifest.json").write_text("{}")
    with pytest.raises(MalformedError, match="not a manifest"):
        lmkit.open_tokens(folder)
    (folder / "manifest.json").unlink()
    (folder / "plan.json").write_text("{}")
    with pytest.raises(MissingFileError, match=f"{folder}: no manifest.json in it: not a finished"):
        lmkit.open_tokens(folder)
    assert is_sharded(str(folder))
    assert not is_sharded(str(tmp_path))
    assert is_sharded("s3://bucket/set")
    assert not is_sharded("C:/set")
    with pytest.raises(UsageError, match="from elsewhere only data sets of shards are read"):
        lmkit.open_tokens("s3://bucket/train.npy")
