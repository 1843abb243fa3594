"""Settings to click options, and the command that takes them.

:func:`config_options` makes one option a config field; :class:`Command` gives every command
``--config`` and help by groups. Values come from the command line, else the environment
(``LMKIT_<COMMAND>_<OPTION>``), else the TOML file (`lmkit.cli.value_sources`), else the default. A
config field's option that none of the three gave arrives as None, so that a command can tell what
was asked for.
"""

import itertools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import click

from lmkit.cli.completions import complete_by_metavar, words_or_files
from lmkit.cli.value_sources import flag_name, flags, name_variables, read_config, true_sources
from lmkit.config import GROUPS, settings
from lmkit.setting import Setting

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

Function = TypeVar("Function", bound=Callable[..., Any])

CONTEXT: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
# Options of every command, shown last.
GENERAL = ("config", "json", "quiet", "help")
# Where options that several commands have are shown, in commands of so many that groups help.
LONG = 12
SHARED = {
    "Text": (
        "data_path", "text_field", "errors", "end_of_document", "max_record_bytes", "num_threads",
    ),
    "Tokenizer": (
        "tokenizer", "vocab_path", "merges_path", "special_token", "no_special_tokens", "pattern",
    ),
    "Output": (
        "output_path", "method", "dtype", "val_fraction", "val_output_path", "force", "resume",
        "dry_run",
    ),
}  # fmt: skip


class Option(click.Option):
    """An option that belongs to a group of the help page."""

    def __init__(self, *args: Any, group: str | None = None, **kwargs: Any) -> None:  # noqa: ANN401 - click's own arguments
        super().__init__(*args, **kwargs)
        self.group = group


class Command(click.Command):
    """A command with ``--config``, help by groups, and values in a known order of precedence."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - click's own arguments
        kwargs["context_settings"] = CONTEXT | kwargs.get("context_settings", {})
        # In a raw docstring click's mark for lines to keep is two characters.
        kwargs["help"] = (kwargs.get("help") or "").replace("\\b\n", "\b\n")
        super().__init__(*args, **kwargs)
        complete_by_metavar(self.params)
        self.params.append(
            Option(
                ["--config"],
                type=click.Path(dir_okay=False),
                metavar="FILE",
                is_eager=True,
                expose_value=False,
                callback=read_config,
                help="Take options that are not given from this TOML file.",
            )
        )

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse with dashes and underscores alike, after naming the environment's variables."""
        if not ctx.resilient_parsing:  # as while completing
            name_variables(self, ctx)
        with true_sources(ctx):
            return super().parse_args(ctx, _underscored(self, args))

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - whatever the command returns
        """Run the command; what it says of a value names where that came from."""
        with true_sources(ctx):
            return super().invoke(ctx)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, those of one group together, those of every command last."""
        groups: dict[str, list[tuple[str, str]]] = {}
        # What stands without a flag is explained in the command's text.
        options = [one for one in self.get_params(ctx) if isinstance(one, click.Option)]
        for option in options:
            record = option.get_help_record(ctx)
            if record is not None:
                group = _group_of(option, is_long=len(options) > LONG)
                groups.setdefault(group, []).append(record)
        general = groups.pop("General")
        for group, records in (groups | {"General": general}).items():
            with formatter.section(GROUPS.get(group, group)):
                formatter.write_dl(records)


def _group_of(option: click.Option, *, is_long: bool) -> str:
    """The group of the help page that an option is shown in."""
    name = flag_name(option)
    if name in GENERAL:
        return "General"
    own: str | None = getattr(option, "group", None)
    shared = next((group for group, names in SHARED.items() if name in names), None)
    return own or (shared if is_long else None) or "Options"


def _underscored(command: click.Command, args: list[str]) -> list[str]:
    """The arguments with each option spelt with underscores; values stay as they are."""
    known = {opt: p for p in flags(command).values() for opt in (*p.opts, *p.secondary_opts)}
    spelt: list[str] = []
    rest = iter(args)
    for argument in rest:
        name, equals, value = argument.partition("=")
        name = f"--{name[2:].replace('-', '_')}" if name.startswith("--") else name
        option = known.get(name)
        spelt.append(name + equals + value if option else argument)
        if argument == "--":
            break
        if option and not equals and not option.is_flag:
            spelt.extend(itertools.islice(rest, 1))
    return [*spelt, *rest]


class SettingType(click.ParamType):  # type: ignore[type-arg, unused-ignore]  # generic from click 8.2 on
    """The values of one setting: typed text to what it means, checked by the setting itself."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.name = setting.metavar or {int: "N", float: "X", str: "TEXT"}.get(setting.kind, "TEXT")

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> object:
        """The value; ``none`` stays a word, since None means "not given" here."""
        if isinstance(value, str) and self.setting.kind in {int, float} and value != "none":
            value = _number(value)
        checked = self.setting.check_given(value)
        return "none" if checked is None else checked

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> "list[CompletionItem]":
        """The words that its metavar spells out, or files."""
        return words_or_files(self.setting.name, self.name, incomplete)


def _number(text: str) -> object:
    """The number a text is, whole numbers exactly, 1e5 too; other text as it is."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def config_options(config_class: type) -> Callable[[Function], Function]:
    """Decorate a command's function with an option for each setting of ``config_class``."""

    def decorate(function: Function) -> Function:
        for setting in reversed(settings(config_class).values()):
            function = click.option(*_declaration(setting), cls=Option, **_attributes(setting))(
                function
            )
        return function

    return decorate


def _declaration(setting: Setting) -> list[str]:
    flag = setting.flag
    return [f"{flag}/--no_{setting.name}" if setting.kind is bool else flag, setting.name]


def _attributes(setting: Setting) -> dict[str, Any]:
    shown = "" if setting.default is None or setting.kind is bool else str(setting.default)
    sentence = f"{setting.sentence}  [default: {shown}]" if shown else setting.sentence
    common: dict[str, Any] = {"group": setting.group, "default": None, "help": sentence}
    if setting.kind is bool:
        return common
    if setting.choices and not setting.several:
        return common | {"type": click.Choice(setting.choices)}
    return common | {"type": SettingType(setting), "metavar": SettingType(setting).name}


def notices(*, quiet: bool) -> Callable[[str], None]:
    """Where a command's remarks go: to stderr, or nowhere."""
    return _ignore if quiet else _tell


def _tell(sentence: str) -> None:
    click.echo(f"note: {sentence}", err=True)


def _ignore(_sentence: str) -> None:
    """Say nothing."""


def given(values: Mapping[str, object]) -> dict[str, object]:
    """The options that command line, environment or config file gave."""
    return {name: value for name, value in values.items() if value is not None}
