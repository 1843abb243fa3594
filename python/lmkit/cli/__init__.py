"""The command line: `main`, a group whose commands are loaded when they are called.

To add a command: write ``cli/<command>.py`` with a click command object named ``command`` (made
with ``@click.command(cls=Command)`` of :mod:`lmkit.cli.options`), and add its line below. Errors
are raised as :mod:`lmkit.errors`; :mod:`lmkit.__main__` turns them into messages and exit codes. A
command returns None, or the code to exit with.
Nothing here imports torch or numpy; commands do so in their bodies.
"""

import importlib
from typing import Any

import click

from lmkit._core import __version__
from lmkit.cli.options import CONTEXT, near_misses

# name -> what it does, in the order in which one uses them; the module is the name with underscores
COMMANDS = {
    "demo": "Run the whole pipeline on text found on this machine.",
    "train-tokenizer": "Learn a vocabulary from text.",
    "tokenize": "Turn text into a file of token ids.",
    "train": "Train a model on a token file, or go on with one.",
    "evaluate": "Measure a checkpoint on a token file.",
    "generate": "Let a checkpoint continue a prompt.",
}


class LazyGroup(click.Group):
    """A group that knows its commands' names and loads one when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in the order of use."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name, dashes and underscores alike."""
        name = cmd_name.replace("_", "-")
        if name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(
            f"lmkit.cli.{name.replace('-', '_')}"
        ).command
        command.name = name
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or name those that are spelt much like it."""
        if not self.get_command(ctx, args[0]) and not args[0].startswith("-"):
            raise click.NoSuchOption(
                args[0],
                f"no such command {args[0]!r}",
                possibilities=near_misses(args[0], COMMANDS),
                ctx=ctx,
            )
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - whatever the command returns
        """Run the command; when whoever reads its output leaves, that is no failure."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # click itself would exit with 1
            ctx.exit(0)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without loading them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=LazyGroup,
    invoke_without_command=True,
    context_settings=CONTEXT | {"auto_envvar_prefix": "LMKIT"},
    epilog="Every option can also come from the environment (LMKIT_TRAIN_MAX_ITERS=500) or from a "
    "TOML file (--config FILE). 'lmkit COMMAND --help' tells more, with an example each.",
)
@click.version_option(__version__, message="lmkit %(version)s")
@click.pass_context
def main(ctx: click.Context) -> None:
    """From raw text to a language model of your own.

    \b
    text -> train-tokenizer -> tokenize -> train -> evaluate, generate

    Begin with 'lmkit demo', which runs them all and shows each command.
    """  # noqa: D301 - \b is click's mark for lines to keep
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def call(words: list[str], *, color: bool | None = None) -> int:
    """Run ``lmkit WORDS`` and return its exit code; errors are raised, not printed.

    Click's own ``main`` is not used, since it has its own mind about closed pipes.
    """
    try:
        with main.make_context("lmkit", list(words), color=color) as context:
            result = main.invoke(context)
    except click.exceptions.Exit as end:
        return end.exit_code
    return result if isinstance(result, int) else 0
