"""One optimizer step of the small model: lmkit against Hugging Face's LlamaForCausalLM, same shape.

Each tool runs in a process of its own, float32, two threads; processes take turns, each timing
blocks of steps after a warm-up. The matrix-product peak of the machine is measured in the same
run, and every figure is also given as a share of it. Losses of the two start near ln(vocabulary).
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import harness

SHAPE = {"vocab_size": 1000, "d_model": 256, "n_layers": 4, "n_heads": 4, "d_ff": 704}
BATCH, CONTEXT, THREADS = 16, 256, 2
TOOLS = ("lmkit", "lmkit-compiled", "llama", "llama-compiled")


def flops_per_token() -> float:
    """6 N + 12 L d T: N counts parameters used in matrix products, the head included."""
    d, layers, d_ff = SHAPE["d_model"], SHAPE["n_layers"], SHAPE["d_ff"]
    matrices = layers * (4 * d * d + 3 * d * d_ff) + SHAPE["vocab_size"] * d
    return 6.0 * matrices + 12.0 * layers * d * CONTEXT


def matmul_peak() -> float:
    """FLOP/s of a large float32 matrix product, the best of twenty."""
    import torch

    left, right = torch.randn(1024, 1024), torch.randn(1024, 1024)
    best = float("inf")
    for _ in range(20):
        start = time.perf_counter()
        left @ right
        best = min(best, time.perf_counter() - start)
    return 2 * 1024**3 / best


def lmkit_step(*, compiled: bool) -> Callable[[], float]:
    """One update as lmkit's trainer does it."""
    import torch

    from lmkit.config import ModelConfig, TrainConfig
    from lmkit.lm.model import Transformer
    from lmkit.lm.optimizer import clip_gradients, make_optimizer

    config = TrainConfig(
        model=ModelConfig(**SHAPE, max_seq_len=CONTEXT), batch_size=BATCH, context_length=CONTEXT
    )
    model = Transformer(config.model, torch.Generator().manual_seed(0))
    optimizer = make_optimizer(model, config)
    forward = torch.compile(model) if compiled else model

    def step() -> float:
        ids = torch.randint(SHAPE["vocab_size"], (BATCH, CONTEXT + 1))
        loss = forward(ids[:, :-1], ids[:, 1:])
        loss.backward()
        clip_gradients(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    return step


def llama_step(*, compiled: bool) -> Callable[[], float]:
    """One update of LlamaForCausalLM with AdamW and clipping."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=SHAPE["vocab_size"],
        hidden_size=SHAPE["d_model"],
        intermediate_size=SHAPE["d_ff"],
        num_hidden_layers=SHAPE["n_layers"],
        num_attention_heads=SHAPE["n_heads"],
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=False,
        attn_implementation="sdpa",
        use_cache=False,
    )
    model = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=0.01, fused=True)
    forward = torch.compile(model) if compiled else model

    def step() -> float:
        ids = torch.randint(SHAPE["vocab_size"], (BATCH, CONTEXT))
        loss = forward(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    return step


def worker(tool: str, steps: int) -> None:
    """Answer each line on stdin with one block of timed steps, as JSON on stdout."""
    import resource

    import torch

    torch.set_num_threads(THREADS)
    maker = lmkit_step if tool.startswith("lmkit") else llama_step
    step = maker(compiled=tool.endswith("compiled"))
    first = step()
    for _ in range(2):
        step()
    print(json.dumps({"first_loss": first, "peak_flops": matmul_peak()}), flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        for _ in range(steps):
            step()
        seconds = (time.perf_counter() - start) / steps
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"step_s": seconds, "peak_mib": peak}), flush=True)


def main() -> None:
    """Start the workers, let them take turns, print the table, keep the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worker", choices=TOOLS)
    parser.add_argument("--steps", type=int, default=5, help="steps a block")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tools", nargs="*", default=list(TOOLS), choices=TOOLS)
    options = parser.parse_args()
    if options.worker:
        worker(options.worker, options.steps)
        return
    workers, starts = {}, {}
    for tool in options.tools:
        argv = [sys.executable, __file__, "--worker", tool, "--steps", str(options.steps)]
        workers[tool] = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        starts[tool] = json.loads(workers[tool].stdout.readline())  # type: ignore[union-attr]
    blocks: dict[str, list[dict[str, float]]] = {tool: [] for tool in workers}
    for _ in range(options.rounds):
        for tool, process in workers.items():
            process.stdin.write("go\n")  # type: ignore[union-attr]
            blocks[tool].append(json.loads(process.stdout.readline()))  # type: ignore[union-attr]
    for process in workers.values():
        process.stdin.close()  # type: ignore[union-attr]
        process.wait()
    peak = max(start["peak_flops"] for start in starts.values())
    report(blocks, peak, starts)


def report(
    blocks: dict[str, list[dict[str, float]]],
    peak: float,
    starts: dict[str, dict[str, float]],
) -> None:
    """Print medians and ratios; keep every block."""
    rows = []
    llama = statistics.median(block["step_s"] for block in blocks.get("llama", blocks["lmkit"]))
    for tool, ones in blocks.items():
        seconds = [block["step_s"] for block in ones]
        median = statistics.median(seconds)
        tokens = BATCH * CONTEXT / median
        share = tokens * flops_per_token() / peak
        spread = f"{min(seconds):.3f}-{max(seconds):.3f}"
        memory = max(block["peak_mib"] for block in ones)
        rows.append((tool, tokens, share, median, spread, memory, llama / median))
    harness.table(
        ("tool", "tokens/s", "of peak", "s a step", "spread", "peak MiB", "against llama"), rows
    )
    record = {
        "shape": SHAPE,
        "batch": BATCH,
        "context": CONTEXT,
        "threads": THREADS,
        "matmul_peak": peak,
        "starts": starts,
        "blocks": blocks,
        "table": rows,
    }
    harness.keep("train_step", record, ("torch", "transformers"))


if __name__ == "__main__":
    main()
