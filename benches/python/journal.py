"""What it costs to note how far a run is, for ``--resume``: a large file with notes and without.

The corpora's documents, shuffled and repeated, are written to ``benches/.cache`` for the time of
the run. Outputs are compared first; both sides fsync at the end.
"""

import sys
import tempfile
from functools import partial
from pathlib import Path

import corpora
import encode
import harness
import vocabularies

MEGABYTES = 2000
TRIAL_MB = 20
NEVER = 1e9
WITHOUT = "lmkit without notes"
WRITE = """
import sys
import lmkit
from lmkit.tokenize_files import plan
text, tokenizer, out, seconds = sys.argv[1:]
tokenizer = lmkit.Tokenizer.load(tokenizer)
plan(
    text, out, tokenizer, note_every=float(seconds), force=True, dtype="int32", errors="strict",
    special="encode", end_of_document=None, val_fraction=None, text_field=None, num_threads=None,
    max_record_bytes=1 << 30,
).run(None)
"""


def measure(megabytes: int, rounds: int, work: Path) -> dict[str, object]:
    """Both in turn: a note every two seconds, as users have it, and none."""
    text = Path(harness.apart(corpora.shuffled, megabytes))
    try:
        folder = str(vocabularies.folder(vocabularies.GPT2))
        outs = {"lmkit": work / "notes.npy", WITHOUT: work / "none.npy"}
        seconds = {"lmkit": "2", WITHOUT: str(NEVER)}
        jobs = {
            name: partial(
                harness.run,
                [sys.executable, "-c", WRITE, str(text), folder, str(out), seconds[name]],
            )
            for name, out in outs.items()
        }
        for job in jobs.values():
            job()
        tokens = harness.apart(encode.same_ids, outs)
        figures = harness.measure(jobs, {}, rounds)
        size = text.stat().st_size
    finally:
        text.unlink()
    return {"megabytes": megabytes, "bytes": size, "tokens": tokens, **figures}


def main() -> None:
    """Measure, print the table, keep the record."""
    options = harness.parser(__doc__, 7, ()).parse_args()
    corpora.require_shared()
    megabytes, rounds = (TRIAL_MB, 1) if options.trial else (MEGABYTES, options.rounds)
    with tempfile.TemporaryDirectory(dir=corpora.ROOT / "benches") as scratch:
        row = measure(megabytes, rounds, Path(scratch))
    harness.show([row], "megabytes")
    if not options.trial:
        harness.keep("journal", [row], ("numpy",), ("megabytes",))


if __name__ == "__main__":
    main()
