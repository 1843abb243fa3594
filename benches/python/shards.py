"""Sharded tokenization: two processes under Dask against one with two threads; a worker is killed.

The same text, GPT-2's vocabulary. The cluster is started before the clock, and each tool's own time
for a text of two documents is taken off: what is left is the work and the handing out of it. The
results are compared first, byte for byte. Then one of the workers is killed in the middle of a
shard, once a round, and every attempt at a shard is counted.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from distributed import Client, LocalCluster

import corpora
import harness
import vocabularies

MEGABYTES, SHARDS = 2000, 16
TRIAL_MB, TRIAL_SHARDS = 40, 8
WORKERS = 2
ONE_FILE = "one process, one file"
ONE = "one process"
DASK = "two processes under Dask"


@contextmanager
def started() -> Iterator[LocalCluster]:
    """Two workers of one thread each, as `--cluster local:2` starts them."""
    with LocalCluster(
        n_workers=WORKERS,
        threads_per_worker=1,
        memory_limit=0,
        dashboard_address=":0",
        silence_logs=50,
    ) as cluster:
        yield cluster


def command(text: Path, out: Path, *options: object) -> list[str]:
    """How `lmkit tokenize` is called."""
    named = ["--data_path", text, "--tokenizer", vocabularies.folder(vocabularies.GPT2)]
    words = [*named, "--output_path", out, "--quiet", *options]
    return [sys.executable, "-m", "lmkit", "tokenize", *map(str, words)]


def commands(text: Path, work: Path, shards: int, address: str) -> dict[str, list[str]]:
    """The three ways, each with an output of its own."""
    ways: dict[str, tuple[str, list[object]]] = {
        ONE_FILE: ("one.npy", ["--num_threads", WORKERS]),
        ONE: ("here", ["--num_threads", WORKERS, "--shards", shards]),
        DASK: ("dask", ["--num_threads", 1, "--shards", shards, "--cluster", address]),
    }
    return {name: command(text, work / out, *options) for name, (out, options) in ways.items()}


def anew(words: list[str]) -> harness.Run:
    """Run a command whose output is removed first, before the clock."""
    remove(Path(words[words.index("--output_path") + 1]))
    return harness.run(words)


def remove(out: Path) -> None:
    """Remove a token file or a folder of shards."""
    if out.is_dir():
        shutil.rmtree(out)
    for path in (out, Path(f"{out}.json")):
        path.unlink(missing_ok=True)


def compare(work: Path) -> int:
    """Leave where the ways differ; tells how many tokens there are."""
    names = sorted(path.name for path in (work / "here").glob("*.npy"))
    for name in names:
        if (work / "here" / name).read_bytes() != (work / "dask" / name).read_bytes():
            sys.exit(f"error: {name} differs")
    parts = [np.load(work / "dask" / name) for name in names if ".docs." not in name]
    whole = np.load(work / "one.npy", mmap_mode="r")
    if not np.array_equal(np.concatenate(parts), whole):
        sys.exit("error: the shards together are not the one file")
    return len(whole)


def at_work(out: Path) -> list[tuple[str, str]]:
    """The private folders of those who make shards, and the shards."""
    found = []
    for work in out.glob(".*.lmkit-tmp"):
        with suppress(FileNotFoundError):  # it was finished meanwhile
            names = [path.name for path in work.iterdir() if path.name.startswith(".shard")]
            found += [(work.name, name.split(".")[1]) for name in names]
    return found


def kill_one(words: list[str], out: Path, shards: int) -> dict[str, Any]:
    """Kill a worker in the middle of its second shard or a later one; count attempts at shards."""
    remove(out)
    attempts: set[tuple[str, str]] = set()
    killed = None
    start = time.perf_counter()
    with subprocess.Popen(words) as process:
        while process.poll() is None:
            for folder, shard in at_work(out):
                attempts.add((folder, shard))
                pid = int(folder.split(".")[2])
                if killed is None and pid != process.pid and any(out.glob("*.receipt.json")):
                    os.kill(pid, signal.SIGKILL)
                    killed = shard
            time.sleep(0.002)
    if process.returncode or killed is None:
        sys.exit("error: the run in which a worker is killed failed")
    return {
        "wall_s": time.perf_counter() - start,
        "killed_in": killed,
        "made_again": sum(1 for _ in attempts) - len({shard for _, shard in attempts}),
        "receipts": len(list(out.glob("*.receipt.json"))),
        "shards": shards,
    }


def measure(text: Path, shards: int, rounds: int, work: Path) -> dict[str, Any]:
    """The figures of the ways, and of the runs with a loss."""
    few = work / "few.txt"
    few.write_text(f"one{corpora.SEPARATOR}two")
    with started() as cluster, Client(cluster, set_as_default=False) as client:
        address = cluster.scheduler_address
        ways = commands(text, work, shards, address)
        starting = commands(few, work / "few", 1, address)
        (work / "few").mkdir()
        for words in ways.values():
            anew(words)
        tokens = compare(work)
        figures = harness.measure(
            {name: partial(anew, words) for name, words in ways.items()},
            {name: partial(anew, words) for name, words in starting.items()},
            rounds,
            ours=DASK,
        )
        losses = []
        for _ in range(rounds):
            client.wait_for_workers(WORKERS)
            losses.append(kill_one(ways[DASK], work / "dask", shards))
            compare(work)
    return {
        "bytes": text.stat().st_size,
        "tokens": tokens,
        "shards": shards,
        **figures,
        "throughput": {
            name: harness.spread([1 / share[key] for key in ("median", "min", "max")])
            for name, share in figures["share"].items()
        },
        "losses": losses,
    }


def main() -> None:
    """Measure, print the table, keep the record."""
    options = harness.parser(__doc__, 5, ()).parse_args()
    corpora.require_shared()
    megabytes, shards = (TRIAL_MB, TRIAL_SHARDS) if options.trial else (MEGABYTES, SHARDS)
    rounds = 1 if options.trial else options.rounds
    text = Path(harness.apart(corpora.shuffled, megabytes))
    try:
        with tempfile.TemporaryDirectory(dir=corpora.ROOT / "benches") as scratch:
            row = measure(text, shards, rounds, Path(scratch))
    finally:
        text.unlink()
    harness.show([row], "shards")
    for name, ratio in row["throughput"].items():
        low, high = ratio["min"], ratio["max"]
        print(f"{DASK}: {ratio['median']:.2f} ({low:.2f}-{high:.2f}) x the throughput of {name}")
    again = [loss["made_again"] for loss in row["losses"]]
    print(f"a worker killed: {again} shards made again, none lost, the same bytes")
    if not options.trial:
        harness.keep("shards", [row], ("distributed", "numpy"), ("shards",))


if __name__ == "__main__":
    main()
