"""What the design costs at 10 million inputs and 100,000 shards, as far as one machine can tell.

The files are as long as real ones, and hold nothing: token files are all hole, so that 100,000 of
them, 2.5 * 10^12 ids, fit any disk that has the inodes (400,000). Measured are

    planning   small files on the disk to a plan (each is looked at, and read a little where cut)
    plan-file  a plan of so many inputs: its hash, its file, and reading that again
    receipts   `lmkit tokenize --finalize`: all receipts to one manifest
    manifest   opening a data set of so many shards, as a training run does
    sampling   one batch of 32 windows of 512 ids, each from a shard not opened before
    checkpoint what the first of so many processes does alone when a model of 32 blocks that is cut
               over them is saved: all their plans to one, and that to `.metadata` and back

Each size is measured in a process of its own, and what it gives is compared with what was put in
before its time is told. The goals: planning is linear, opening takes less than 1 s, a batch less
than 5 ms. The first reading after the folder was made has its files in the page cache; on a network
file system each open costs a round trip more.
"""

import json
import os
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import harness

TOKENS = 25_000_000  # of a shard
SIZES: dict[str, tuple[int, ...]] = {
    "planning": (20_000, 40_000, 80_000),
    "plan-file": (1_250_000, 2_500_000, 5_000_000, 10_000_000),
    "receipts": (25_000, 50_000, 100_000),
    "manifest": (25_000, 50_000, 100_000),
    "sampling": (25_000, 100_000),
    "checkpoint": (64, 256, 1024),
}
TRIAL_SIZES = {name: (500, 1000) if name != "checkpoint" else (4, 8) for name in SIZES}
DATA_SET_PARTS = ("receipts", "manifest", "sampling")
BATCHES = 50
BATCH = {"batch_size": 32, "context_length": 512}
CHECKSUM = "xxh3-128:" + "0" * 32
SHARD_PLANNED = 512  # inputs to a shard, in planning


def options() -> dict[str, Any]:
    """What decides the bytes, as a plan has it."""
    return {
        "dtype": "uint16",
        "shard_format": "bin",
        "vocab_size": 50_257,
        "val_fraction": None,
        "val_output_path": None,
    }


def make_plan_of(inputs: int, shards: int) -> Any:  # noqa: ANN401 - lmkit is imported in the child
    """A plan of ``inputs`` files with paths of a usual length, in ``shards`` equal parts."""
    from lmkit import __version__
    from lmkit.shards.plan import Cut, Plan, PlannedInput

    files = [
        PlannedInput(
            f"/data/crawl/2026-{place % 52:02}/part-{place:08}.jsonl.zst",
            100_000 + place % 1000,
            1_700_000_000_000_000_000 + place,
            True,
        )
        for place in range(inputs)
    ]
    cuts = [Cut(inputs * number // shards, 0) for number in range(shards + 1)]
    return Plan(["/data/crawl"], files, cuts, "f" * 64, options(), __version__)


class Clock:
    """Seconds of each phase of one measurement, and those that a core computed."""

    def __init__(self) -> None:
        self.seconds: dict[str, tuple[float, float]] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Take the time of the block."""
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.seconds[name] = time.perf_counter() - wall, time.process_time() - cpu


def planning(files: int, work: Path) -> dict[str, tuple[float, float]]:
    """Small text files on the disk to a plan."""
    from lmkit import Tokenizer
    from lmkit.shards.make_plan import ShardOptions, make_plan

    tokenizer = Tokenizer.train(texts=["a text to learn merges from"], vocab_size=257)
    folder = work / "texts"
    if not folder.exists():
        for place in range(files):
            path = folder / f"{place % 100:02}" / f"{place:08}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"document {place}")
    clock = Clock()
    shards = max(2, files // SHARD_PLANNED)
    with clock.phase("plan"):
        planned = make_plan([str(folder)], work / "out", tokenizer, ShardOptions(shards=shards))
    expect(len(planned.plan.inputs), files)
    return clock.seconds


def plan_file(inputs: int, work: Path) -> dict[str, tuple[float, float]]:
    """A plan's hash and file, and reading it."""
    from lmkit.shards.plan import read_plan

    clock = Clock()
    with clock.phase("make"):
        plan = make_plan_of(inputs, max(2, inputs // 100))
    with clock.phase("write"):
        (work / "plan.json").write_bytes(plan.to_bytes())
    with clock.phase("read"):
        found = read_plan(work)
    expect(found.id, plan.id)
    return clock.seconds


def data_set(shards: int, folder: Path) -> None:
    """A data set whose shards are there, all hole, with receipts, and without a manifest."""
    from lmkit.shards.names import document_ends_name, receipt_name
    from lmkit.shards.receipt import Receipt

    plan = make_plan_of(shards, shards)
    (folder / "plan.json").write_bytes(plan.to_bytes())
    ends = document_ends()
    for number in range(shards):
        name = plan.name(number)
        tokens = folder / f"{name}.bin"
        with tokens.open("wb") as file:
            file.truncate(2 * TOKENS)
        (folder / document_ends_name(name)).write_bytes(ends)
        receipt = Receipt(
            plan=plan.id,
            number=number,
            name=name,
            dtype="uint16",
            suffix=".bin",
            tokens=TOKENS,
            documents=1,
            text_bytes=4 * TOKENS,
            checksum=CHECKSUM,
            documents_checksum=CHECKSUM,
            file_bytes=2 * TOKENS,
            smallest_id=0,
            largest_id=0,
            skipped=[],
            null_rows=0,
            lmkit=plan.lmkit,
            worker="host:1",
            seconds=1.0,
        )
        write_sidecar(tokens, plan.lmkit)
        (folder / receipt_name(name)).write_bytes(receipt.to_bytes())


def document_ends() -> bytes:
    """The file of document ends of a shard that is one document."""
    import io

    import numpy as np

    file = io.BytesIO()
    np.save(file, np.array([TOKENS], dtype="<i8"))
    return file.getvalue()


def write_sidecar(tokens: Path, lmkit: str) -> None:
    """What lies beside a token file, so that opening it need not read it."""
    state = tokens.stat()
    said = {
        "format": 1,
        "dtype": "uint16",
        "tokens": TOKENS,
        "documents": 1,
        "text_bytes": 4 * TOKENS,
        "smallest_id": 0,
        "largest_id": 0,
        "checksum": CHECKSUM,
        "file_bytes": state.st_size,
        "modified_ns": state.st_mtime_ns,
        "tokenizer": "f" * 64,
        "vocab_size": 50_257,
        "inputs": [],
        "lmkit": lmkit,
    }
    tokens.with_name(f"{tokens.name}.json").write_text(json.dumps(said))


def receipts(shards: int, work: Path) -> dict[str, tuple[float, float]]:
    """All receipts of a data set to its manifest."""
    from lmkit.shards.data_set import finalize

    if not (work / "plan.json").exists():
        data_set(shards, work)
    (work / "manifest.json").unlink(missing_ok=True)
    clock = Clock()
    with clock.phase("finalize"):
        manifest, _ = finalize(work)
    expect((len(manifest.shards), manifest.tokens), (shards, shards * TOKENS))
    return clock.seconds


def manifest(shards: int, work: Path) -> dict[str, tuple[float, float]]:
    """Opening a data set."""
    from lmkit.tokens import token_reader

    ready(shards, work)
    clock = Clock()
    with clock.phase("open"):
        tokens = token_reader(str(work))
    expect(len(tokens), shards * TOKENS)
    return clock.seconds


def sampling(shards: int, work: Path) -> dict[str, tuple[float, float]]:
    """Batches of a data set, the median and the longest."""
    from lmkit.lm.batches import TokenBatches
    from lmkit.tokens import token_reader

    ready(shards, work)
    batches = TokenBatches(token_reader(str(work)), **BATCH)
    found = []
    for step in range(BATCHES):
        clock = Clock()
        with clock.phase("batch"):
            (batch,) = batches.micro_batches(step)
        found.append(clock.seconds["batch"])
        expect(tuple(batch[0].shape), tuple(BATCH.values()))
    return {
        "batch": tuple(statistics.median(one) for one in zip(*found, strict=True)),  # type: ignore[dict-item] # a pair
        "longest": max(found),
    }


def checkpoint(processes: int, work: Path) -> dict[str, tuple[float, float]]:
    """The plans of all processes for a checkpoint, as `torch.distributed.checkpoint` joins them."""
    import pickle

    from torch.distributed.checkpoint import DefaultSavePlanner
    from torch.distributed.checkpoint.filesystem import _StorageInfo

    from lmkit.lm.sharded_checkpoint import read_metadata

    plans = [local_plan(rank, processes) for rank in range(processes)]
    planner = DefaultSavePlanner()
    planner.set_up_planner({}, None, is_coordinator=True)
    clock = Clock()
    with clock.phase("join plans"):
        joined, metadata = planner.create_global_plan(plans)
    metadata.storage_data = {
        item.index: _StorageInfo(f"__{rank}_0.distcp", place, 1)
        for rank, plan in enumerate(joined)
        for place, item in enumerate(plan.items)
    }
    path = work / ".metadata"
    with clock.phase("write"):
        path.write_bytes(pickle.dumps(metadata))
    with clock.phase("read"):
        found = read_metadata(path)
    expect(len(found.storage_data), sum(len(plan.items) for plan in plans))
    return clock.seconds


def local_plan(rank: int, processes: int) -> Any:  # noqa: ANN401 - torch is imported in the child
    """What one process would write: its rows of each parameter and of its two moments."""
    import torch
    from torch.distributed.checkpoint.metadata import (
        ChunkStorageMetadata,
        MetadataIndex,
        TensorProperties,
    )
    from torch.distributed.checkpoint.planner import (
        SavePlan,
        TensorWriteData,
        WriteItem,
        WriteItemType,
    )

    from lmkit.lm.model import Transformer
    from lmkit.model_config import ModelConfig

    with torch.device("meta"):
        model = Transformer(ModelConfig(n_layers=32, d_model=4096, n_heads=32, d_ff=11_008))
    items = []
    for name, parameter in model.named_parameters():
        rows = -(-parameter.shape[0] // processes)
        first = min(rank * rows, parameter.shape[0])
        own = min(rows, parameter.shape[0] - first)
        zeros = [0] * (parameter.ndim - 1)
        chunk = ChunkStorageMetadata(
            torch.Size([first, *zeros]), torch.Size([own, *parameter.shape[1:]])
        )
        for kind in ("model", "exp_avg", "exp_avg_sq"):
            if own:
                data = TensorWriteData(chunk, TensorProperties(torch.float32), parameter.shape)
                index = MetadataIndex(f"{kind}.{name}", chunk.offsets)
                items.append(WriteItem(index, WriteItemType.SHARD, tensor_data=data))
    return SavePlan(items, planner_data={one.index.fqn: (one.index.fqn,) for one in items})


def ready(shards: int, work: Path) -> None:
    """A data set with its manifest."""
    if not (work / "manifest.json").exists():
        receipts(shards, work)


def expect(found: object, wanted: object) -> None:
    """End the benchmark where what was made is not what was to be made."""
    if found != wanted:
        sys.exit(f"error: found {found}, not {wanted}")


PARTS: dict[str, Callable[[int, Path], dict[str, tuple[float, float]]]] = {
    "planning": planning,
    "plan-file": plan_file,
    "receipts": receipts,
    "manifest": manifest,
    "sampling": sampling,
    "checkpoint": checkpoint,
}


def once(part: str, size: int, work: str) -> dict[str, Any]:
    """One measurement, in a process of its own; the peak is that of all it did there."""
    seconds = PARTS[part](size, Path(work))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    named = {
        "plan-file": "plan.json",
        "receipts": "manifest.json",
        "manifest": "manifest.json",
        "checkpoint": ".metadata",
    }
    file = Path(work) / named.get(part, "")
    return {
        "seconds": seconds,
        "peak_mib": peak,
        "file_bytes": file.stat().st_size if file.is_file() else None,
    }


def measure(part: str, size: int, rounds: int, base: Path) -> list[dict[str, Any]]:
    """A row for each phase of a part at one size; data sets under ``base`` serve several parts."""
    work = base / f"{'data-set' if part in DATA_SET_PARTS else part}-{size}"
    work.mkdir(exist_ok=True)
    if part not in ("plan-file", "checkpoint"):
        harness.apart(once, part, size, str(work))  # makes the files
    runs = [harness.apart(once, part, size, str(work)) for _ in range(rounds)]
    if part not in DATA_SET_PARTS:
        shutil.rmtree(work)
    rows = []
    for phase in runs[0]["seconds"]:
        seconds, cpu = zip(*(one["seconds"][phase] for one in runs), strict=True)
        rows.append(
            {
                "part": part,
                "size": size,
                "phase": phase,
                "seconds": harness.spread(seconds),
                "cpu_s": statistics.median(cpu),
                "cpu_us_each": 1e6 * statistics.median(cpu) / size,
                "peak_mib": statistics.median(one["peak_mib"] for one in runs),
                "file_bytes": runs[0]["file_bytes"],
                "runs": seconds,
            }
        )
        print(f"  {part} {size:,} {phase}: {statistics.median(seconds):.4f} s", file=sys.stderr)
    return rows


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Print the rows as a table."""
    harness.table(
        (
            "part",
            "size",
            "phase",
            "median s",
            "least-most",
            "CPU s",
            "CPU µs each",
            "peak MiB",
            "file MB",
        ),
        [
            (
                row["part"],
                f"{row['size']:,}",
                row["phase"],
                row["seconds"]["median"],
                f"{row['seconds']['min']:.3g}-{row['seconds']['max']:.3g}",
                row["cpu_s"],
                row["cpu_us_each"],
                round(row["peak_mib"]),
                "" if row["file_bytes"] is None else row["file_bytes"] / 1e6,
            )
            for row in rows
        ],
    )


def main() -> None:
    """Measure the parts asked for, print the table, keep the record."""
    asked = harness.parser(__doc__, 3, list(SIZES)).parse_args()
    sizes, rounds = (TRIAL_SIZES, 1) if asked.trial else (SIZES, asked.rounds)
    with tempfile.TemporaryDirectory(dir=os.environ.get("LMKIT_BENCH_DIR")) as base:
        rows = [
            row
            for part in asked.rows
            for size in sizes[part]
            for row in measure(part, size, rounds, Path(base))
        ]
    show(rows)
    if not asked.trial:
        harness.keep("scale", rows, (), labels=("part", "size", "phase"))


if __name__ == "__main__":
    main()
