"""Calls in memory: encode of a short text, encode_batch, decode; lmkit against every peer.

Each tool runs in a fresh process a round, in turn; within it a call is repeated, and the median
repetition counts. Ids and text are compared first. Two threads for batches, one for the rest.
"""

import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import corpora
import harness
import vocabularies

CALLS = str(Path(__file__).with_name("calls.py"))
TOOLS = ("lmkit", "gigatoken", "tiktoken", "huggingface")
ROWS = {
    "encode_20": "µs to encode 20 characters",
    "encode_1000": "µs to encode 1,000 characters",
    "encode_array_1000": "µs to encode 1,000 characters into an array",
    "encode_batch": "MB/s in encode_batch of 100,000 short texts",
    "decode": "MB/s in decode of an int32 array",
}
TEXT_MB, TRIAL_MB = 12, 1

Answers = dict[str, Any]


def answers(tool: str, text: Path, work: Path) -> Answers:
    """What ``tool``'s calls gave, and how long they took, in a new process."""
    out = work / f"{tool}.npz"
    folder = vocabularies.folder(vocabularies.GPT2)
    harness.run([sys.executable, CALLS, tool, str(folder), str(text), str(out)])
    with np.load(out) as found:
        return dict(found)


def compare(found: dict[str, Answers]) -> None:
    """Leave where a tool's answers differ from lmkit's."""
    for tool, theirs in found.items():
        for name in ROWS:
            if not np.array_equal(theirs[name], found["lmkit"][name]):
                sys.exit(f"error: {tool} gives other results than lmkit in {name}")


def rate(name: str, one: Answers) -> float:
    """The row's figure: microseconds a call, or megabytes a second."""
    seconds = statistics.median(one[f"{name}_s"])
    if f"{name}_bytes" in one:
        return float(one[f"{name}_bytes"]) / seconds / 1e6
    return seconds * 1e6


def main() -> None:
    """Measure every call, print the table, keep the record."""
    options = harness.parser(__doc__, 5, []).parse_args()
    corpora.require_shared()
    rounds = 1 if options.trial else options.rounds
    text = corpora.text("english", TRIAL_MB if options.trial else TEXT_MB)
    figures: dict[str, dict[str, list[float]]] = {n: {t: [] for t in TOOLS} for n in ROWS}
    with tempfile.TemporaryDirectory() as scratch:
        for turn in range(rounds):
            shift = turn % len(TOOLS)
            order = TOOLS[shift:] + TOOLS[:shift]
            found = {tool: answers(tool, text, Path(scratch)) for tool in order}
            compare(found)
            for name in ROWS:
                for tool in TOOLS:
                    figures[name][tool].append(rate(name, found[tool]))
            print(f"  round {turn + 1}", file=sys.stderr)
    rows = [
        {
            "name": name,
            "what": what,
            "tools": {tool: harness.spread(figures[name][tool]) for tool in TOOLS},
            "rounds": figures[name],
        }
        for name, what in ROWS.items()
    ]
    header = ("what", *TOOLS)
    harness.table(
        header, [(row["what"], *(row["tools"][tool]["median"] for tool in TOOLS)) for row in rows]
    )
    if not options.trial:
        harness.keep("in_memory", rows, ("gigatoken", "tiktoken", "tokenizers", "numpy"))


if __name__ == "__main__":
    main()
