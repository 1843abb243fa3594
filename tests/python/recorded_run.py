"""The folder of a run that never was, with metrics as ARCHITECTURE.md tells them."""

import json
import math
from collections.abc import Mapping
from pathlib import Path

TOKENS_PER_STEP = 64
BYTES_PER_TOKEN = 4.0
PROMPT = "Once upon"
CONFIG = """\
[model]
d_model = 16

[training]
batch_size = 4
context_length = 16
grad_accum_steps = 1
max_iters = 1000
learning_rate = {learning_rate}
optimizer = "{optimizer}"

[data]
checkpoint_dir = "{folder}"
"""


def loss_at(step: int, speed: float = 1.0) -> float:
    """A loss that falls, and a ripple on it that differs from step to step."""
    return 3 + 4 * math.exp(-speed * step / 100) + 0.1 * math.sin(step * step)


def record_run(
    folder: Path,
    steps: int = 300,
    *,
    speed: float = 1.0,
    optimizer: str = "adamw",
    sample: str = " a time",
    **more: object,
) -> Path:
    """Write what a run of ``steps`` steps leaves to draw, resumed half-way; ``more`` is settings.

    Step 7 was skipped.
    """
    folder.mkdir(parents=True)
    beginning: dict[str, object] = {
        "iter": 0, "begun": "new", "at": 1.7e9, "tokens": 0, "seconds": 0.0, "parameters": 12_345,
        "device": "cpu", "tokens_per_step": TOKENS_PER_STEP,
        "train_bytes_per_token": BYTES_PER_TOKEN, "val_bytes_per_token": BYTES_PER_TOKEN,
    }  # fmt: skip
    records = [beginning]
    for step in range(1, steps + 1):
        spent = {"tokens": step * TOKENS_PER_STEP, "seconds": step * 0.5}
        if step == 7:
            records.append({"iter": 7, "lr": 1e-3, "skipped": "loss became nan", **spent})
            continue
        loss = loss_at(step, speed)
        records.append({"iter": step, "loss": loss, "lr": 1e-3, "grad_norm": loss / 3, **spent})
        if step % 10 == 0:
            records.append({"iter": step, "tokens_per_second": 128.0 + step})
        if step % 50 == 0:
            val = loss_at(step, speed) + 0.1
            bits = val / math.log(2) / BYTES_PER_TOKEN
            records.append({"iter": step, "val_loss": val, "bits_per_byte": bits, **spent})
            records.append({"iter": step, "sample": PROMPT + sample, "prompt": PROMPT})
            records.append({"iter": step, "save_stall": 0.01})
        if step == steps // 2:
            records.append(beginning | {"iter": step, "begun": "resumed", **spent})
    write_metrics(folder, records)
    known = {"learning_rate": 1e-3, "optimizer": optimizer, "folder": folder, **more}
    (folder / "config.toml").write_text(CONFIG.format(**known))
    return folder


def write_metrics(
    folder: Path, records: list[Mapping[str, object]] | list[dict[str, object]]
) -> None:
    """Write them as ``metrics.jsonl``."""
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (folder / "metrics.jsonl").write_text(lines)
