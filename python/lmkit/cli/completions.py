"""What a shell completes: commands, options, choices, files; in bash, zsh and fish.

The scripts and the talk between shell and program are click's. Here is what lmkit adds to it: that
dashes and underscores are the same, and that an option's metavar (FILE, DIR, FILE|latest) says what
may stand in its place.
"""

import os
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

VARIABLE = "_LMKIT_COMPLETE"
SHELLS = ("bash", "zsh", "fish")
FILES = {"FILE", "PATH", "TOKENIZER"}
FOLDERS = {"FOLDER", "DIR"}
# Words that an option takes among others, where its metavar does not tell them.
WORDS = {
    "device": ("auto", "cpu", "cuda", "mps"),
    "logger": ("tensorboard", "wandb"),
    "pattern": ("gpt2", "cl100k", "o200k", "llama3", "qwen2"),
}


class Word(click.types.StringParamType):
    """Text as it is typed, completed as its name or its metavar says."""

    def __init__(self, name: str, metavar: str) -> None:
        self.of, self.metavar = name, metavar

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> "list[CompletionItem]":
        """See `words_or_files`."""
        return words_or_files(self.of, self.metavar, incomplete)


def words_or_files(name: str, metavar: str, incomplete: str) -> "list[CompletionItem]":
    """Words that the metavar spells out, in small letters, where they fit; else files or folders.

    ``name`` is the option's, whose words may stand in ``WORDS``. Shells complete a folder's name to
    its files by themselves.
    """
    from click.shell_completion import CompletionItem

    parts = re.findall(r"\w+", metavar)
    known = [*(part for part in parts if part.islower()), *WORDS.get(name, ())]
    words = [word for word in known if word.startswith(incomplete)]
    takes_files, takes_folders = FILES.intersection(parts), FOLDERS.intersection(parts)
    if words and (incomplete or not takes_files):
        return [CompletionItem(word) for word in words]
    if takes_files:
        return [CompletionItem(incomplete, type="file")]
    return [CompletionItem(incomplete, type="dir")] if takes_folders else []


def complete_by_metavar(parameters: Iterable[click.Parameter]) -> None:
    """Let parameters that take any text complete what their metavar says.

    What stands without a flag is a file or a folder of files.
    """
    for parameter in parameters:
        if type(parameter.type) is type(click.STRING):
            is_free = isinstance(parameter, click.Argument)
            metavar = "FILE" if is_free else parameter.metavar or ""
            parameter.type = Word(str(parameter.name), metavar)


def script(shell: str) -> str:
    """What the shell is to run once, so that it asks lmkit for completions from then on."""
    return str(_completer(shell).source())


def answer() -> int:
    """Answer a shell that asks through the environment; the exit code."""
    shell, _, _ = os.environ[VARIABLE].partition("_")
    if shell not in SHELLS:
        return 1
    click.echo(_completer(shell).complete())
    return 0


def _completer(shell: str) -> Any:  # noqa: ANN401 - one of click's classes, made ours
    from click.shell_completion import get_completion_class

    from lmkit.cli import main

    known = get_completion_class(shell)
    assert known is not None, shell  # noqa: S101 - SHELLS are those that click knows

    class Ours(known):  # type: ignore[misc, valid-type]
        """Click's, for words spelt either way."""

        def get_completion_args(self) -> tuple[list[str], str]:
            args, incomplete = super().get_completion_args()
            return [underscored(arg) for arg in args], underscored(incomplete)

    return Ours(main, {}, "lmkit", VARIABLE)


def underscored(word: str) -> str:
    """An option's name in our spelling; other words as they are."""
    name, equals, value = word.partition("=")
    spelt = "--" + name[2:].replace("-", "_") if name.startswith("--") else name
    return spelt + equals + value
