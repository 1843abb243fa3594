"""`lmkit import`: a model made elsewhere to a checkpoint that a run goes on from."""

import dataclasses
import json
import shlex

import click

from lmkit.cli.options import Command, notices
from lmkit.cli.shared_options import (
    force_option,
    json_option,
    quiet_option,
    tokenizer_option,
    whole_number,
)
from lmkit.errors import UsageError


@click.command(cls=Command)
@click.argument("source", metavar="MODEL")
@click.argument("out", metavar="[OUT]", required=False)
@click.option(
    "--checkpoint_dir",
    metavar="DIR",
    help="Make the checkpoint in this folder; the same as OUT.",
)
@tokenizer_option("Tokenizer of the model.  [default: the tokenizer.json beside it]")
@whole_number(
    "--context_length",
    "Say that it was trained on sequences of N tokens.  [default: what the model says]",
)
@whole_number(
    "--max_seq_len",
    "Let the model see at most N tokens at once.  [default: as many as it was made for]",
)
@whole_number("--n_heads", "Give a course's checkpoint N heads, which its tensors do not tell.")
@click.option(
    "--rope_theta",
    type=click.FloatRange(min=0, min_open=True),
    metavar="X",
    help="Give a course's checkpoint this base of its rotary positions.  [default: 10000]",
)
@force_option("Set a run that is in OUT already aside.")
@json_option
@quiet_option
def command(
    *,
    source: str,
    out: str | None,
    checkpoint_dir: str | None,
    tokenizer_path: str | None,
    context_length: int | None,
    max_seq_len: int | None,
    n_heads: int | None,
    rope_theta: float | None,
    force: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    r"""Make a checkpoint of a model made elsewhere, to go on training.

    MODEL is a folder of Hugging Face with safetensors (Llama, Qwen3, or Mistral without a window),
    weights from 'lmkit export --format safetensors', or a .pt of the CS336 course with "model",
    "optimizer" and "iteration". The checkpoint appears in the folder OUT.

    \b
    Examples:
      lmkit import my-model/ run/
      lmkit import model.safetensors run/ --tokenizer tokenizer/
      lmkit import checkpoint_50000.pt run/ --tokenizer tokenizer/ --n_heads 12
    """
    if out and checkpoint_dir:
        raise UsageError("OUT and --checkpoint_dir are the same: give one of them")
    folder = out or checkpoint_dir
    if not folder:
        raise UsageError("no folder given for the checkpoint: pass OUT")

    from lmkit.lm.foreign_model import import_model

    result = import_model(
        source,
        folder,
        tokenizer=tokenizer_path,
        max_seq_len=max_seq_len,
        context_length=context_length,
        n_heads=n_heads,
        rope_theta=rope_theta,
        force=force,
        notice=notices(quiet=quiet),
    )
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(result)))
        return
    click.echo(
        f"Imported {source} ({result.kind}, {result.parameters:,} parameters, sequences of "
        f"{result.context_length:,}) as {result.checkpoint}\n"
        f"To go on: lmkit train --load_checkpoint {shlex.quote(result.checkpoint)} "
        "--train_data FILE"
    )
