"""Settings to click options: the only place flags are made.

:func:`config_options` makes one option a config field; :class:`Command` gives every command
``--config``, help by groups, and near misses. Values come from the command line, else the
environment, else the TOML file, else the default; an option that none of the three gave arrives as
None, so that a command can tell what was asked for.
"""

import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import click

from lmkit.config import PRESETS, Setting, flatten, read_toml, settings
from lmkit.errors import UsageError

Function = TypeVar("Function", bound=Callable[..., Any])

# Dashes and underscores are the same in names of options.
CONTEXT: dict[str, Any] = {
    "token_normalize_func": lambda name: name.replace("-", "_"),
    "help_option_names": ["-h", "--help"],
    "max_content_width": 100,
}
GROUP_TITLES = {
    "model": "Model",
    "training": "Training",
    "data": "Data and checkpoints",
    "logging": "Logging and evaluation",
    "device": "Device",
}


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
        super().__init__(*args, **kwargs)
        self.params.append(
            Option(
                ["--config"],
                type=click.Path(),
                metavar="FILE",
                is_eager=True,
                expose_value=False,
                callback=_read_config,
                help="Take options that are not given from this TOML file.",
            )
        )

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, those of one group together."""
        groups: dict[str | None, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                groups.setdefault(getattr(parameter, "group", None), []).append(record)
        general = groups.pop(None, [])
        for group, records in groups.items():
            with formatter.section(GROUP_TITLES.get(str(group), str(group))):
                formatter.write_dl(records)
        with formatter.section("Options"):
            formatter.write_dl(general)


def _read_config(ctx: click.Context, _parameter: click.Parameter, path: str | None) -> None:
    """Put the values of a TOML file beneath the environment; unknown names are refused."""
    if path is None:
        return
    known = {p.name: p for p in ctx.command.params if p.name and p.name != "config"}
    values = flatten(read_toml(path), GROUP_TITLES)
    for name in values:
        if name not in known:
            near = near_misses(name, known)
            raise UsageError(
                f"config file {path}: unknown option {name}",
                hint=f"did you mean {' or '.join(near)}?" if near else None,
            )
    ctx.default_map = {**(ctx.default_map or {}), **values}


class SettingType(click.ParamType):
    """The values of one setting: typed text to what it means, checked by the setting itself."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.name = setting.metavar or {int: "N", float: "X", str: "TEXT"}.get(setting.kind, "TEXT")

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> object:
        """The value; ``none`` stays a word, since None means "not given" here."""
        if isinstance(value, str) and self.setting.kind in {int, float} and value != "none":
            try:
                value = self.setting.kind(value.replace("_", ""))
            except ValueError:
                kind = "a whole number" if self.setting.kind is int else "a number"
                raise UsageError(f"{self.setting.flag} must be {kind}, not {value!r}") from None
        checked = self.setting.check(value)
        return "none" if checked is None else checked


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
    if setting.choices:
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


def given(values: Mapping[str, object]) -> dict[str, object]:
    """The options that command line, environment or config file gave."""
    return {name: value for name, value in values.items() if value is not None}
