"""One optimizer step of lmkit against its peers, same shape; and what saving and evaluating cost.

Each tool runs in a process of its own, float32, two threads; processes take turns, a step each,
after a warm-up, so that a noisy minute hits all of them. All keep their pages of memory from step
to step, as lmkit's trainer does: left to glibc, how many are given back and zeroed anew is each
process's luck. The matrix-product peak of the machine is measured in the same run, between the
steps, and each figure is also given as a share of it. What is compared first: every tool's loss
begins at ln(vocabulary), within a tenth. Each table has a record of its own.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

import harness
from lmkit.presets import PRESETS
from train_peers import MAKERS, Shape, batch_of

THREADS = 2
# The tables: name, shape, tools; "-c" is compiled. The first tool after lmkit's is the yardstick.
TABLES: dict[str, tuple[Shape, tuple[str, ...]]] = {
    "small": (
        Shape(),
        ("lmkit-c", "lmkit", "llama", "llama-c", "plain", "plain-c", "nanogpt", "nanogpt-c"),
    ),
    "vocabulary-50000": (Shape(vocab_size=50_000), ("lmkit-c", "lmkit", "plain", "plain-c")),
    "cs336-tinystories": (
        Shape(vocab_size=10_000, d_model=512, n_heads=16, d_ff=1344, batch=32),
        ("lmkit-c", "lmkit", "llama"),
    ),
}


def matmul_peak() -> float:
    """FLOP/s of a large float32 matrix product, the best of ten."""
    import torch

    left, right = torch.randn(1024, 1024), torch.randn(1024, 1024)
    best = float("inf")
    for _ in range(10):
        start = time.perf_counter()
        left @ right
        best = min(best, time.perf_counter() - start)
    return 2 * 1024**3 / best


def worker(tool: str, shape: Shape) -> None:
    """Answer each line on stdin with one timed step, as JSON on stdout."""
    import resource

    import torch

    from lmkit.lm.kept_pages import kept_pages

    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    name, _, compiled = tool.partition("-")
    step = MAKERS[name](shape, compiled=bool(compiled))
    first = float(step())
    expected = math.log(shape.vocab_size)
    if abs(first - expected) > 0.1 * expected:
        sys.exit(f"error: the first loss of {tool} is {first}, not near {expected}")
    with kept_pages():
        for _ in range(2):
            step()
        print(json.dumps({"first_loss": first}), flush=True)
        for _ in sys.stdin:
            start = time.perf_counter()
            float(step())
            seconds = time.perf_counter() - start
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            told = {"step_s": seconds, "peak_mib": memory, "matmul": matmul_peak()}
            print(json.dumps(told), flush=True)


def measure(table: str, tools: Sequence[str], rounds: int) -> dict[str, list[dict[str, float]]]:
    """Start a process a tool and let them take turns, the order rotating."""
    workers = {}
    for tool in tools:  # one after another: compiling would slow the next one's warm-up
        argv = [sys.executable, __file__, "--worker", tool, "--tables", table]
        workers[tool] = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        if not workers[tool].stdout.readline():  # type: ignore[union-attr]
            sys.exit(f"error: {tool} did not start")
    steps: dict[str, list[dict[str, float]]] = {tool: [] for tool in workers}
    names = list(workers)
    for turn in range(rounds):
        for tool in names[turn % len(names) :] + names[: turn % len(names)]:
            process = workers[tool]
            process.stdin.write("go\n")  # type: ignore[union-attr]
            steps[tool].append(json.loads(process.stdout.readline()))  # type: ignore[union-attr]
    for process in workers.values():
        process.stdin.close()  # type: ignore[union-attr]
        process.wait()
    return steps


def report(shape: Shape, steps: Mapping[str, Sequence[Mapping[str, float]]]) -> list[tuple]:  # type: ignore[type-arg]
    """Print medians, spread and ratios; the rows."""
    peak = max(one["matmul"] for ones in steps.values() for one in ones)
    medians = {tool: statistics.median(one["step_s"] for one in steps[tool]) for tool in steps}
    ours = medians.get("lmkit-c", medians.get("lmkit", math.nan))
    rows = []
    for tool, ones in steps.items():
        seconds = sorted(one["step_s"] for one in ones)
        tokens = shape.batch * shape.context / medians[tool]
        share = tokens * shape.flops_per_token() / peak
        spread = f"{seconds[0]:.3f}-{seconds[-1]:.3f}"
        memory = round(max(one["peak_mib"] for one in ones))
        rows.append(
            (tool, round(tokens), share, medians[tool], spread, memory, medians[tool] / ours)
        )
    header = ("tool", "tokens/s", "of peak", "s a step", "spread", "peak MiB", "lmkit is x faster")
    harness.table(header, rows)
    return rows


def projected(name: str, shape: Shape, rows: Sequence[tuple]) -> dict[str, float]:  # type: ignore[type-arg]
    """Seconds that all steps of the preset of this name take at each tool's pace."""
    steps = PRESETS.get(name, {}).get("max_iters", 0)
    tokens = steps * shape.batch * shape.context
    found = {tool: tokens / rate for tool, rate, *_ in rows if steps}
    for tool, seconds in found.items():
        print(f"{steps:,} steps with {tool}: {seconds / 3600:.1f} h")
    return found


def aside(rounds: int) -> dict[str, list[float]]:
    """Seconds a save stalls the loop and takes in all, and an evaluation against forward passes."""
    import tempfile
    from pathlib import Path

    import numpy as np
    import torch

    from lmkit.lm.checkpoint_writer import CheckpointWriter
    from lmkit.lm.evaluate import evaluate_loss
    from lmkit.lm.model import Transformer
    from lmkit.model_config import ModelConfig

    torch.set_num_threads(THREADS)
    shape = Shape()
    model = Transformer(ModelConfig(vocab_size=1000, d_model=256, n_layers=4, n_heads=4, d_ff=704))
    moments = {name: torch.zeros(2, *p.shape) for name, p in model.state_dict().items()}
    state = {"model": model.state_dict(), "optimizer": moments, "iteration": 1}
    tokens = np.random.default_rng(0).integers(1000, size=200_000).astype(np.int32)
    found: dict[str, list[float]] = {"stall": [], "write": [], "evaluation": [], "forward": []}
    with tempfile.TemporaryDirectory() as folder:
        writer = CheckpointWriter(Path(folder), 1, print)
        for turn in range(rounds):
            start = time.perf_counter()
            writer.write([Path(folder) / f"checkpoint_{turn}.pt"], state)
            found["stall"].append(time.perf_counter() - start)
            writer.wait()
            found["write"].append(time.perf_counter() - start)
    inputs, targets = batch_of(shape)
    for _ in range(rounds):
        start = time.perf_counter()
        with torch.no_grad():
            for _ in range(10):
                model(inputs, targets)
        found["forward"].append(time.perf_counter() - start)
        start = time.perf_counter()
        evaluate_loss(
            model, tokens, batch_size=shape.batch, context_length=shape.context, num_batches=10
        )
        found["evaluation"].append(time.perf_counter() - start)
    rows = [(name, statistics.median(ones), min(ones), max(ones)) for name, ones in found.items()]
    harness.table(("small model, 10 batches", "median s", "min", "max"), rows)
    return found


def main() -> None:
    """Measure the tables asked for; keep the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worker")
    parser.add_argument("--tables", nargs="*", default=[*TABLES, "aside"])
    parser.add_argument("--tools", nargs="*", help="of each table, only these")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--trial", action="store_true", help="one round, and no record is kept")
    options = parser.parse_args()
    if options.worker:
        worker(options.worker, TABLES[options.tables[0]][0])
        return
    rounds = 1 if options.trial else options.rounds
    for name in options.tables:
        if name == "aside":
            keep(name, {name: aside(rounds)}, trial=options.trial)
            continue
        shape, tools = TABLES[name]
        print(f"\n{name}: batch {shape.batch} x {shape.context}, {THREADS} threads, float32\n")
        chosen = [tool for tool in tools if not options.tools or tool in options.tools]
        steps = measure(name, chosen, rounds)
        table = report(shape, steps)
        record = {"shape": vars(shape), "table": table, "steps": steps}
        record["projected_s"] = projected(name, shape, table)
        keep(name, {name: record}, trial=options.trial)


def keep(table: str, record: Mapping[str, object], *, trial: bool) -> None:
    """Write a table's record, unless it was a trial."""
    if not trial:
        harness.keep(f"train_step-{table}", record, ("torch", "transformers"))


if __name__ == "__main__":
    main()
