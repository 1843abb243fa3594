"""Text file to token file on disk: lmkit against gigatoken, tiktoken and Hugging Face tokenizers.

Whole processes, cold, two threads, five rounds in turn. A tool's start-up (its own time for a file
of one byte, in the same rounds) is taken off before lmkit's share of its time is formed, round by
round. Ids are compared before anything is timed. Both sides fsync; rows marked so were measured
without, fsync being turned off from outside for both. tiktoken and Hugging Face, tens of times
slower, run on the first 20 MB.
"""

import sys
import tempfile
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import corpora
import harness
import vocabularies
import without_fsync

ENCODERS = str(Path(__file__).with_name("encoders.py"))
GLUE = "gigatoken-glue"
FAST = ("lmkit", GLUE, "gigatoken-file")
ALL = (*FAST, "tiktoken", "huggingface")
HEAD_MB = 20
TRIAL_MB = 4
BLOCK = 1 << 24


@dataclass(frozen=True)
class Row:
    """What is encoded, with which vocabulary, by which tools, into what."""

    text: str
    vocabulary: str = vocabularies.GPT2
    tools: tuple[str, ...] = ("lmkit", GLUE)
    megabytes: int | None = None
    fsync: bool = True
    form: str = "plain"
    output: str = "int32 .npy"

    @property
    def name(self) -> str:
        """One word for the row, as ``--rows`` takes it."""
        parts = [self.text, self.vocabulary]
        parts += [f"first-{self.megabytes}"] if self.megabytes else []
        parts += ["no-fsync"] if not self.fsync else []
        parts += [self.form] if self.form != "plain" else []
        parts += [self.output.replace(" ", "")] if self.output != "int32 .npy" else []
        return "/".join(parts)


LABELS = ("text", "vocabulary", "megabytes", "fsync", "form", "output")
TEXTS = (*corpora.TEXTS, corpora.OWN)
ROWS = (
    *(Row(text, tools=FAST) for text in TEXTS),
    *(Row("english", vocabulary) for vocabulary in vocabularies.LEARNED),
    *(Row(text, fsync=False) for text in TEXTS),
    *(Row(text, tools=ALL, megabytes=HEAD_MB) for text in TEXTS),
    Row("code", form="folder"),
    Row("code", form="gz"),
    Row("code", form="zst"),
    Row("code", output="uint16 .npy"),
    Row("code", output="int32 .bin"),
)


def command(tool: str, text: Path, folder: Path, out: Path, dtype: str = "int32") -> list[str]:
    """The process that turns ``text`` into ``out`` with ``tool``."""
    if tool != "lmkit":
        return [sys.executable, ENCODERS, tool, str(text), str(folder), str(out), dtype]
    return [
        *(sys.executable, "-m", "lmkit", "tokenize", "--data_path", str(text)),
        *("--tokenizer", str(folder), "--output_path", str(out), "--dtype", dtype),
        *("--num_threads", "2", "--force", "--quiet"),
    ]


def load(path: Path, dtype: str) -> "np.ndarray[Any, Any]":
    """The ids in ``path``, mapped."""
    if path.suffix == ".bin":
        return np.memmap(path, dtype=dtype, mode="r")
    array = np.load(path, mmap_mode="r")
    if array.dtype != dtype:
        sys.exit(f"error: {path} holds {array.dtype}, not {dtype}")
    return array


def same_ids(outs: dict[str, Path], dtype: str = "int32") -> int:
    """How many ids the tools wrote; leaves with the first difference if they disagree."""
    ours = load(outs["lmkit"], dtype)
    for tool, path in outs.items():
        theirs = load(path, dtype)
        shared = min(len(ours), len(theirs))
        for start in range(0, shared, BLOCK):
            part = slice(start, min(start + BLOCK, shared))
            differs = np.flatnonzero(ours[part] != theirs[part])
            if differs.size:
                sys.exit(f"error: {tool} differs first at id {start + int(differs[0])}")
        if len(ours) != len(theirs):
            sys.exit(f"error: {tool} wrote {len(theirs)} ids, lmkit {len(ours)}")
    return len(ours)


def input_of(row: Row, text: Path) -> Path:
    """The row's text in the form it is read."""
    if row.form == "plain":
        return text
    return corpora.as_folder(text) if row.form == "folder" else corpora.compressed(text, row.form)


def measure(row: Row, rounds: int, work: Path, *, trial: bool) -> dict[str, object] | None:
    """The row's figures: the tools in turn on one text; None where it cannot be measured here."""
    env = None if row.fsync else without_fsync.environment()
    if env is None and not row.fsync:
        print(f"{row.name}: left out, there is no way to turn fsync off", file=sys.stderr)
        return None
    text = corpora.text(row.text, TRIAL_MB if trial else row.megabytes)
    source, folder = input_of(row, text), vocabularies.folder(row.vocabulary)
    print(f"{row.name}: {text.stat().st_size / 1e6:.0f} MB", file=sys.stderr)
    dtype, ending = row.output.split()
    outs = {tool: work / f"{tool}{ending}" for tool in row.tools}
    jobs = {t: partial(harness.run, command(t, source, folder, outs[t], dtype), env) for t in outs}
    for job in jobs.values():
        job()
    tokens = harness.apart(same_ids, outs, dtype)
    small, tiny = corpora.one_line(), work / f"small{ending}"
    starting = {t: partial(harness.run, command(t, small, folder, tiny, dtype), env) for t in outs}
    figures = harness.measure(jobs, starting, rounds)
    for out in outs.values():
        out.unlink()
    what = {"name": row.name, **{label: asdict(row)[label] for label in LABELS}}
    return {**what, "bytes": text.stat().st_size, "tokens": tokens, **figures}


def main() -> None:
    """Measure the rows, print the table, keep the record."""
    by_name = {row.name: row for row in ROWS}
    options = harness.parser(__doc__, 5, list(by_name)).parse_args()
    corpora.require_shared()
    rounds = 1 if options.trial else options.rounds
    rows = []
    with tempfile.TemporaryDirectory(dir=corpora.ROOT / "benches") as scratch:
        for name in options.rows:
            row = measure(by_name[name], rounds, Path(scratch), trial=options.trial)
            rows += [row] if row else []
    harness.show(rows, "name")
    if not options.trial:
        packages = ("gigatoken", "tiktoken", "tokenizers", "numpy")
        harness.keep("encode", rows, packages, LABELS)


if __name__ == "__main__":
    main()
