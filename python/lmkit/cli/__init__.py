"""The command line: `main`, a group whose commands are loaded when they are called.

To add a command: write ``cli/<command>.py`` with a click command object named ``command`` (made
with ``@click.command(cls=Command)`` of :mod:`lmkit.cli.options`), and add its line below. A command
with commands of its own, as ``convert``, is a folder whose ``__init__`` holds such a group. Errors
are raised as :mod:`lmkit.errors`; :mod:`lmkit.__main__` turns them into messages and exit codes. A
command returns None, or the code to exit with.
Nothing here imports torch or numpy; commands do so in their bodies.
"""

import click

from lmkit._core import __version__
from lmkit.cli.lazy_group import LazyGroup

# name -> what it does, in the order in which one uses them; the module is the name with underscores
COMMANDS = {
    "demo": "Run the whole pipeline on text found on this machine.",
    "train-tokenizer": "Learn a vocabulary from text.",
    "tokenize": "Turn text into a file of token ids.",
    "train": "Train a model on a token file, or go on with one.",
    "evaluate": "Measure a checkpoint on a token file.",
    "generate": "Let a checkpoint continue a prompt.",
    "plot": "Draw the curves of one or more runs.",
    "export": "Write a model for Hugging Face transformers, or its bare weights.",
    "import": "Make a checkpoint of a model made elsewhere.",
    "inspect": "Tell what a file is, whether it is whole, and how to use it.",
    "convert": "Bring files of other tools in, and ours out.",
    "completion": "Print a script that lets a shell complete lmkit's words.",
}


@click.group(
    cls=LazyGroup,
    commands=COMMANDS,
    package="lmkit.cli",
    context_settings={"auto_envvar_prefix": "LMKIT"},
    epilog="Every option can also come from the environment (LMKIT_TRAIN_MAX_ITERS=500) or from a "
    "TOML file (--config FILE). 'lmkit COMMAND --help' tells more, with an example each.",
)
@click.version_option(__version__, message="lmkit %(version)s")
@click.pass_context
def main(ctx: click.Context) -> None:
    """From raw text to a language model of your own.

    \b
    text -> train-tokenizer -> tokenize -> train -> evaluate, generate, export

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
