"""The record with which each sitting of a run begins in ``metrics.jsonl``.

It tells what the records after it mean: where the run was taken up, what a step learns from, and
how many bytes of text a token stands for, which turns nats a token into bits a byte.
"""

import time
from typing import Any

import numpy as np

from lmkit.lm.batches import Mixture, Tokens
from lmkit.lm.evaluate import bytes_per_token
from lmkit.lm.preparation import Prepared


def beginning(run: Prepared, tokens_per_step: int) -> dict[str, Any]:
    """The record: ``iter``, ``begun`` (``new`` or ``resumed``), and what stays as it is from here.

    ``at`` is the time of day in seconds since 1970.
    """
    return {
        "iter": run.progress.iteration,
        "begun": "resumed" if run.checkpoint else "new",
        "at": round(time.time(), 3),
        "tokens": run.progress.tokens,
        "seconds": round(run.progress.seconds, 3),
        "parameters": run.model.parameter_count(),
        "device": str(run.device.device),
        "tokens_per_step": tokens_per_step,
        "train_bytes_per_token": _bytes_per_token(run, run.train_data.tokens),
        "val_bytes_per_token": _bytes_per_token(run, run.val_data.tokens) if run.val_data else None,
    }


def _bytes_per_token(run: Prepared, tokens: Tokens) -> float | None:
    """Bytes of text a token, on the windows an evaluation takes; of several files by weight."""
    if isinstance(tokens, Mixture):
        found = [_bytes_per_token(run, part) for part in tokens.parts]
        known = [one for one in found if one is not None]
        shares = np.diff(tokens.shares, prepend=0.0)
        return float(shares @ np.array(known)) if len(known) == len(found) else None
    return bytes_per_token(
        run.tokenizer,
        tokens,
        vocab_size=run.config.model.vocab_size,
        context_length=run.config.context_length,
        limit=run.config.num_eval_batches * run.config.batch_size,
    )
