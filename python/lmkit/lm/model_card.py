"""A checkpoint and its run to a model card: what the model is and what it was measured to do.

The figures are those of the checkpoint and of its run's ``metrics.jsonl`` up to its iteration,
where that is still beside it; what is not known is left out.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmkit._core import __version__
from lmkit.lm.huggingface_config import ARCHITECTURES
from lmkit.run_place import run_folder_of

if TYPE_CHECKING:
    from lmkit.lm.export import Source

_CARD = """\
---
library_name: transformers
pipeline_tag: text-generation
tags:
- lmkit
- {kind}
---

# {name}

A language model of {parameters:,} parameters, exported by lmkit {version} as `{cls}`.

## Use

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{name}")
model = AutoModelForCausalLM.from_pretrained("{name}")
prompt = tokenizer("Once upon a time", return_tensors="pt")
ids = model.generate(**prompt, max_new_tokens=50, do_sample=True)
print(tokenizer.decode(ids[0]))
```

`lmkit import {name} DIR` makes a checkpoint of it to train on.

## Figures

{figures}

## Shape

{shape}

## Limits

It was trained on sequences of {context:,} tokens and is unsure beyond them.{documents}

This card tells what the checkpoint knows: what the text was, what the model is for and under which
licence it stands is for its author to add.
"""

_DOCUMENTS = " It never looked from one document into another: give it one at a time."


def model_card(source: "Source", name: str, dtype: str, kind: str) -> str:
    """The text of ``README.md``.

    Args:
        source: the checkpoint that is exported.
        name: what the card calls the model.
        dtype: of the numbers that are written.
        kind: the ``model_type`` of Hugging Face.
    """
    return _CARD.format(
        kind=kind,
        cls=ARCHITECTURES[kind],
        name=name,
        version=__version__,
        parameters=source.parameters,
        figures=_table(_figures(source)),
        shape=_table(_shape(source, dtype)),
        context=source.state["config"]["context_length"],
        documents=_DOCUMENTS if source.state["config"].get("mask_documents") else "",
    )


def _table(rows: Mapping[str, str]) -> str:
    lines = [f"| {name} | {value} |" for name, value in rows.items()]
    return "\n".join(["| | |", "| --- | ---: |", *lines])


def _shape(source: "Source", dtype: str) -> dict[str, str]:
    config = source.config
    shared = config.n_kv_heads or config.n_heads
    return {
        "layers": f"{config.n_layers}",
        "width": f"{config.d_model:,}",
        "heads": f"{config.n_heads} of width {config.d_head}, keys and values of {shared}",
        "feed-forward width": f"{config.d_ff:,}",
        "positions": f"{config.max_seq_len:,}",
        "rotary base": f"{config.rope_theta:g}",
        "vocabulary": f"{config.vocab_size:,} ({source.tokenizer.vocab_size:,} used)",
        "embedding and head": "one matrix" if config.tie_embeddings else "two matrices",
        "numbers": dtype,
    }


def _figures(source: "Source") -> dict[str, str]:
    state, settings = source.state, source.state["config"]
    iteration = int(state["iteration"])
    rows = {"training steps": f"{iteration:,}"}
    if "spent" in state:
        rows["tokens seen"] = f"{state['spent']['tokens']:,}"
    train: Mapping[str, Any] | None = state.get("data", {}).get("train")
    if train:
        rows["tokens of training data"] = f"{train['tokens']:,}"
    for setting in ("optimizer", "learning_rate", "lr_schedule", "weight_decay"):
        if iteration and setting in settings:
            rows[setting.replace("_", " ")] = f"{settings[setting]}"
    if "average" in state:
        rows["weights"] = "moving average" if source.averaged else "as trained, not averaged"
    return rows | _losses(source.name, iteration)


def _losses(checkpoint: str, iteration: int) -> dict[str, str]:
    """The last losses that the run had noted when the checkpoint was made."""
    last: dict[str, tuple[int, float]] = {}
    for record in _metrics(Path(run_folder_of(checkpoint)) / "metrics.jsonl"):
        for kind in ("loss", "val_loss", "bits_per_byte"):
            if record.get(kind) is not None and record["iter"] <= iteration:
                last[kind] = (record["iter"], record[kind])
    rows = {}
    if "val_loss" in last:
        step, loss = last["val_loss"]
        rows[f"validation loss at step {step:,}"] = f"{loss:.4f} nats a token"
        rows["validation perplexity"] = f"{math.exp(min(loss, 700)):,.2f}"
    if "bits_per_byte" in last:
        rows["bits per byte of validation text"] = f"{last['bits_per_byte'][1]:.4f}"
    if "loss" in last:
        step, loss = last["loss"]
        rows[f"training loss at step {step:,}"] = f"{loss:.4f} nats a token"
    return rows


def _metrics(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a run's metrics; none where there is no such file."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        return []
    records = []
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue  # cut short by a kill
        if isinstance(record, dict) and isinstance(record.get("iter"), int):
            records.append(record)
    return records
