"""`lmkit inspect`: every kind of file is known, and what it holds and is good for is told."""

import contextlib
import io
import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lmkit
from inspected import TEXT, TOK, make_files, make_run, make_shards, refusal
from lmkit.cli import call
from lmkit.errors import MalformedError, MismatchError
from lmkit.inspection import Ask, inspect
from lmkit.shards.plan import Cut, Plan, PlannedInput
from lmkit.token_formats import convert
from lmkit.tokenize_files import plan as plan_tokenizing


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_files(tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    return make_shards(tmp_path / "shards")


def call_json(path: Path, text: str) -> dict[str, Any]:
    """How the tokenizer at ``path`` cuts a text."""
    told = io.StringIO()
    with contextlib.redirect_stdout(told):
        assert call(["inspect", str(path), "--text", text, "--json"]) == 0
    return json.loads(told.getvalue())


@pytest.mark.parametrize(
    ("name", "kind", "facts"),
    [
        (
            "tok",
            "a tokenizer folder",
            {"vocab_size": TOK.vocab_size, "fingerprint": TOK.fingerprint},
        ),
        ("tok/tokenizer.json", "a Hugging Face tokenizer", {"vocab_size": TOK.vocab_size}),
        ("vocab.json", "a vocabulary, GPT-2 style", {"vocab_size": TOK.vocab_size}),
        ("merges.txt", "merges, GPT-2 style", {"merges": len(TOK.merges)}),
        ("train.npy", "a token file (.npy)", {"documents": 9, "dtype": "int32"}),
        ("train.npy.json", "a token file (.npy)", {"documents": 9}),
        ("d.docs.npy", "where documents end", {"documents": 9}),
        ("l.bin", "a token file of llm.c's", {"dtype": "uint16"}),
        ("m.idx", "a data set of Megatron-LM's", {"documents": 9}),
        ("m", "a data set of Megatron-LM's", {"documents": 9}),
        ("some.counts", "counts of pretokens", {"pattern": "gpt2"}),
    ],
)
def test_every_kind_is_known_and_whole(
    files: Path, name: str, kind: str, facts: dict[str, Any]
) -> None:
    report = inspect(files / name)
    assert (report.kind, report.whole, report.damage) == (kind, True, None)
    assert facts.items() <= report.facts.items()
    assert report.use
    json.dumps(report.as_json())
    unread = inspect(files / name, Ask(verify=False))
    assert unread.kind == kind
    assert unread.facts.keys() <= report.facts.keys()


def test_a_token_file_shows_its_first_tokens_by_the_tokenizer_beside(files: Path) -> None:
    report = inspect(files / "train.npy")
    ids = np.load(files / "train.npy")
    assert report.sample == {"ids": ids[:64].tolist(), "text": TOK.decode(ids[:64])}
    assert (
        f"lmkit train --train_data {files / 'train.npy'} --tokenizer {files / 'tok'}" in report.use
    )
    assert (report.facts["smallest_id"], report.facts["largest_id"]) == (ids.min(), ids.max())
    given = inspect(files / "l.bin", Ask(tokenizer=TOK))
    assert given.sample["text"] == report.sample["text"]
    other = lmkit.Tokenizer.train(texts=["other"], vocab_size=258)
    assert "text" not in inspect(files / "train.npy", Ask(tokenizer=other)).sample


def test_ids_that_nothing_describes_are_told_as_either(files: Path) -> None:
    report = inspect(files / "n.bin")
    ids = np.load(files / "train.npy")
    assert report.facts["as_uint16"] == {
        "tokens": len(ids),
        "smallest_id": ids.min(),
        "largest_id": ids.max(),
    }
    assert any("--from nanogpt" in line for line in report.use)


def test_a_tiktoken_file(tmp_path: Path) -> None:
    from base64 import b64encode

    lines = [b"%s %d\n" % (b64encode(bytes([n])), n) for n in range(256)]
    (tmp_path / "a.tiktoken").write_bytes(b"".join(lines))
    report = inspect(tmp_path / "a.tiktoken")
    assert (report.kind, report.whole) == ("a tiktoken rank file", True)
    assert report.facts["tokens"] == 256


def test_a_vocabulary_with_tokens_spelt_like_fields(tmp_path: Path) -> None:
    names = ["model", "added_tokens", "dtype", "tokens", "checksum", "size", "sha256"]
    merges = [(name[:k], name[k]) for name in names for k in range(1, len(name))]
    merges = list(dict.fromkeys(merges))
    vocab = {n: bytes([n]) for n in range(256)}
    for left, right in merges:
        token = (left + right).encode()
        vocab |= {} if token in vocab.values() else {len(vocab): token}
    lmkit.Tokenizer(vocab, [(a.encode(), b.encode()) for a, b in merges]).save(tmp_path / "tok")
    path = tmp_path / "tok" / "vocab.json"
    assert inspect(path).kind == "a vocabulary, GPT-2 style"
    for name in names:
        told = call_json(path, name)
        assert "".join(token["text"] for token in told["first"]) == name


def test_a_folder_of_shards(shards: Path, tmp_path: Path) -> None:
    TOK.save(tmp_path / "tok")
    for path in (shards, shards / "manifest.json"):
        report = inspect(path)
        assert (report.kind, report.whole, report.damage) == ("a folder of shards", True, None)
        assert (report.facts["tokens"], report.facts["documents"]) == (6, 3)
        assert report.sample["ids"] == [5, 6, 7, 8]
        assert report.sample["text"] == TOK.decode([5, 6, 7, 8])
    convert(shards, tmp_path / "joined.npy")
    assert np.load(tmp_path / "joined.npy").tolist() == [5, 6, 7, 8, 9, 10]
    assert np.load(tmp_path / "joined.docs.npy").tolist() == [3, 4, 6]
    second = shards / "shard_00001_of_00002.npy"
    raw = bytearray(second.read_bytes())
    raw[-1] ^= 1
    second.write_bytes(raw)
    assert isinstance(inspect(shards).damage, MismatchError)
    assert inspect(shards, Ask(verify=False)).damage is None
    second.write_bytes(raw[:-4])
    assert isinstance(inspect(shards, Ask(verify=False)).damage, MalformedError)
    (shards / "manifest.json").unlink()
    inputs = [PlannedInput("/text/a.txt", 100, 1, is_found=True)]
    cuts = [Cut(0, 0), Cut(0, 60), Cut(1, 0)]
    plan = Plan(["text/"], inputs, cuts, TOK.fingerprint, {}, "0.1.0")
    (shards / "plan.json").write_bytes(plan.to_bytes())
    report = inspect(shards)
    assert (report.kind, report.whole) == ("a folder of shards that is not finished", None)
    assert (report.facts["shards"], report.facts["receipts"]) == (2, 0)
    assert report.facts["text_bytes"] == 100
    (shards / "plan.json").write_text("{}")
    assert isinstance(inspect(shards).damage, MalformedError)


def test_receipt_and_plan_are_told_of_by_what_they_describe(tmp_path: Path) -> None:
    (tmp_path / "raw.txt").write_text("a b c" * 40)
    TOK.save(tmp_path / "tok")
    words = ["--data_path", tmp_path / "raw.txt", "--tokenizer", tmp_path / "tok"]
    folder = tmp_path / "data"
    words += ["--output_path", folder, "--shard", "0/1", "--quiet"]
    assert call(["tokenize", *map(str, words)]) == 0
    report = inspect(folder / "plan.json")
    assert report.kind == "a folder of shards that is not finished"
    assert (report.facts["shards"], report.facts["receipts"]) == (1, 1)
    call(["tokenize", "--finalize", str(folder), "--quiet"])
    assert inspect(folder / "plan.json").whole
    receipt = folder / "shard_00000_of_00001.receipt.json"
    report = inspect(receipt)
    assert (report.whole, report.damage, report.facts["documents"]) == (True, None, 1)
    assert report.notes[0].startswith(f"{receipt} is the receipt of {folder}/shard_00000_of_0000")
    assert "worker" in report.facts
    (folder / "shard_00000_of_00001.npy").unlink()
    assert "is missing, and its receipt speaks of" in str(inspect(receipt).damage)
    receipt.write_text(json.dumps(json.loads(receipt.read_text()) | {"tokens": None}))
    assert isinstance(inspect(receipt).damage, MalformedError)


def test_a_journal_of_a_run_that_was_stopped(tmp_path: Path) -> None:
    text = tmp_path / "raw.txt"
    text.write_text(TEXT * 40_000)

    def stop(*_: int) -> None:
        if list(tmp_path.glob(".a.npy.journal.*")):
            raise RuntimeError("enough")

    options = {
        "dtype": "int32",
        "special": "encode",
        "end_of_document": None,
        "val_fraction": None,
        "num_threads": 1,
        "force": False,
        "errors": "strict",
        "text_field": None,
        "max_record_bytes": 1 << 30,
        "slice_bytes": 1 << 10,
        "note_every": 0.0,
    }
    with pytest.raises(RuntimeError, match="enough"):
        plan_tokenizing(str(text), tmp_path / "a.npy", TOK, **options).run(stop)
    (journal,) = tmp_path.glob(".a.npy.journal.*")
    report = inspect(journal)
    assert (report.kind, report.whole) == ("a journal of lmkit tokenize", True)
    assert report.facts["inputs"] == [str(text)]
    assert "--resume" in report.use[0]
    (partial,) = tmp_path.glob(".a.npy.[0-9]*")
    partial.write_bytes(b"")
    assert isinstance(inspect(journal).damage, MismatchError)


def test_a_checkpoint_and_its_run(run: Path) -> None:
    report = inspect(run / "checkpoint_10.pt")
    assert (report.kind, report.whole) == ("a checkpoint", True)
    assert report.facts["iteration"] == 10
    assert report.facts["config"]["d_model"] == 16
    assert report.facts["has_optimizer"]
    folder = inspect(run)
    assert (folder.kind, folder.whole) == ("a run folder", True)
    assert folder.facts["checkpoints"] == ["checkpoint_10.pt"]
    assert folder.facts["config"]["d_model"] == 16
    assert folder.facts["last_iter"] == 10
    assert inspect(run / "best.pt").facts["tokenizer"] == report.facts["tokenizer"]


@pytest.fixture
def cut(tmp_path: Path) -> Path:
    """A checkpoint that is cut over one process, as `--parallel fsdp` writes it."""
    import torch
    from torch import distributed
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    from lmkit.lm.distributed import Ranks
    from lmkit.lm.sharded_checkpoint import write_sharded

    store = distributed.HashStore()
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        weight = distribute_tensor(torch.ones(4, 3), mesh, [Shard(0)])
        state = {
            "model": {"w": weight},
            "optimizer": {},
            "iteration": 7,
            "config": {"d_model": 3, "parallel": "fsdp"},
            "tokenizer": TOK.to_json(),
        }
        write_sharded(tmp_path / "checkpoint_7.dcp", state, Ranks(), None)
    finally:
        distributed.destroy_process_group()
    return tmp_path / "checkpoint_7.dcp"


def test_a_checkpoint_that_is_cut(cut: Path) -> None:
    report = inspect(cut)
    assert (report.kind, report.whole) == ("a checkpoint cut over processes", True)
    assert (report.facts["iteration"], report.facts["parameters"]) == (7, 12)
    assert report.facts["tokenizer"] == TOK.fingerprint
    assert inspect(cut.parent).facts["checkpoints"] == [cut.name]
    assert inspect(cut, Ask(verify=False)).facts["parameters"] == 12
    part = next(cut.glob("*.distcp"))
    raw = bytearray(part.read_bytes())
    raw[-1] ^= 1
    part.write_bytes(raw)
    assert isinstance(inspect(cut).damage, MismatchError)
    assert isinstance(inspect(cut.parent).damage, MismatchError)
    part.write_bytes(raw[:-1])
    assert "not" in str(inspect(cut, Ask(verify=False)).damage)
    (cut / "checkpoint.json").unlink()
    assert "it has no checkpoint.json" in str(inspect(cut).damage)


def test_a_model_for_transformers(run: Path, tmp_path: Path) -> None:
    from lmkit.lm.export import export_model

    exported = export_model(run, tmp_path / "model", checkpoint="latest")
    report = inspect(tmp_path / "model")
    assert (report.kind, report.whole) == ("a model for transformers", True)
    assert report.facts["parameters"] == exported.parameters
    assert report.facts["tokenizer"]
    weights = tmp_path / "model" / "model.safetensors"
    assert inspect(weights).facts["parameters"] == exported.parameters
    weights.write_bytes(weights.read_bytes()[:-4])
    assert "torn: its header speaks of" in str(inspect(tmp_path / "model").damage)


def test_no_torch_but_for_checkpoints(files: Path) -> None:
    script = (
        "import sys; from lmkit.inspection import inspect\n"
        f"for name in {[str(files / n) for n in ('tok', 'train.npy', 'm', 'some.counts')]}:\n"
        "    assert inspect(name).whole\n"
        "assert 'torch' not in sys.modules and 'click' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_what_is_unknown_says_what_it_looked_for(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("only text")
    with pytest.raises(MalformedError, match=r"none of a tokenizer \(.*; a token file .*a journal"):
        inspect(tmp_path / "a.txt")
    (tmp_path / "b.json").write_text("[1]")
    (tmp_path / "empty").mkdir()
    for name in ("b.json", "empty"):
        refusal(tmp_path / name, code=3)
    refusal(tmp_path / "missing", code=2)


def test_what_to_type_is_quoted_where_it_must_be(
    files: Path, run: Path, shards: Path, tmp_path: Path
) -> None:
    spaced = tmp_path / "with a space"
    shutil.copytree(files, spaced)
    shutil.copytree(run, spaced / "run")
    shutil.copytree(shards, spaced / "shards")
    for name in ("tok", "train.npy", "n.bin", "vocab.json", "some.counts", "run", "shards"):
        report = inspect(spaced / name)
        assert report.use
        for line in report.use:
            assert all(Path(word).exists() for word in shlex.split(line) if "space" in word), line


def test_a_run_is_said_to_go_on_only_while_it_does(run: Path, tmp_path: Path) -> None:
    assert (run / "run.lock").exists()  # it stays when a run has ended
    shutil.copytree(run, tmp_path / "run")
    lock = tmp_path / "run" / "run.lock"
    lock.write_text(f"process {2**22 + 1} on {socket.gethostname()}\n")
    assert not inspect(tmp_path / "run").notes
    lock.write_text(f"process {os.getpid()} on {socket.gethostname()}\n")
    assert inspect(tmp_path / "run").notes == ["a run is going on in it"]
