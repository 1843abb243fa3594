"""Does memory, or the CPU time of a megabyte, grow with the file? From 0.2 to 2 GB.

The corpora's documents, shuffled and repeated, are written to ``benches/.cache`` for the time of
the run. ids are compared on each size before the clock runs; fsync included.
"""

import sys
import tempfile
from functools import partial
from pathlib import Path

import corpora
import encode
import harness
import vocabularies

SIZES_MB = (200, 600, 2000)
TRIAL_MB = (2, 6)
TOOLS = ("lmkit", encode.GLUE)


def measure(megabytes: int, rounds: int, work: Path) -> dict[str, object]:
    """One size: both tools in turn."""
    text = Path(harness.apart(corpora.shuffled, megabytes))
    try:
        size = text.stat().st_size
        print(f"{size / 1e6:.0f} MB", file=sys.stderr)
        folder, small = vocabularies.folder(vocabularies.GPT2), corpora.one_line()
        outs = {tool: work / f"{tool}.npy" for tool in TOOLS}
        jobs = {t: partial(harness.run, encode.command(t, text, folder, outs[t])) for t in TOOLS}
        for job in jobs.values():
            job()
        tokens = harness.apart(encode.same_ids, outs)
        tiny = work / "small.npy"
        starting = {t: partial(harness.run, encode.command(t, small, folder, tiny)) for t in TOOLS}
        figures = harness.measure(jobs, starting, rounds)
        for out in outs.values():
            out.unlink()
    finally:
        text.unlink()
    tools: dict[str, dict[str, float]] = figures["tools"]
    cpu = {tool: summary["cpu_s"] / (size / 1e6) for tool, summary in tools.items()}
    row = {"megabytes": megabytes, "bytes": size, "tokens": tokens, "cpu_s_per_mb": cpu}
    return {**row, **figures}


def main() -> None:
    """Measure every size, print the tables, keep the record."""
    names = [str(size) for size in SIZES_MB]
    options = harness.parser(__doc__, 5, names).parse_args()
    corpora.require_shared()
    sizes = TRIAL_MB if options.trial else tuple(map(int, options.rows))
    rounds = 1 if options.trial else options.rounds
    with tempfile.TemporaryDirectory(dir=corpora.ROOT / "benches") as scratch:
        rows = [measure(size, rounds, Path(scratch)) for size in sizes]
    harness.show(rows, "megabytes")
    harness.table(
        ("MB", "tool", "CPU ms a MB", "peak MiB"),
        [
            (row["megabytes"], tool, 1e3 * row["cpu_s_per_mb"][tool], figures["peak_mib"])
            for row in rows
            for tool, figures in row["tools"].items()
        ],
    )
    if not options.trial:
        harness.keep("encode_large", rows, ("gigatoken", "numpy"), ("megabytes",))


if __name__ == "__main__":
    main()
