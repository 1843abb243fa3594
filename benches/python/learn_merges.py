"""Text file to a learned vocabulary: lmkit against Hugging Face, gigabpe, gigatoken and rustbpe.

Whole processes, two threads. Merges are compared before anything is timed, with the peers of the
same rule and input (Hugging Face and gigatoken, fed documents); gigabpe reads line by line and
rustbpe breaks ties its own way, so theirs differ in places and their share of equal merges is told.
"""

import argparse
import statistics
import sys
import tempfile
from functools import partial
from pathlib import Path

import corpora
import harness

LEARNERS = str(Path(__file__).with_name("learners.py"))
EXACT = ("huggingface", "gigatoken")
ROWS = (
    ("english", 64, 10_000),
    ("english", 64, 32_000),
    ("code", None, 32_000),
    ("zhja", None, 10_000),
)
TOOLS = ("lmkit", "gigabpe", "gigatoken", "rustbpe", "huggingface")


def command(tool: str, text: Path, size: int, out: Path) -> list[str]:
    """The process that learns ``size`` tokens from ``text``."""
    if tool == "lmkit":
        return [
            sys.executable,
            "-m",
            "lmkit",
            "train-tokenizer",
            "--data_path",
            str(text),
            "--vocab_size",
            str(size),
            "--tie_break",
            "huggingface",
            "--num_threads",
            "2",
            "--output_path",
            str(out),
            "--force",
            "--quiet",
        ]
    return [sys.executable, LEARNERS, tool, str(text), str(size), str(out)]


def merges(tool: str, out: Path) -> list[str]:
    """The merges that ``tool`` wrote, in order."""
    path = out / "merges.txt" if tool == "lmkit" else out
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#version")]


def agreement(outs: dict[str, Path]) -> dict[str, float]:
    """The share of lmkit's merges each tool has too; the exact peers must have all in order."""
    ours = merges("lmkit", outs["lmkit"])
    shares = {}
    for tool, out in outs.items():
        theirs = merges(tool, out)
        if tool in EXACT and theirs != ours:
            place = next(
                (i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b),
                min(len(ours), len(theirs)),
            )
            sys.exit(f"error: {tool} differs first at merge {place}")
        shares[tool] = len(set(ours) & set(theirs)) / len(ours)
    return shares


def measure(
    name: str, text: Path, size: int, tools: tuple[str, ...], rounds: int, work: Path
) -> dict[str, object]:
    """One row: the tools in turn on one text and size."""
    print(f"{name}, {size} tokens", file=sys.stderr)
    outs = {tool: work / f"{tool}.out" for tool in tools}
    for tool in tools:
        harness.run(command(tool, text, size, outs[tool]))
    shares = agreement(outs)
    small = corpora.one_line()
    small.write_text("one line of text to start up with\n")
    started = harness.in_turn(
        {t: partial(harness.run, command(t, small, 257, work / f"{t}.small")) for t in tools},
        rounds,
    )
    startup = {t: statistics.median(one.wall_s for one in runs) for t, runs in started.items()}
    runs = harness.in_turn(
        {t: partial(harness.run, command(t, text, size, outs[t])) for t in tools}, rounds
    )
    return {
        "text": name,
        "bytes": text.stat().st_size,
        "vocab_size": size,
        "startup_s": startup,
        "same_merges": shares,
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
                row["vocab_size"],
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
        ("text", "tokens", "tool", "wall s", "less start-up", "CPU s", "peak MiB", "lmkit's share"),
        lines,
    )


def main() -> None:
    """Measure every row, print the table, keep the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tools", nargs="*", default=list(TOOLS), choices=TOOLS)
    parser.add_argument("--rows", type=int, default=len(ROWS), help="only the first N rows")
    options = parser.parse_args()
    corpora.require_shared()
    tools = ("lmkit", *(tool for tool in options.tools if tool != "lmkit"))
    rows = []
    with tempfile.TemporaryDirectory(dir=corpora.ROOT / "benches") as scratch:
        for name, megabytes, size in ROWS[: options.rows]:
            text = corpora.text(name, megabytes)
            rows.append(measure(text.stem, text, size, tools, options.rounds, Path(scratch)))
    show(rows)
    harness.keep("learn_merges", rows, ("gigabpe", "gigatoken", "rustbpe", "tokenizers"))


if __name__ == "__main__":
    main()
