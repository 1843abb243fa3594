"""Where the loss in chunks wins over whole logits: forward and backward of the head alone.

The two take turns on the same hidden states, eager and then compiled, float32, two threads; their
losses and gradients are compared first. "lmkit takes" is what `head_cross_entropy` chooses for
that size by itself.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

import harness
from lmkit.lm.cross_entropy import CHUNKED_FROM_LOGITS, chunked_cross_entropy

THREADS = 2
# Vocabulary, rows (batch times context) and width.
SIZES = (
    (1_000, 4096, 256),
    (1_000, 16_384, 256),
    (4_000, 4096, 256),
    (10_000, 1024, 256),
    (10_000, 4096, 256),
    (10_000, 8192, 512),
    (50_000, 1024, 256),
    (50_000, 4096, 256),
)


def whole(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """The loss of all logits at once."""
    return functional.cross_entropy(functional.linear(hidden, weight).float(), targets)


WAYS: dict[str, Callable[..., Tensor]] = {"chunks": chunked_cross_entropy, "whole": whole}


def measure(
    vocab_size: int, rows: int, width: int, rounds: int, *, compiled: bool
) -> dict[str, object]:
    """Seconds of each way, taking turns; the row."""
    ways = {
        name: torch.compile(way, dynamic=False) if compiled else way for name, way in WAYS.items()
    }
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(rows, width, generator=generator).requires_grad_()
    weight = (0.02 * torch.randn(vocab_size, width, generator=generator)).requires_grad_()
    targets = torch.randint(vocab_size, (rows,), generator=generator)

    def once(way: str) -> tuple[float, list[Tensor]]:
        start = time.perf_counter()
        loss = ways[way](hidden, weight, targets)
        gradients = torch.autograd.grad(loss, (hidden, weight))
        return time.perf_counter() - start, [loss.detach(), *gradients]

    for one, other in zip(once("chunks")[1], once("whole")[1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for turn in range(rounds):
        for way in list(WAYS)[:: 1 - 2 * (turn % 2)]:
            seconds[way].append(once(way)[0])
    shares = [a / b for a, b in zip(seconds["chunks"], seconds["whole"], strict=True)]
    taken = "chunks" if rows * vocab_size >= CHUNKED_FROM_LOGITS else "whole"
    return {
        "vocab_size": vocab_size,
        "rows": rows,
        "width": width,
        "compiled": compiled,
        "seconds": seconds,
        "share": harness.spread(shares),
        "taken": taken,
    }


def main() -> None:
    """Measure all sizes; keep the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--trial", action="store_true", help="one round, and no record is kept")
    options = parser.parse_args()
    torch.set_num_threads(THREADS)
    torch._dynamo.config.cache_size_limit = 2 * len(SIZES)
    rounds = 1 if options.trial else options.rounds
    rows = [
        measure(*size, rounds, compiled=compiled) for compiled in (False, True) for size in SIZES
    ]
    header = ("vocabulary", "rows", "width", "compiled", "chunks s", "whole s", "chunks' share")
    lines = []
    for row in rows:
        share, seconds = row["share"], row["seconds"]
        assert isinstance(share, dict)
        assert isinstance(seconds, dict)
        medians = [statistics.median(seconds[way]) for way in WAYS]
        spread = f"{share['median']:.2f} ({share['min']:.2f}-{share['max']:.2f})"
        what = [row[name] for name in ("vocab_size", "rows", "width", "compiled")]
        lines.append((*what, *medians, spread, row["taken"]))
    harness.table((*header, "lmkit takes"), lines)
    if not options.trial:
        harness.keep("train_head", rows, ("torch",))


if __name__ == "__main__":
    main()
