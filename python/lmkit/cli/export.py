"""`lmkit export`: a checkpoint to a folder that transformers loads, or to bare weights."""

import dataclasses
import json

import click

from lmkit.byte_size import byte_size
from lmkit.cli.options import Command, notices
from lmkit.cli.shared_options import force_option, json_option, one_of, quiet_option
from lmkit.counted import counted


@click.command(cls=Command)
@click.argument("run", metavar="RUN")
@click.argument("out", metavar="OUT")
@click.option(
    "--checkpoint",
    metavar="best|latest|FILE",
    help="Take this checkpoint of the run's folder.  [default: the best by validation loss, else "
    "the latest]",
)
@one_of(
    "--format",
    ["huggingface", "safetensors"],
    "Write a folder for transformers, or one file of weights under lmkit's names.",
    default="huggingface",
    name="output_format",
)
@one_of(
    "--weights",
    ["average", "raw"],
    "Take the moving average of --ema_decay, or the weights as trained.  [default: average "
    "where there is one]",
)
@one_of(
    "--dtype",
    ["float32", "bfloat16", "float16"],
    "Write numbers of this format.",
    default="float32",
)
@click.option(
    "--max_shard_size",
    metavar="SIZE",
    default="5G",
    show_default=True,
    help="Split the weights into files of at most this size.",
)
@force_option("Replace what was exported to OUT before.")
@json_option
@quiet_option
def command(
    *,
    run: str,
    out: str,
    checkpoint: str | None,
    output_format: str,
    weights: str | None,
    dtype: str,
    max_shard_size: str,
    force: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    r"""Write a model for other tools.

    RUN is the folder of a run, or a checkpoint. OUT becomes a folder with config.json,
    model.safetensors, tokenizer.json and a model card, which AutoModelForCausalLM.from_pretrained
    and AutoTokenizer.from_pretrained load: a Llama, or with --qk_norm a Qwen3.

    \b
    Examples:
      lmkit export checkpoints/ my-model/
      lmkit export checkpoints/checkpoint_5000.pt my-model/ --dtype bfloat16
      lmkit export checkpoints/ model.safetensors --format safetensors
    """
    limit = byte_size(max_shard_size, "--max_shard_size")

    from lmkit.lm.export import export_model

    result = export_model(
        run,
        out,
        checkpoint=checkpoint,
        format=output_format,  # type: ignore[arg-type] # the choices are the literal's
        weights=weights,  # type: ignore[arg-type] # likewise
        dtype=dtype,  # type: ignore[arg-type] # likewise
        max_shard_size=limit,
        force=force,
        notice=notices(quiet=quiet),
    )
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(result)))
        return
    averaged = ", averaged weights" if result.weights == "average" else ""
    click.echo(
        f"Exported {result.checkpoint} ({result.parameters:,} parameters after "
        f"{counted(result.iteration, 'step')}{averaged}) to {result.path} as "
        f"{result.architecture or 'bare weights'}, {result.dtype}"
    )
