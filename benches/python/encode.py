"""Text file to ``.npy`` on disk: lmkit against gigatoken, tiktoken and Hugging Face tokenizers.

Whole processes, cold, two threads, GPT-2 vocabulary, fsync included. A tool's start-up (its own
time for a file of one byte) is taken off before ratios. Ids are compared before anything is timed.
tiktoken and Hugging Face, tens of times slower, run on the first 20 MB.
"""

import argparse
import statistics
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np

import corpora
import harness
import lmkit

ENCODERS = str(Path(__file__).with_name("encoders.py"))
FAST = ("lmkit", "gigatoken-glue", "gigatoken-file")
ALL = (*FAST, "tiktoken", "huggingface")
HEAD_MB = 20


def command(tool: str, text: Path, folder: Path, out: Path) -> list[str]:
    """The process that turns ``text`` into ``out`` with ``tool``."""
    if tool == "lmkit":
        return [
            sys.executable,
            "-m",
            "lmkit",
            "tokenize",
            "--data_path",
            str(text),
            "--tokenizer",
            str(folder),
            "--output_path",
            str(out),
            "--num_threads",
            "2",
            "--force",
            "--quiet",
        ]
    return [sys.executable, ENCODERS, tool, str(text), str(folder), str(out)]


def same_ids(outs: dict[str, Path]) -> int:
    """How many ids the tools wrote; leaves with the first difference if they disagree."""
    ours = np.load(outs["lmkit"], mmap_mode="r")
    for tool, path in outs.items():
        theirs = np.load(path, mmap_mode="r")
        shared = min(len(ours), len(theirs))
        for start in range(0, shared, 1 << 24):
            part = slice(start, min(start + (1 << 24), shared))
            differs = np.flatnonzero(ours[part] != theirs[part])
            if differs.size:
                sys.exit(f"error: {tool} differs first at id {start + int(differs[0])}")
        if len(ours) != len(theirs):
            sys.exit(f"error: {tool} wrote {len(theirs)} ids, lmkit {len(ours)}")
    return len(ours)


def measure(
    name: str, text: Path, tools: tuple[str, ...], folder: Path, rounds: int, work: Path
) -> dict[str, object]:
    """One row: the tools in turn on one text."""
    print(f"{name}: {text.stat().st_size / 1e6:.0f} MB", file=sys.stderr)
    outs = {tool: work / f"{tool}.npy" for tool in tools}
    for tool in tools:
        harness.run(command(tool, text, folder, outs[tool]))
    # In a process of its own: a child's peak memory starts at its parent's.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        tokens = pool.submit(same_ids, outs).result()
    small = corpora.one_line()
    started = harness.in_turn(
        {t: partial(harness.run, command(t, small, folder, work / "small.npy")) for t in tools},
        rounds,
    )
    startup = {t: statistics.median(one.wall_s for one in runs) for t, runs in started.items()}
    runs = harness.in_turn(
        {t: partial(harness.run, command(t, text, folder, outs[t])) for t in tools}, rounds
    )
    for out in outs.values():
        out.unlink()
    return {
        "text": name,
        "bytes": text.stat().st_size,
        "tokens": tokens,
        "startup_s": startup,
        "tools": {t: harness.summary(runs[t], startup[t]) for t in tools},
        "runs": runs,
    }


def show(rows: list[dict[str, object]]) -> None:
    """Print the rows as a table, each tool against lmkit."""
    lines = []
    for row in rows:
        tools: dict[str, dict[str, float]] = row["tools"]  # type: ignore[assignment]
        ours = tools["lmkit"]["net_s"]
        lines += [
            (
                row["text"],
                tool,
                figures["wall_s"],
                figures["net_s"],
                figures["cpu_s"],
                figures["peak_mib"],
                ours / figures["net_s"],
            )
            for tool, figures in tools.items()
        ]
    harness.table(
        ("text", "tool", "wall s", "less start-up", "CPU s", "peak MiB", "lmkit's share"), lines
    )


def main() -> None:
    """Measure every row, print the table, keep the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--texts", nargs="*", default=list(corpora.TEXTS), choices=corpora.TEXTS)
    parser.add_argument("--no-slow", action="store_true", help="leave tiktoken and HF out")
    options = parser.parse_args()
    corpora.require_shared()
    with tempfile.TemporaryDirectory(dir=corpora.ROOT / "benches") as scratch:
        work = Path(scratch)
        folder = work / "gpt2"
        lmkit.Tokenizer.from_files(corpora.GPT2_VOCAB, corpora.GPT2_MERGES).save(folder)
        jobs = [(name, corpora.text(name), FAST) for name in options.texts]
        if not options.no_slow:
            jobs += [(f"{n}-{HEAD_MB}", corpora.text(n, HEAD_MB), ALL) for n in options.texts]
        rows = [measure(*job, folder, options.rounds, work) for job in jobs]
    show(rows)
    harness.keep("encode", rows, ("gigatoken", "tiktoken", "tokenizers", "numpy"))


if __name__ == "__main__":
    main()
