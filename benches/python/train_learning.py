"""Validation loss after equal steps on the shared books: lmkit, lmkit with Muon, LlamaForCausalLM.

Same shape, batches, learning rate and clipping; each model has its own initialisation. Three seeds,
each of weights and of the order of data; every loss is kept. Needs the shared corpora.
"""

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import corpora
import harness
from train_peers import Shape

SHAPE = Shape(batch=8, context=128)
TOOLS = ("lmkit", "lmkit-muon", "llama")
RATE, EVAL_BATCHES = 1e-3, 20
TEXT_BYTES = 20_000_000


def tokens() -> tuple[np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    """Ids of the first 20 MB of the books, by a vocabulary learned from them; a tenth aside."""
    import lmkit

    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "books.txt"
        with corpora.text("english").open("rb") as books:
            text.write_bytes(books.read(TEXT_BYTES).rpartition(b"\n")[0])
        tokenizer = lmkit.Tokenizer.train(text, vocab_size=SHAPE.vocab_size)
        ids = tokenizer.encode_array(text.read_text(encoding="utf-8", errors="replace"))
    cut = len(ids) * 9 // 10
    return ids[:cut], ids[cut:]


def learn(tool: str, seed: int, steps: int) -> float:
    """Train for ``steps`` and return the validation loss."""
    import torch

    from lmkit.config import TrainConfig
    from lmkit.lm.batches import TokenBatches, fixed_windows, read_windows, to_batch
    from lmkit.lm.model import Transformer
    from lmkit.lm.optimizer import clip_gradients, make_optimizer
    from lmkit.model_config import ModelConfig

    torch.manual_seed(seed)
    model_config = ModelConfig(
        vocab_size=SHAPE.vocab_size,
        d_model=SHAPE.d_model,
        n_layers=SHAPE.n_layers,
        n_heads=SHAPE.n_heads,
        d_ff=SHAPE.d_ff,
        max_seq_len=SHAPE.context,
    )
    config = TrainConfig(
        model=model_config,
        context_length=SHAPE.context,
        learning_rate=RATE,
        optimizer="muon" if tool.endswith("muon") else "adamw",
    )
    train, val = tokens()
    batches = TokenBatches(train, batch_size=SHAPE.batch, context_length=SHAPE.context, seed=seed)
    model = llama() if tool == "llama" else Transformer(model_config)
    optimizer = make_optimizer(model, config)
    loss_of = llama_loss(model) if tool == "llama" else model
    for step in range(1, steps + 1):
        loss = loss_of(*batches.batch(step))
        loss.backward()
        clip_gradients(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    starts = fixed_windows(len(val), SHAPE.context, EVAL_BATCHES * SHAPE.batch)
    with torch.no_grad():
        losses = [
            float(loss_of(*to_batch(read_windows(val, part, SHAPE.context), torch.device("cpu"))))
            for part in np.split(starts, EVAL_BATCHES)
        ]
    return statistics.fmean(losses)


def llama():  # type: ignore[no-untyped-def]  # noqa: ANN201 - transformers has no types
    """Hugging Face's model of the same shape."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=SHAPE.vocab_size,
            hidden_size=SHAPE.d_model,
            intermediate_size=SHAPE.d_ff,
            num_hidden_layers=SHAPE.n_layers,
            num_attention_heads=SHAPE.n_heads,
            max_position_embeddings=SHAPE.context,
            tie_word_embeddings=False,
            use_cache=False,
        )
    )


def llama_loss(model):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """The loss of the same targets, which the model would shift by itself."""
    from torch.nn import functional

    def loss(inputs, targets):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        logits = model(input_ids=inputs).logits.float()
        return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())

    return loss


def main() -> None:
    """Train every tool with every seed; print the table; keep the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worker", nargs=2, metavar=("TOOL", "SEED"))
    parser.add_argument("--steps", type=int, default=100)
    options = parser.parse_args()
    if options.worker:
        tool, seed = options.worker
        print(json.dumps(learn(tool, int(seed), options.steps)))
        return
    found: dict[str, list[float]] = {tool: [] for tool in TOOLS}
    for seed, tool in itertools.product(range(3), TOOLS):
        argv = [sys.executable, __file__, "--steps", str(options.steps), "--worker", tool]
        done = subprocess.run([*argv, str(seed)], capture_output=True, text=True, check=True)
        found[tool].append(json.loads(done.stdout.splitlines()[-1]))
        print(f"  seed {seed} {tool:12} {found[tool][-1]:.4f}", file=sys.stderr)
    rows = [
        (tool, f"{statistics.median(ones):.4f}", f"{min(ones):.4f}-{max(ones):.4f}")
        for tool, ones in found.items()
    ]
    harness.table((f"validation loss after {options.steps} steps", "median of 3", "spread"), rows)
    record = {"shape": vars(SHAPE), "steps": options.steps, "rate": RATE, "losses": found}
    harness.keep("train_learning", record, ("torch", "transformers"))


if __name__ == "__main__":
    main()
