"""How long the first answer takes: help, import, first id, one byte; each a new process."""

import argparse
import statistics
import sys
import tempfile
from functools import partial
from pathlib import Path

import corpora
import harness
import lmkit

FIRST_ID = "import lmkit, sys; print(lmkit.Tokenizer.load(sys.argv[1]).encode('a'))"


def jobs(folder: Path, work: Path) -> dict[str, list[str]]:
    """The commands to time, by name."""
    python, small = sys.executable, str(corpora.one_line())
    tokenize = [
        python,
        "-m",
        "lmkit",
        "tokenize",
        "--data_path",
        small,
        "--tokenizer",
        str(folder),
        "--output_path",
        str(work / "a.npy"),
        "--force",
        "--quiet",
    ]
    return {
        "bare python": [python, "-c", "pass"],
        "import lmkit": [python, "-c", "import lmkit"],
        "lmkit --help": [python, "-m", "lmkit", "--help"],
        "lmkit train --help": [python, "-m", "lmkit", "train", "--help"],
        "GPT-2 vocabulary to first id": [python, "-c", FIRST_ID, str(folder)],
        "lmkit tokenize, one byte": tokenize,
    }


def main() -> None:
    """Time each command in turn, print medians, keep the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    corpora.require_shared()
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        folder = work / "gpt2"
        lmkit.Tokenizer.from_files(corpora.GPT2_VOCAB, corpora.GPT2_MERGES).save(folder)
        timed = {name: partial(harness.run, argv) for name, argv in jobs(folder, work).items()}
        runs = harness.in_turn(timed, options.rounds)
    bare = statistics.median(one.wall_s for one in runs["bare python"])
    rows = {name: harness.summary(ones, bare) for name, ones in runs.items()}
    harness.table(
        ("what", "wall s", "beyond bare Python", "peak MiB"),
        [(name, row["wall_s"], row["net_s"], row["peak_mib"]) for name, row in rows.items()],
    )
    harness.keep("startup", {"summary": rows, "runs": runs}, ("click", "numpy", "torch"))


if __name__ == "__main__":
    main()
