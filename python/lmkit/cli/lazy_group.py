"""A group of commands that are loaded when they are called, so that help comes at once."""

import importlib
import keyword
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from lmkit.cli.options import CONTEXT
from lmkit.cli.value_sources import near_misses

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


class LazyGroup(click.Group):
    """A group that knows its commands' names and loads one when it is called.

    Args:
        commands: name -> what it does, in the order of use.
        package: where they are: the module of ``train-tokenizer`` is ``<package>.train_tokenizer``,
            and its click command is named ``command``. A word that Python keeps for itself has one
            underscore more there.
    """

    def __init__(
        self,
        *args: Any,  # noqa: ANN401 - click's own arguments
        commands: Mapping[str, str],
        package: str,
        **kwargs: Any,  # noqa: ANN401 - click's own arguments
    ) -> None:
        kwargs["context_settings"] = CONTEXT | kwargs.get("context_settings", {})
        kwargs["help"] = (kwargs.get("help") or "").replace("\\b\n", "\b\n")
        kwargs["invoke_without_command"] = True
        super().__init__(*args, **kwargs)
        self.sentences = dict(commands)
        self.package = package

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in the order of use."""
        return list(self.sentences)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name, dashes and underscores alike."""
        name = cmd_name.replace("_", "-")
        if name not in self.sentences:
            return None
        module_name = name.replace("-", "_")
        if keyword.iskeyword(module_name):
            module_name += "_"
        module = importlib.import_module(f"{self.package}.{module_name}")
        command: click.Command = module.command
        command.name = name
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or name those that are spelt much like it."""
        known = self.get_command(ctx, args[0]) or args[0].startswith("-")
        if not known and not ctx.resilient_parsing:
            raise click.NoSuchOption(
                args[0],
                f"no such command {args[0]!r}",
                possibilities=near_misses(args[0], self.sentences),
                ctx=ctx,
            )
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> "list[CompletionItem]":
        """The commands that begin so, without loading them; after a dash the options."""
        from click.shell_completion import CompletionItem

        if incomplete.startswith("-"):
            return click.Command.shell_complete(self, ctx, incomplete)
        spelt = incomplete.replace("_", "-")
        found = [name for name in self.sentences if name.startswith(spelt)]
        return [CompletionItem(name, help=self.sentences[name]) for name in found]

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - whatever the command returns
        """Run the command; when whoever reads its output leaves, that is no failure."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # click itself would exit with 1
            ctx.exit(0)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without loading them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(self.sentences.items()))
