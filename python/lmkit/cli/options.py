"""Settings to click options: the only place flags are made.

:func:`config_options` makes one option a config field; :class:`Command` gives every command
``--config``, help by groups, and near misses. Values come from the command line, else the
environment (``LMKIT_<COMMAND>_<OPTION>``), else the TOML file, else the default. A config field's
option that none of the three gave arrives as None, so that a command can tell what was asked for.
Names are those of the flags in all three, with dashes or underscores.
"""

import difflib
import itertools
import os
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import click

from lmkit.cli.completions import complete_by_metavar, words_or_files
from lmkit.config import GROUPS, TrainConfig, settings
from lmkit.config_file import flatten, read_toml
from lmkit.errors import UsageError
from lmkit.presets import PRESETS
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


def near_misses(name: str, known: Iterable[str]) -> list[str]:
    """Those of ``known`` that are spelt much like ``name``."""
    return difflib.get_close_matches(name, list(known), n=3)


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
                callback=_read_config,
                help="Take options that are not given from this TOML file.",
            )
        )

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse with dashes and underscores alike, after naming the environment's variables."""
        if not ctx.resilient_parsing:  # as while completing
            _name_variables(self, ctx)
        return super().parse_args(ctx, _underscored(self, args))

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


def flag_name(option: click.Parameter) -> str:
    """An option's name as it is typed, without dashes; its parameter may be called otherwise."""
    return max(option.opts, key=len).lstrip("-").replace("-", "_")


def _flags(command: click.Command) -> dict[str, click.Option]:
    return {flag_name(p): p for p in command.params if isinstance(p, click.Option)}


def _underscored(command: click.Command, args: list[str]) -> list[str]:
    """The arguments with each option spelt with underscores; values stay as they are."""
    known = {opt: p for p in _flags(command).values() for opt in (*p.opts, *p.secondary_opts)}
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


def _name_variables(command: click.Command, ctx: click.Context) -> None:
    """Let LMKIT_<COMMAND>_<OPTION> give each option; refuse such names that mean nothing."""
    prefix = f"{ctx.auto_envvar_prefix}_"
    flags = _flags(command)
    for name, option in flags.items():
        option.envvar = prefix + name.upper()
    for variable in os.environ:
        name = variable.removeprefix(prefix).lower()
        if variable.startswith(prefix) and name not in flags and not _of_sibling(variable, ctx):
            near = [prefix + near.upper() for near in near_misses(name, flags)]
            raise UsageError(
                f"environment variable {variable} names no option of {ctx.command_path}",
                hint=_did_you_mean(near),
            )


def _of_sibling(variable: str, ctx: click.Context) -> bool:
    """Whether a variable of `train` belongs to `train-tokenizer`, whose prefix is longer."""
    group = ctx.parent.command if ctx.parent else None
    names = group.list_commands(ctx) if isinstance(group, click.Group) else []
    prefixes = [f"LMKIT_{name.replace('-', '_').upper()}_" for name in names]
    mine = f"{ctx.auto_envvar_prefix}_"
    return any(variable.startswith(one) and len(one) > len(mine) for one in prefixes)


def _did_you_mean(near: list[str]) -> str | None:
    return f"did you mean {' or '.join(near)}?" if near else None


def _read_config(ctx: click.Context, _parameter: click.Parameter, path: str | None) -> None:
    """Put the values of a TOML file beneath the environment; unknown names are refused."""
    if path is None:
        return
    known = _flags(ctx.command)
    del known["config"]
    values: dict[str, object] = {}
    for name, value in flatten(read_toml(path), GROUPS).items():
        if name not in known:
            raise UsageError(
                f"config file {path}: unknown option {name}",
                hint=_did_you_mean(near_misses(name, known)),
            )
        values[str(known[name].name)] = _as_typed(known[name], value, path)
    ctx.default_map = {**(ctx.default_map or {}), **values}


def _as_typed(option: click.Option, value: object, path: str) -> object:
    """A TOML value as if it were typed, so that both pass through the same checks."""
    if option.is_flag and isinstance(value, bool):
        return value
    if option.multiple and not isinstance(value, list):
        value = [value]
    many = value if isinstance(value, list) else [value]
    fits = all(isinstance(one, str | int | float) and not isinstance(one, bool) for one in many)
    if option.is_flag or not fits or (isinstance(value, list) and not option.multiple):
        kind = "true or false" if option.is_flag else "a list" if option.multiple else "one value"
        raise UsageError(f"config file {path}: {flag_name(option)} must be {kind}, not {value!r}")
    return [str(one) for one in many] if option.multiple else str(value)


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


def preset_option(function: Function) -> Function:
    """Add ``--preset``."""
    return click.option(
        "--preset",
        cls=Option,
        group="model",
        type=click.Choice(list(PRESETS)),
        help="Set the model's shape, batch size and steps together; flags that are given win.",
    )(function)


def json_option(function: Function) -> Function:
    """Add ``--json``."""
    return click.option(
        "--json", "as_json", is_flag=True, help="Print results as JSON, one object a line."
    )(function)


def quiet_option(function: Function) -> Function:
    """Add ``--quiet``."""
    return click.option("--quiet", is_flag=True, help="Show no progress and no remarks.")(function)


def checkpoint_option(sentence: str) -> Callable[[Function], Function]:
    """Add ``--checkpoint``; ``sentence`` says what is done with it, or with a folder's newest."""
    return click.option("--checkpoint", required=True, metavar="PATH", help=sentence)


def device_option(function: Function) -> Function:
    """Add ``--device``, as the setting of that name says it."""
    setting = settings(TrainConfig)["device"]
    return click.option(
        setting.flag,
        default=setting.default,
        show_default=True,
        metavar=setting.metavar,
        help=setting.sentence,
    )(function)


def data_cache_options(function: Function) -> Function:
    """Add ``--data_cache_dir`` and ``--data_cache_limit``, as the settings of these names say."""
    for name in ("data_cache_limit", "data_cache_dir"):
        setting = settings(TrainConfig)[name]
        option = click.option(
            setting.flag,
            default=setting.default,
            show_default=setting.default is not None,
            metavar=setting.metavar,
            help=setting.sentence,
        )
        function = option(function)
    return function


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
