"""Training on one GPU: tokens/s, MFU and memory of the trainer itself, and of two plain models.

lmkit is measured as a user runs it: `lmkit.lm.Trainer` on a token file, bfloat16 autocast with
float32 weights, compiled, PyTorch's flash attention, fused AdamW, the head in chunks with its
vocabulary padded. Its reports are read, so that the host's part of a step counts. ``plain`` (whole
logits) and ``nanogpt`` (see train_peers.py) take the same batches' size, autocast, AdamW and
compiler. Each runs in a process of its own.

MFU counts, a token, 6 FLOPs a parameter used in matrix products (the head, not the embedding) and
12 * layers * width * context, over the device's dense bfloat16 peak by its data sheet; a device
that lmkit does not know has none. "of matmul" is the same over a large matrix product's FLOP/s
measured in the same process, before and after.

``--tiny`` runs all of it on a small shape, on a CPU too, and keeps no record.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import harness
from train_peers import MAKERS, Shape

GPT2 = Shape(
    vocab_size=50_304,
    d_model=768,
    n_layers=12,
    n_heads=12,
    d_ff=2048,
    batch=32,
    context=1024,
    tied=True,
)
ROWS: dict[str, Shape] = {
    "gpt2-124m": GPT2,
    "medium": Shape(10_000, 768, 12, 12, 2048, batch=64, context=512),
    "large": Shape(50_000, 1024, 24, 16, 2752, batch=32, context=512),
}
TINY = Shape(300, 32, 2, 2, 64, batch=4, context=32, tied=True)
TOOLS = ("lmkit", "plain", "nanogpt")
EVERY = 10  # steps of one round
SLOWEST = 3  # of all rounds of a tool, those that compiling and warming up may take first


def device_or_exit(*, tiny: bool) -> str:
    """The device to measure; without CUDA only a trial goes on."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if tiny:
        return "cpu"
    sys.exit(
        "error: this benchmark needs a CUDA device, and torch sees none\n"
        "hint: --tiny runs all of it on the CPU, and keeps no record"
    )


def matmul_flops(device: str) -> float:
    """FLOP/s of a large matrix product in the format that training takes, the best of twenty."""
    import torch

    size, dtype = (8192, torch.bfloat16) if device == "cuda" else (256, torch.float32)
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best = math.inf
    for _ in range(20):
        synchronize(device)
        start = time.perf_counter()
        left @ right
        synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def synchronize(device: str) -> None:
    """Wait for the device."""
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


def lmkit_rounds(shape: Shape, device: str, rounds: int, folder: Path) -> list[float]:
    """Seconds a step of each round, as the trainer itself reports them."""
    import numpy as np

    import lmkit
    from lmkit.lm import trainer
    from lmkit.lm.keeper import Bystander
    from lmkit.lm.report import Report

    class Ear(Report):
        """Hears the reports."""

        def __init__(self) -> None:
            super().__init__(quiet=True)
            self.heard: list[float] = []

        def line(self, text: str, event: str = "message", **fields: object) -> None:  # noqa: ARG002
            """Keep what a report says of the time."""
            if event == "iteration":
                self.heard.append(float(str(fields["seconds"])))

    text = "the training step of one GPU\n" * 50
    lmkit.Tokenizer.train(texts=[text], vocab_size=260).save(folder / "tokenizer")
    ids = np.random.default_rng(0).integers(shape.vocab_size, size=1 << 20, dtype=np.int32)
    np.save(folder / "train.npy", ids)
    trainer.make_keeper = lambda *_: Bystander()  # a checkpoint would be gigabytes
    ear = Ear()
    settings: dict[str, object] = {
        "tokenizer": str(folder / "tokenizer"),
        "train_data": str(folder / "train.npy"),
        "checkpoint_dir": str(folder / "run"),
        "vocab_size": shape.vocab_size,
        "d_model": shape.d_model,
        "n_layers": shape.n_layers,
        "n_heads": shape.n_heads,
        "d_ff": shape.d_ff,
        "tie_embeddings": shape.tied,
        "batch_size": shape.batch,
        "context_length": shape.context,
        "max_seq_len": shape.context,
        "max_iters": EVERY * (rounds + SLOWEST),
        "log_interval": EVERY,
        "device": device,
        "compile": "on" if device == "cuda" else "off",
    }
    trainer.Trainer(settings, report=ear).train()
    return ear.heard


def peer_rounds(tool: str, shape: Shape, device: str, rounds: int) -> list[float]:
    """The same of a plain model."""
    step = MAKERS[tool](shape, compiled=device == "cuda")
    heard = []
    for _ in range(rounds + SLOWEST):
        synchronize(device)
        start = time.perf_counter()
        for _ in range(EVERY):
            step()
        synchronize(device)
        heard.append((time.perf_counter() - start) / EVERY)
    return heard


def worker(tool: str, shape: Shape, device: str, rounds: int) -> dict[str, Any]:
    """What one tool takes: seconds a step of each round, memory; the matrix product's FLOP/s."""
    import torch

    from lmkit.lm.device import Device

    before = matmul_flops(device)
    with tempfile.TemporaryDirectory() as folder:
        heard = (
            lmkit_rounds(shape, device, rounds, Path(folder))
            if tool == "lmkit"
            else peer_rounds(tool, shape, device, rounds)
        )
    on_gpu = device == "cuda"
    return {
        "step_s": heard[SLOWEST:],
        "first_s": heard[:SLOWEST],
        "matmul": max(before, matmul_flops(device)),
        "peak": Device(torch.device(device)).peak_flops(),
        "peak_mib": torch.cuda.max_memory_allocated() / 2**20 if on_gpu else None,
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
    }


def row(name: str, tool: str, shape: Shape, told: dict[str, Any]) -> dict[str, Any]:
    """A worker's answer with the rates that follow from it."""
    seconds = statistics.median(told["step_s"])
    rate = shape.batch * shape.context / seconds
    flops = rate * shape.flops_per_token()
    return {
        "row": name,
        "tool": tool,
        "shape": vars(shape),
        "tokens_per_second": rate,
        "mfu": None if told["peak"] is None else flops / told["peak"],
        "of_matmul": flops / told["matmul"],
        **told,
    }


def shown(found: dict[str, Any]) -> tuple[object, ...]:
    """A row of the table."""
    seconds = sorted(found["step_s"])
    return (
        found["row"],
        found["tool"],
        f"{found['tokens_per_second']:,.0f}",
        "unknown" if found["mfu"] is None else f"{found['mfu']:.1%}",
        f"{found['of_matmul']:.1%}",
        f"{1e3 * statistics.median(seconds):.1f} ({1e3 * seconds[0]:.1f}-{1e3 * seconds[-1]:.1f})",
        "" if found["peak_mib"] is None else f"{found['peak_mib']:,.0f}",
    )


def measure(name: str, tool: str, words: Sequence[str]) -> dict[str, Any]:
    """Run one tool in a process of its own."""
    argv = [sys.executable, __file__, *words, "--worker", name, tool]
    done = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"error: {tool} failed on {name}\nhint: if memory ran out, pass a smaller --batch")
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def main(argv: Sequence[str] | None = None, measure: Callable[..., Any] = measure) -> None:
    """Measure the rows asked for; keep the record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--worker", nargs=2, metavar=("ROW", "TOOL"), help=argparse.SUPPRESS)
    parser.add_argument("--rows", nargs="*", default=[*ROWS], choices=[*ROWS])
    parser.add_argument("--tools", nargs="*", default=[*TOOLS], choices=TOOLS)
    parser.add_argument("--batch", type=int, help="sequences a step, instead of each row's own")
    parser.add_argument("--rounds", type=int, default=10, help=f"of {EVERY} steps each")
    parser.add_argument("--tiny", action="store_true", help="a small shape, and no record")
    options = parser.parse_args(argv)
    device = device_or_exit(tiny=options.tiny)
    shapes = {"tiny": TINY} if options.tiny else {name: ROWS[name] for name in options.rows}
    given = {"batch": options.batch} if options.batch else {}
    shapes = {
        name: Shape(**{**vars(shape), **given, "device": device}) for name, shape in shapes.items()
    }
    if options.worker:
        name, tool = options.worker
        print(json.dumps(worker(tool, shapes[name], device, options.rounds)))
        return
    words = [f"--rounds={options.rounds}", *(["--tiny"] if options.tiny else [])]
    words += [f"--batch={options.batch}"] if options.batch else []
    rows = []
    for name, shape in shapes.items():
        for tool in options.tools:
            rows.append(row(name, tool, shape, measure(name, tool, words)))
            print(f"  {name} {tool} {rows[-1]['tokens_per_second']:,.0f} tokens/s", file=sys.stderr)
    found = rows[0]
    peak = "unknown" if found["peak"] is None else f"{found['peak'] / 1e12:,.0f} TFLOP/s"
    matmul = max(one["matmul"] for one in rows) / 1e12
    print(
        f"\n{found['device']}: dense bfloat16 peak {peak}, matrix product measured "
        f"{matmul:,.3g} TFLOP/s\nMFU counts 6 N + 12 L d T a token (N: parameters in matrix "
        "products, the head but not the embedding) over that peak\n"
    )
    header = ("model", "tool", "tokens/s", "MFU", "of matmul", "ms a step", "peak MiB")
    harness.table(header, [shown(one) for one in rows])
    if not options.tiny:
        harness.keep("train_gpu", rows, ("torch",), labels=("row", "tool", "device"))


if __name__ == "__main__":
    main()
