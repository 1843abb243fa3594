"""What reading shards costs: opening a large manifest, sampling from it, training from many files.

- open: a manifest of 100,000 shards, in a fresh process, from the path to the first length.
- sample: one batch (32 windows of 512 tokens) from 100,000 shards, where nearly every window opens
  a shard that was never opened before; also with --respect_documents, which opens two files each.
- train: the small model's steps from 1,000 shards and from one file of the same ids, in turn, the
  order alternating; the batches are compared first.

The 100,000 shards are hard links to 8 contents, so that they fit a small disk; each is opened,
checked against manifest and sidecar, and read like any other. The page cache is warm.
"""

import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import harness

ROWS = ("open", "sample", "train")
CONTENTS = 8
TOKENS = 4096  # of a shard
DOCUMENT = 512  # tokens of a document
VOCABULARY = 1000
BATCH, CONTEXT = 32, 512


def contents(number: int) -> np.ndarray:
    """The ids of the shards that have this content."""
    return np.random.default_rng(number).integers(0, VOCABULARY, TOKENS).astype("<i4")


def make_set(folder: Path, shards: int) -> Path:
    """A data set of ``shards`` shards, hard links all but the first of each content."""
    from lmkit._core import Checksum
    from lmkit.shards.manifest import Manifest, ShardEntry
    from lmkit.shards.names import shard_name

    def checksum(array: np.ndarray) -> str:
        found = Checksum()
        found.update(array.tobytes())
        return found.text()

    folder.mkdir()
    ends = np.arange(DOCUMENT, TOKENS + 1, DOCUMENT, dtype=np.int64)
    ids = [contents(number) for number in range(CONTENTS)]
    sums = [checksum(one) for one in ids]
    entries = []
    for number in range(shards):
        kind, base = number % CONTENTS, folder / shard_name(number, shards)
        first = folder / shard_name(kind, shards)
        files = [f"{base}{ending}" for ending in (".npy", ".npy.json", ".docs.npy")]
        if number < CONTENTS:
            np.save(files[0], ids[kind])
            changed = Path(files[0]).stat().st_mtime_ns
            said = {"dtype": "int32", "tokens": TOKENS, "checksum": sums[kind]}
            Path(files[1]).write_text(json.dumps(said | {"modified_ns": changed}))
            np.save(files[2], ends)
        else:
            for file in files:
                os.link(file.replace(str(base), str(first)), file)
        size = 128 + ids[kind].nbytes
        counts = (TOKENS, len(ends), sums[kind], checksum(ends), size)
        entries.append(ShardEntry(base.name, *counts, 0, VOCABULARY - 1))
    manifest = Manifest(
        plan="bench", dtype="int32", suffix=".npy", tokens=shards * TOKENS,
        documents=shards * len(ends), text_bytes=4 * shards * TOKENS, smallest_id=0,
        largest_id=VOCABULARY - 1, tokenizer="bench", vocab_size=VOCABULARY, inputs=["bench"],
        split="train", shards=tuple(entries), lmkit="bench",
    )  # fmt: skip
    (folder / "manifest.json").write_bytes(manifest.to_bytes())
    return folder


def open_once(folder: str) -> float:
    """Seconds to open the data set; for a fresh process."""
    import lmkit.shards.tokens  # noqa: F401 - its loading is start-up, not opening
    from lmkit.shards.tokens import ShardedTokens

    start = time.perf_counter()
    n_tokens = len(ShardedTokens(folder))
    seconds = time.perf_counter() - start
    if not n_tokens:
        sys.exit("error: the data set is empty")
    return seconds


def sample_rounds(folder: str, batches: int) -> dict[str, list[float]]:
    """Milliseconds of single batches, by documents or not; for a fresh process."""
    from lmkit.lm.batches import TokenBatches
    from lmkit.lm.documents import Documents, DocumentTokens
    from lmkit.shards.tokens import ShardedTokens

    tokens = ShardedTokens(folder)
    parted = DocumentTokens(tokens, Documents(tokens.shard_ends, tokens.document_ends))
    known = [contents(number) for number in range(CONTENTS)]
    found: dict[str, list[float]] = {}
    for name, source in (("windows", tokens), ("documents", parted)):
        options = {"batch_size": BATCH, "context_length": CONTEXT, "seed": 1}
        sampler = TokenBatches(source, **options)
        _check_windows(sampler, known)
        times = found[name] = []
        for step in range(2, batches + 2):
            start = time.perf_counter()
            sampler.batch(step)
            times.append(1000 * (time.perf_counter() - start))
    return found


def _check_windows(sampler: Any, known: Sequence[np.ndarray]) -> None:  # noqa: ANN401 - TokenBatches
    """Compare a batch with what its shards are known to hold."""
    inputs, targets = sampler.batch(1)
    starts = sampler.starts(1).tolist()
    for start, row, last in zip(starts, inputs.tolist(), targets[:, -1].tolist(), strict=True):
        places = range(start, start + CONTEXT + 1)
        expected = [int(known[p // TOKENS % CONTENTS][p % TOKENS]) for p in places]
        if [*row, last] != expected and last >= 0:
            sys.exit(f"error: the window at token {start} is not what its shards hold")


def train_rounds(folder: str, one_file: str, steps: int) -> dict[str, list[float]]:
    """Seconds of whole steps and of reading alone, from one file and from shards."""
    import torch

    from lmkit.config import train_config
    from lmkit.lm.batches import TokenBatches
    from lmkit.lm.model import Transformer
    from lmkit.lm.optimizer import clip_gradients, make_optimizer
    from lmkit.shards.tokens import ShardedTokens
    from lmkit.token_file import TokenReader

    config = train_config({"preset": "small", "context_length": 256})
    options = {"batch_size": config.batch_size, "context_length": config.context_length}
    sources = {
        "one file": TokenBatches(TokenReader(one_file), **options),
        "shards": TokenBatches(ShardedTokens(folder), **options),
    }
    for step in range(1, 20):
        batches = [source.batch(step) for source in sources.values()]
        if not all(torch.equal(a, b) for a, b in zip(*batches, strict=True)):
            sys.exit(f"error: the batches of step {step} differ")
    torch.manual_seed(0)
    model = Transformer(config.model)
    optimizer, parameters = make_optimizer(model, config), list(model.parameters())
    times: dict[str, list[float]] = {
        f"{name}, {part}": [] for name in sources for part in ("step", "reading")
    }
    for step in range(20, 20 + steps):
        for name in sorted(sources, reverse=step % 2 == 0):
            start = time.perf_counter()
            inputs, targets = next(iter(sources[name].micro_batches(step)))
            read = time.perf_counter()
            optimizer.zero_grad(set_to_none=True)
            model(inputs, targets).backward()
            clip_gradients(parameters, 1.0)
            optimizer.step()
            if step < 23:
                continue  # warming up
            times[f"{name}, step"].append(time.perf_counter() - start)
            times[f"{name}, reading"].append(read - start)
    return times


def main() -> None:
    """Measure the rows asked for; keep the record."""
    options = harness.parser(__doc__, 9, ROWS).parse_args()
    many, some = (10_000, 100) if options.trial else (100_000, 1000)
    rounds = 3 if options.trial else options.rounds
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as base:
        large = (
            make_set(Path(base) / "many", many) if {"open", "sample"} & {*options.rows} else None
        )
        if "open" in options.rows:
            runs = [harness.apart(open_once, str(large)) for _ in range(rounds)]
            rows.append({"row": "open", "shards": many, "unit": "s", "runs": {"open": runs}})
        if "sample" in options.rows:
            runs = harness.apart(sample_rounds, str(large), 10 * rounds)
            rows.append({"row": "sample", "shards": many, "unit": "ms", "runs": runs})
        if "train" in options.rows:
            folder, one_file = make_set(Path(base) / "some", some), Path(base) / "one.npy"
            parts = itertools.islice(itertools.cycle(map(contents, range(CONTENTS))), some)
            np.save(one_file, np.concatenate(list(parts)))
            steps = 3 * rounds + 3
            runs = harness.apart(train_rounds, str(folder), str(one_file), steps)
            ratios = [
                a / b for a, b in zip(runs["one file, step"], runs["shards, step"], strict=True)
            ]
            share = harness.spread(ratios)
            row = {"row": "train", "shards": some, "unit": "s", "runs": runs}
            rows.append(row | {"of one file's speed": share})
            print(f"tokens/s from {some:,} shards: {share['median']:.3f} of one file's", flush=True)
    lines = [
        (
            row["row"],
            row["shards"],
            name,
            statistics.median(ones),
            min(ones),
            max(ones),
            row["unit"],
        )
        for row in rows
        for name, ones in row["runs"].items()
    ]
    harness.table(("row", "shards", "what", "median", "min", "max", "unit"), lines)
    if not options.trial:
        harness.keep("sharded_reading", rows, ("torch", "numpy"), ("row",))


if __name__ == "__main__":
    main()
