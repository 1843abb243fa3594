"""One of each file that `lmkit inspect` knows, and ways to ask it; what the tests of it share."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import lmkit
import tiny_run
from lmkit import _core
from lmkit.cli import call
from lmkit.errors import LmkitError
from lmkit.shards.manifest import Manifest, ShardEntry
from lmkit.shards.names import shard_name
from lmkit.token_formats import convert

TEXT = "the cat sat on the mat\n"
TOK = lmkit.Tokenizer.train(texts=[TEXT * 3], vocab_size=270)


def make_files(folder: Path) -> Path:
    """Every file that needs no torch, in the folder."""
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


def make_run(folder: Path) -> Path:
    """The folder of a run of ten steps."""
    with tiny_run.one_thread():
        tiny_run.train(tiny_run.make_inputs(folder), folder / "run", max_iters=10)
    return folder / "run"


def make_shards(folder: Path) -> Path:
    """Two shards of three documents in all, as files of their own writers hold them."""
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


def said(*words: object, code: int = 0, **environment: str) -> "subprocess.CompletedProcess[str]":
    """What the command says in a process of its own, which must end with the code."""
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
