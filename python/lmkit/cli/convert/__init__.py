"""`lmkit convert`: the files of other tools to ours, and back; one file a kind of file."""

import click

from lmkit.cli.lazy_group import LazyGroup

# name -> what it does; the module is beside this file
CONVERSIONS = {
    "tokenizer": "Turn a tokenizer of one format into another.",
    "tokens": "Turn a token file of one format into another, or into text.",
}


@click.group(cls=LazyGroup, commands=CONVERSIONS, package="lmkit.cli.convert")
@click.pass_context
def command(ctx: click.Context) -> None:
    """Bring files of other tools in, and ours out.

    \b
    Examples:
      lmkit convert tokenizer tokenizer.json tokenizer/
      lmkit convert tokens train.bin train.npy --from nanogpt
    """  # noqa: D301 - \b is click's mark for lines to keep
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
