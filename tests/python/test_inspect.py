"""`lmkit inspect`: every kind of file is known, damage is found, text is shown cut in tokens."""

import contextlib
import io
import json
import os
import random
import shlex
import shutil
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lmkit
import tiny_run
from browser import find_browser, look_at
from lmkit import _core
from lmkit.cli import call
from lmkit.errors import LmkitError, MalformedError, MismatchError, MissingFileError
from lmkit.inspection import Ask, Report, inspect
from lmkit.shards.manifest import Manifest, ShardEntry
from lmkit.shards.names import shard_name
from lmkit.shards.plan import Cut, Plan, PlannedInput
from lmkit.token_formats import convert
from lmkit.token_view import shown, tokenizer_card, view
from lmkit.tokenize_files import plan as plan_tokenizing

END = "<|endoftext|>"
EXAMPLES = 10 * int(os.environ.get("LMKIT_EXAMPLES", "20"))
TEXT = "the cat sat on the mat\n"
TOK = lmkit.Tokenizer.train(texts=[TEXT * 3], vocab_size=270)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of every file that needs no torch."""
    folder = tmp_path_factory.mktemp("files")
    TOK.save(folder / "tok")
    (folder / "rows.jsonl").write_text(
        "".join(json.dumps({"text": TEXT * n}) + "\n" for n in range(9))
    )
    lmkit.tokenize(folder / "rows.jsonl", folder / "train.npy", TOK)
    lmkit.Tokenizer.train(folder / "rows.jsonl", vocab_size=270, save_counts=folder / "some.counts")
    convert(folder / "train.npy", folder / "l.bin", to_format="llmc")
    convert(folder / "train.npy", folder / "m", to_format="megatron", tokenizer=TOK)
    convert(folder / "train.npy", folder / "n.bin", to_format="nanogpt")
    convert(folder / "m.idx", folder / "d.npy")
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(folder / "tok" / name, folder)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    with tiny_run.one_thread():
        tiny_run.train(tiny_run.make_inputs(folder), folder / "run", max_iters=10)
    return folder / "run"


def said(*words: object, code: int = 0, **environment: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "lmkit", "inspect", *map(str, words)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )
    assert done.returncode == code, done.stderr
    return done


def refusal(*words: object, code: int) -> str:
    """What the command says, in this process, when it refuses."""
    with pytest.raises(LmkitError) as error:
        call(["inspect", *map(str, words)])
    assert error.value.exit_code == code
    return str(error.value)


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


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Two shards of three documents in all, as files of their own writers hold them."""
    folder = tmp_path / "shards"
    folder.mkdir()
    parts = [([5, 6, 7, 8], [3, 4]), ([9, 10], [2])]
    entries = []
    for number, (ids, ends) in enumerate(parts):
        name = shard_name(number, 2)
        np.save(folder / f"{name}.npy", np.array(ids, "<i4"))
        np.save(folder / f"{name}.docs.npy", np.array(ends, "<i8"))
        sums = [_core.Checksum(), _core.Checksum()]
        sums[0].update(np.array(ids, "<i4").tobytes())
        sums[1].update(np.array(ends, "<i8").tobytes())
        size = 128 + 4 * len(ids)
        entries.append(
            ShardEntry(
                name=name, tokens=len(ids), documents=len(ends), checksum=sums[0].text(),
                documents_checksum=sums[1].text(), file_bytes=size,
                smallest_id=min(ids), largest_id=max(ids),
            )
        )  # fmt: skip
    manifest = Manifest(
        plan="p", dtype="int32", suffix=".npy", tokens=6, documents=3, text_bytes=20,
        smallest_id=5, largest_id=10, tokenizer=TOK.fingerprint, vocab_size=TOK.vocab_size,
        inputs=["text/"], split="train", shards=tuple(entries), lmkit="0.1.0",
    )  # fmt: skip
    (folder / "manifest.json").write_bytes(manifest.to_bytes())
    return folder


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


class TestDamage:
    def damage(self, path: Path, kind: type[Exception] = MalformedError) -> Report:
        report = inspect(path)
        assert report.whole is False
        assert isinstance(report.damage, kind)
        return report

    def flipped(self, source: Path, folder: Path, at: int) -> Path:
        copy = folder / source.name
        raw = bytearray(source.read_bytes())
        raw[at] ^= 1
        copy.write_bytes(raw)
        return copy

    def test_a_changed_id_is_found_by_the_checksum(self, files: Path, tmp_path: Path) -> None:
        copy = self.flipped(files / "train.npy", tmp_path, 200)
        shutil.copy(files / "train.npy.json", tmp_path)
        assert "its sidecar speaks of xxh3" in str(self.damage(copy).damage)
        assert inspect(copy, Ask(verify=False)).whole is None

    def test_a_torn_token_file(self, files: Path, tmp_path: Path) -> None:
        (tmp_path / "a.npy").write_bytes((files / "train.npy").read_bytes()[:-3])
        self.damage(tmp_path / "a.npy")
        (tmp_path / "l.bin").write_bytes((files / "l.bin").read_bytes()[:-3])
        assert inspect(tmp_path / "l.bin").kind == "numbers without a header or a sidecar"

    def test_changed_counts(self, files: Path, tmp_path: Path) -> None:
        size = (files / "some.counts").stat().st_size
        assert "checksum" in str(
            self.damage(self.flipped(files / "some.counts", tmp_path, size - 20)).damage
        )

    def test_a_tokenizer_with_another_merge(self, files: Path, tmp_path: Path) -> None:
        folder = shutil.copytree(files / "tok", tmp_path / "tok")
        merges = (folder / "merges.txt").read_text().splitlines()
        (folder / "merges.txt").write_text("\n".join(merges[:-1]) + "\n")
        self.damage(folder)

    def test_a_sidecar_alone(self, files: Path, tmp_path: Path) -> None:
        shutil.copy(files / "train.npy.json", tmp_path)
        self.damage(tmp_path / "train.npy.json", MissingFileError)

    def test_a_checkpoint(self, run: Path, tmp_path: Path) -> None:
        shutil.copy(run / "checkpoint_10.pt.json", tmp_path)
        copy = self.flipped(run / "checkpoint_10.pt", tmp_path, 5000)
        self.damage(copy, MismatchError)
        self.damage(tmp_path / "checkpoint_10.pt.json", MismatchError)
        copy.write_bytes((run / "checkpoint_10.pt").read_bytes()[:-1])
        assert "bytes, its sidecar speaks of" in str(self.damage(copy, MismatchError).damage)
        (tmp_path / "x.pt").write_bytes(b"not a zip")
        self.damage(tmp_path / "x.pt", MismatchError)

    def test_the_command_tells_and_fails_with_the_code(self, run: Path, tmp_path: Path) -> None:
        for entry in run.iterdir():
            if entry.is_file():
                shutil.copy(entry, tmp_path)
        self.flipped(run / "best.pt", tmp_path, 5000)
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


class TestText:
    def test_a_view_has_all_tokens(self) -> None:
        text = TEXT * 3 + END + "春"
        seen = view(TOK, text, 10_000)
        assert [token.id for token in seen.tokens] == TOK.encode(text)
        assert b"".join(token.bytes for token in seen.tokens) == text.encode()
        assert seen.tokens[-4].is_special
        assert (seen.count, seen.text_bytes) == (len(seen.tokens), len(text.encode()))
        assert sum(count for _, count in seen.commonest) == seen.count
        assert [count for _, count in seen.commonest] == sorted(
            (count for _, count in seen.commonest), reverse=True
        )
        assert len(view(TOK, text, 3).tokens) == 3
        assert view(TOK, "", 3).bytes_per_token == 0.0

    def test_what_cannot_be_seen_is_shown(self) -> None:
        assert shown(b" a\n\t") == " a⏎⇥"
        assert shown("春".encode()[:2]) == "\\xe6\\x98"
        assert shown(b"\x1b[0m\0") == "\\x1b[0m\\x00"

    def test_on_the_terminal(self, files: Path) -> None:
        done = said(files / "tok", "--text", "the [red]cat\x1b[0m")
        assert "\x1b" not in done.stdout
        assert f"[{shown(TOK.vocab[TOK.encode('the')[0]])}|" in done.stdout
        assert "bytes a token" in done.stdout
        coloured = said(files / "tok", "--text", "the cat", FORCE_COLOR="1", TERM="xterm-256color")
        assert "\x1b[" in coloured.stdout
        plain = said(files / "tok", "--text", "the cat", FORCE_COLOR="1", NO_COLOR="1")
        assert "\x1b" not in plain.stdout

    def test_as_json_and_from_a_file(self, files: Path, tmp_path: Path) -> None:
        (tmp_path / "a.txt").write_text(TEXT * 100)
        words = (files / "vocab.json", "--text_path", tmp_path / "a.txt", "--json", "--show", 4)
        told = json.loads(said(*words).stdout)
        assert told["tokens"] == len(TOK.encode(TEXT * 100))
        assert [token["id"] for token in told["first"]] == TOK.encode(TEXT)[:4]

    def test_options_without_effect_are_refused(self, files: Path) -> None:
        assert "have no effect without --text" in refusal(files / "tok", "--show", 3, code=2)
        refusal(files / "tok", "--text", "a", "--text_path", "b", code=2)
        refusal(files / "tok", "--text", "a", "--no_verify", code=2)
        refusal(files / "tok", "--text_path", files / "missing", code=2)
        refusal(files / "tok", "--text_path", files / "train.npy", code=3)
        refusal(files / "missing", "--text", "a", code=2)

    def test_the_page_stands_alone_and_is_not_overwritten(
        self, files: Path, tmp_path: Path
    ) -> None:
        page = tmp_path / "page.html"
        text = "the cat <script>alert(1)</script> & sat\n" * 20
        assert call(["inspect", str(files / "tok"), "--text", text, "--html", str(page)]) == 0
        content = page.read_text()
        assert "<script" not in content
        assert "http" not in content
        assert content.count('<span class="t ') == len(TOK.encode(text))
        assert "already exists" in refusal(files / "tok", "--text", "a", "--html", page, code=2)
        call(["inspect", str(files / "tok"), "--text", "a", "--html", str(page), "--force"])
        assert page.read_text() != content

    @pytest.mark.parametrize("width", [360, 1280])
    def test_the_page_fits_a_phone(self, files: Path, tmp_path: Path, width: int) -> None:
        find_browser()
        page = tmp_path / "page.html"
        text = TEXT * 20 + "x" * 500 + "春はあけぼの😀" + END
        assert call(["inspect", str(files / "tok"), "--text", text, "--html", str(page)]) == 0
        seen = look_at(page, "tokens", width)
        assert (seen.faults, seen.console) == ([], [])
        assert seen.found["width"] <= width
        assert seen.found["tokens"] == len(TOK.encode(text))
        assert seen.found["smallest"] >= 10


def test_a_tokenizer_shows_itself_in_a_notebook() -> None:
    told = TOK._repr_html_()
    assert told == tokenizer_card(TOK)
    assert TOK.fingerprint[:12] in told
    assert "&lt;|endoftext|&gt;" in told
    assert f"vocab_size={TOK.vocab_size}" in repr(TOK)


def test_half_characters_are_escaped_once(files: Path) -> None:
    printed = said(files / "tok", "--text", "é").stdout
    assert "'\\xc3' " in printed
    assert "\\\\x" not in printed


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


@pytest.mark.parametrize("raw", [b"PK\3\4", b"\x80\2Q.", b"garbage", b""])
def test_no_bytes_under_a_checkpoints_name_escape(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "checkpoint_1.pt").write_bytes(raw)
    assert isinstance(inspect(tmp_path / "checkpoint_1.pt").damage, MismatchError)
