"""`lmkit completion`: a shell's name to the script that makes it complete lmkit's words."""

import json

import click

from lmkit.cli.completions import SHELLS, script
from lmkit.cli.options import Command
from lmkit.cli.shared_options import json_option, quiet_option


@click.command(cls=Command)
@click.argument("shell", type=click.Choice(SHELLS), metavar="bash|zsh|fish")
@json_option
@quiet_option
def command(*, shell: str, as_json: bool, **_: object) -> None:
    r"""Print a script that lets a shell complete commands, options, choices and files.

    Put the line of your shell into its start-up file: ~/.bashrc (bash from 4.4 on), or ~/.zshrc,
    after compinit; for fish running it once is enough.

    \b
    Examples:
      eval "$(lmkit completion bash)"
      eval "$(lmkit completion zsh)"
      lmkit completion fish > ~/.config/fish/completions/lmkit.fish
    """
    text = script(shell)
    click.echo(json.dumps({"shell": shell, "script": text}) if as_json else text.strip())
