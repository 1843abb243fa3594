"""`lmkit evaluate`: a checkpoint and a token file to loss, perplexity and bits per byte."""

import json
import math
from typing import TYPE_CHECKING

import click

from lmkit.cli.options import Command, notices
from lmkit.cli.progress import progress_bar
from lmkit.cli.shared_options import (
    checkpoint_option,
    data_cache_options,
    device_option,
    json_option,
    quiet_option,
    whole_number,
)
from lmkit.counted import counted
from lmkit.errors import UsageError

if TYPE_CHECKING:
    from lmkit.lm.evaluate import Evaluation


@click.command(cls=Command)
@checkpoint_option("Measure this checkpoint, or the newest of this folder of them.")
@click.option(
    "--data",
    required=True,
    metavar="PATH",
    help="Predict the tokens of this file (.npy or .bin) or folder of shards (or its address).",
)
@whole_number(
    "--batch_size", "Predict N sequences at once; the result is the same for any N.", default=8
)
@whole_number(
    "--context_length",
    "Cut the text into windows of N tokens.  [default: as the model was trained]",
)
@whole_number(
    "--num_eval_batches",
    "Take N batches spread over the file, always the same.  [default: all of it]",
)
@click.option(
    "--respect_documents",
    is_flag=True,
    help="Predict each document by itself, from nothing but its own tokens.",
)
@data_cache_options
@device_option
@json_option
@quiet_option
def command(
    *,
    checkpoint: str,
    data: str,
    batch_size: int,
    context_length: int | None,
    num_eval_batches: int | None,
    respect_documents: bool,
    data_cache_dir: str | None,
    data_cache_limit: str,
    device: str,
    as_json: bool,
    quiet: bool,
) -> None:
    r"""Measure a checkpoint on a token file or a data set of shards.

    Loss and perplexity are per token and compare models of one vocabulary; bits per byte compare
    any. The checkpoint knows its tokenizer; the file must have been made with it.

    \b
    Example:
      lmkit evaluate --checkpoint checkpoints/ --data val_data.npy
    """
    from lmkit.lm import load_model
    from lmkit.lm.device import Device, find_device
    from lmkit.lm.evaluate import evaluate
    from lmkit.lm.training_data import by_documents, refuse_other_tokenizer
    from lmkit.tokens import token_reader

    target = find_device(device)
    tell = notices(quiet=quiet)
    tokens = token_reader(data, cache_dir=data_cache_dir, cache_limit=data_cache_limit, notice=tell)
    model, tokenizer = load_model(checkpoint, tell)
    refuse_other_tokenizer(tokens, tokenizer, f"the one {checkpoint} was trained with")
    limit = model.config.max_seq_len
    if context_length is not None and context_length > limit:
        raise UsageError(
            f"--context_length {context_length} is above the model's {limit} positions"
        )
    with progress_bar("Evaluating", "batches", quiet=quiet) as progress:
        result = evaluate(
            model.to(target),
            tokenizer,
            by_documents(tokens, tokenizer) if respect_documents else tokens,
            batch_size=batch_size,
            context_length=context_length,
            num_batches=num_eval_batches,
            device=Device(target),
            progress=progress,
        )
    click.echo(_json(result) if as_json else _text(result))


def _text(result: "Evaluation") -> str:
    bits = "unknown" if result.bits_per_byte is None else f"{result.bits_per_byte:.4f}"
    return (
        f"Loss: {result.loss:.4f}\n"
        f"Perplexity: {result.perplexity:,.2f}\n"
        f"Bits per byte: {bits}\n"
        f"Tokens: {result.tokens:,} ({counted(result.bytes, 'byte')})"
    )


def _json(result: "Evaluation") -> str:
    numbers = {
        "loss": result.loss,
        "perplexity": result.perplexity,
        "bits_per_byte": result.bits_per_byte,
        "tokens": result.tokens,
        "bytes": result.bytes,
    }
    # JSON knows neither infinity nor NaN.
    finite = {k: v if v is not None and math.isfinite(v) else None for k, v in numbers.items()}
    return json.dumps(finite)
