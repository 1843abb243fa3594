"""One run shared by two processes of one thread each against one process with two threads.

`lmkit train` on the small preset, float32, the same batches: a process alone, two with a copy of
the model each (``--parallel ddp``), two with half of it each (``fsdp``). Whole runs take turns, and
in each round the losses of the first steps are compared before anything is told: equal to rounding,
which grows from step to step. A run's figure is the median of its reports of tokens a second,
without the first, so that start-up is not in it. The goal for ``ddp`` is 0.85 of the one process.
"""

import json
import os
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import harness

THREADS = 2
RUNS: dict[str, tuple[str, ...]] = {
    "one process": (),
    "ddp": ("--nproc", "2", "--parallel", "ddp"),
    "fsdp": ("--nproc", "2", "--parallel", "fsdp"),
}
# Steps a run takes; the first report, of as many as lie between two, is left out.
STEPS, TRIAL_STEPS, REPORT_EVERY = 48, 12, 4
COMPARED_STEPS = 5
TOKENS = 2_000_000


def make_inputs(folder: Path) -> dict[str, str]:
    """Ids of a skewed distribution, and a tokenizer that has as many."""
    from lmkit.tokenizer import Tokenizer

    text = " ".join(str(number) for number in range(200_000))
    Tokenizer.train(texts=[text], vocab_size=1000).save(folder / "tokenizer")
    drawn = np.random.default_rng(0).geometric(0.01, size=TOKENS) % 1000
    np.save(folder / "train.npy", drawn.astype("<i4"))
    return {"tokenizer": str(folder / "tokenizer"), "train_data": str(folder / "train.npy")}


def run(name: str, inputs: Mapping[str, str], folder: Path, steps: int) -> dict[str, Any]:
    """Train in ``folder`` by one of `RUNS`; its figures."""
    processes = 2 if RUNS[name] else 1
    given = {
        **inputs,
        "preset": "small",
        "max_iters": steps,
        "log_interval": REPORT_EVERY,
        "save_interval": steps // 2,
        "checkpoint_dir": str(folder),
        "device": "cpu",
        "precision": "float32",
        "compile": "off",
    }
    words = [word for key, value in given.items() for word in (f"--{key}", str(value))]
    command = [sys.executable, "-m", "lmkit", "train", *words, *RUNS[name], "--force", "--quiet"]
    whole = harness.run(command, {"OMP_NUM_THREADS": str(THREADS // processes)})
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    rates = [one["tokens_per_second"] for one in records if "tokens_per_second" in one]
    return {
        "losses": [one["loss"] for one in records if "loss" in one],
        "tokens_per_second": statistics.median(rates[1:]),
        "reports": rates,
        "save_stalls": [one["save_stall"] for one in records if "save_stall" in one],
        "whole": whole,
    }


def compare(found: Mapping[str, Mapping[str, Any]]) -> None:
    """End where the losses of the first steps are not those of one process, to rounding."""
    expected = found["one process"]["losses"]
    for name, figures in found.items():
        for step in range(COMPARED_STEPS):
            ours, theirs = figures["losses"][step], expected[step]
            if abs(ours - theirs) > 1e-4 * theirs:
                sys.exit(f"error: {name}: the loss of step {step + 1} is {ours}, not {theirs}")


def measure(names: Sequence[str], steps: int, rounds: int) -> list[dict[str, Any]]:
    """Let the runs take turns, in an order that rotates; a row for each."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory(dir=os.environ.get("LMKIT_BENCH_DIR")) as work:
        inputs = make_inputs(Path(work))
        for turn in range(rounds):
            shift = turn % len(names)
            for name in (*names[shift:], *names[:shift]):
                found[name].append(run(name, inputs, Path(work) / name.replace(" ", "-"), steps))
                rate = found[name][-1]["tokens_per_second"]
                print(f"  round {turn + 1} {name:12} {rate:10,.0f} tokens/s", file=sys.stderr)
            compare({name: runs[-1] for name, runs in found.items()})
    return [row(name, found) for name in names]


def row(name: str, found: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """The figures of one kind of run, and its share of the one process's rate, round by round."""
    runs, alone = found[name], found["one process"]
    shares = [
        ours["tokens_per_second"] / theirs["tokens_per_second"]
        for ours, theirs in zip(runs, alone, strict=True)
    ]
    return {
        "run": name,
        "tokens_per_second": statistics.median(one["tokens_per_second"] for one in runs),
        "share": harness.spread(shares),
        "save_stall_s": statistics.median(s for one in runs for s in one["save_stalls"]),
        "runs": [{key: value for key, value in one.items() if key != "losses"} for one in runs],
    }


def main() -> None:
    """Measure, print the table, keep the record."""
    options = harness.parser(__doc__, 5, list(RUNS)).parse_args()
    names = ["one process", *(name for name in options.rows if name != "one process")]
    steps, rounds = (TRIAL_STEPS, 1) if options.trial else (STEPS, options.rounds)
    rows = measure(names, steps, rounds)
    harness.table(
        ("run", "tokens/s", "of one process", "least-most", "s a save stalls"),
        [
            (
                one["run"],
                round(one["tokens_per_second"]),
                one["share"]["median"],
                f"{one['share']['min']:.2f}-{one['share']['max']:.2f}",
                one["save_stall_s"],
            )
            for one in rows
        ],
    )
    if not options.trial:
        harness.keep("train_parallel", rows, ("torch",))


if __name__ == "__main__":
    main()
