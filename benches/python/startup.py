"""How long the first answer takes: help, import, first id, one byte; each a new process.

``first id, loaded`` is what loading GPT-2's vocabulary and encoding one letter take within a
running interpreter that has imported the library, as the process itself times it.
"""

import statistics
import sys
import tempfile
from functools import partial
from pathlib import Path

import corpora
import encode
import harness
import vocabularies

FIRST_ID = "import lmkit, sys; print(lmkit.Tokenizer.load(sys.argv[1]).encode('a'))"

# Given the tokenizer folder and a file for the seconds: import first, then the clock.
LOADED = """
import sys, time
sys.path.insert(0, {benches!r})
{imports}
start = time.perf_counter()
{load}
open(sys.argv[2], "w").write(str(time.perf_counter() - start))
"""
LOADS = {
    "lmkit": ("import lmkit", "lmkit.Tokenizer.load(sys.argv[1]).encode('a')"),
    "gigatoken": (
        "import encoders, gigatoken, numpy",
        "encoders.load_gigatoken(sys.argv[1]).encode('a')",
    ),
    "tiktoken": (
        "import tiktoken; from tiktoken.load import load_tiktoken_bpe; import encoders",
        "tiktoken.Encoding('bench', pat_str=encoders.PATTERNS['gpt2'], special_tokens={},"
        " mergeable_ranks=load_tiktoken_bpe(sys.argv[1] + '.tiktoken')).encode('a')",
    ),
    "huggingface": (
        "import tokenizers",
        "tokenizers.Tokenizer.from_file(sys.argv[1] + '/tokenizer.json').encode('a')",
    ),
}


def jobs(folder: Path, work: Path) -> dict[str, list[str]]:
    """The commands to time, by name."""
    python = sys.executable
    tokenize = encode.command("lmkit", corpora.one_line(), folder, work / "a.npy")
    return {
        "bare python": [python, "-c", "pass"],
        "import lmkit": [python, "-c", "import lmkit"],
        "lmkit --help": [python, "-m", "lmkit", "--help"],
        "lmkit train --help": [python, "-m", "lmkit", "train", "--help"],
        "GPT-2 vocabulary to first id": [python, "-c", FIRST_ID, str(folder)],
        "lmkit tokenize, one byte": tokenize,
    }


def loaded(tool: str, folder: Path, work: Path) -> float:
    """Seconds from the vocabulary's files to the first id, told by a new process."""
    imports, load = LOADS[tool]
    script = LOADED.format(benches=str(Path(__file__).parent), imports=imports, load=load)
    told = work / "seconds"
    harness.run([sys.executable, "-c", script, str(folder), str(told)])
    return float(told.read_text())


def main() -> None:
    """Time each command in turn, print medians, keep the record."""
    options = harness.parser(__doc__, 9, []).parse_args()
    corpora.require_shared()
    rounds = 1 if options.trial else options.rounds
    folder = vocabularies.folder(vocabularies.GPT2)
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        timed = {name: partial(harness.run, argv) for name, argv in jobs(folder, work).items()}
        runs = harness.in_turn(timed, rounds)
        loads: dict[str, list[float]] = {tool: [] for tool in LOADS}
        for _ in range(rounds):
            for tool, seconds in loads.items():
                seconds.append(loaded(tool, folder, work))
    bare = statistics.median(one.wall_s for one in runs["bare python"])
    rows = {name: harness.summary(ones, bare) for name, ones in runs.items()}
    harness.table(
        ("what", "wall s", "beyond bare Python", "peak MiB"),
        [(name, row["wall_s"], row["net_s"], row["peak_mib"]) for name, row in rows.items()],
    )
    first = {tool: harness.spread(seconds) for tool, seconds in loads.items()}
    harness.table(
        ("first id, loaded", "s", "min", "max"),
        [(tool, *one.values()) for tool, one in first.items()],
    )
    if not options.trial:
        record = {"summary": rows, "runs": runs, "first_id": first, "loads": loads}
        packages = ("click", "numpy", "torch", "gigatoken", "tiktoken", "tokenizers")
        harness.keep("startup", record, packages)


if __name__ == "__main__":
    main()
