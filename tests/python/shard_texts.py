"""What the tests of shards share: a small tokenizer, texts in every form, runs of the command."""

import gzip
import json
import random
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import lmkit
from lmkit.cli import call
from lmkit.shards.manifest import read_manifest

END = "<|endoftext|>"
OTHER_END = "<|end|>"


def train_tokenizer(folder: Path) -> Path:
    texts = ["the cat sat on the mat, naïve café\n"]
    tokenizer = lmkit.Tokenizer.train(
        texts=texts, vocab_size=290, special_tokens=(END, OTHER_END, f"{END}{OTHER_END}")
    )
    tokenizer.save(folder)
    return folder


def documents(count: int, seed: int, longest: int = 400) -> list[str]:
    order = random.Random(seed)
    words = ["the", "cat", "sat", "on", "mat", "naïve", "café", "\n", OTHER_END]
    return [" ".join(order.choices(words, k=order.randrange(longest))) for _ in range(count)]


def write_texts(folder: Path) -> Path:
    """A folder of plain text, records, rows, archives and things that are no text."""
    folder.mkdir()
    for number in range(3):
        joined = END.join(documents(60, number)) + (END if number == 1 else "")
        (folder / f"{number}.txt").write_text(joined, encoding="utf-8", newline="")
    lines = [json.dumps({"text": text}) for text in documents(150, 7)]
    (folder / "records.jsonl").write_text("\n\n".join(lines) + "\n", encoding="utf-8")
    (folder / "archive.txt.gz").write_bytes(gzip.compress(END.join(documents(30, 8)).encode()))
    rows = pa.table({"text": [*documents(40, 9), None]})
    pq.write_table(rows, folder / "rows.parquet")
    (folder / "one.txt").write_text("one document alone, the cat sat")
    (folder / "empty.txt").write_text("")
    (folder / "picture.bin").write_bytes(bytes(range(256)) * 30)
    return folder


def lmkit_tokenize(*words: object) -> None:
    """Run `lmkit tokenize` in this process."""
    assert call(["tokenize", "--quiet", *map(str, words)]) == 0


def joined(folder: Path) -> "np.ndarray[Any, Any]":
    """The ids of all shards in order, after a look at what the manifest says of them."""
    manifest = read_manifest(folder)
    parts = []
    for shard in manifest.shards:
        if manifest.suffix == ".npy":
            ids = np.load(folder / manifest.token_file(shard))
        else:
            ids = np.fromfile(folder / manifest.token_file(shard), manifest.dtype)
        ends = np.load(folder / manifest.document_ends_file(shard))
        assert (len(ids), len(ends)) == (shard.tokens, shard.documents)
        assert ends.dtype == np.int64
        assert (np.diff(ends, prepend=0) >= 0).all()
        assert (ends[-1] if len(ends) else 0) == len(ids)
        assert (ids.min(), ids.max()) == (shard.smallest_id, shard.largest_id) if len(ids) else True
        parts.append(ids)
    return np.concatenate(parts)


def at_work(folder: Path) -> list[tuple[int, str]]:
    """Who is making which shard: numbers of processes, and names of unfinished files."""
    found = []
    for work in folder.glob(".*.lmkit-tmp"):
        with suppress(FileNotFoundError):  # it was finished meanwhile
            pid = int(work.name.split(".")[2])
            names = [path.name for path in work.iterdir()]
            found += [(pid, name) for name in names if name.startswith(".shard")]
    return found


def contents(folder: Path) -> dict[str, bytes]:
    """What is in a data set, but for what tells when and by whom it was made."""
    return {
        path.name: path.read_bytes()
        for path in folder.iterdir()
        if not path.name.endswith((".receipt.json", ".npy.json"))
    }


def refusal(kind: type[Exception], *words: object) -> Any:
    """The error that `lmkit tokenize` raises."""
    with pytest.raises(kind) as raised:
        lmkit_tokenize(*words)
    return raised.value
