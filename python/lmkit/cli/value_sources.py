"""Where an option's value comes from beneath the command line: the environment, or a TOML file.

Names are those of the flags in both, with dashes or underscores; what means nothing is refused.
Checks name the flag, wherever the value was set; :func:`true_sources` has the error name the
variable, or the file and its key, instead.
"""

import difflib
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import click
from click.core import ParameterSource

from lmkit.complaint import Complaint
from lmkit.config import GROUPS
from lmkit.config_file import flatten, read_toml
from lmkit.errors import MismatchError, UsageError

_FLAG = re.compile(r"(?<![\w-])--([a-z]\w*)")
_FILE = "lmkit.config_file"  # where a context remembers the file it took values from


def near_misses(name: str, known: Iterable[str]) -> list[str]:
    """Those of ``known`` that are spelt much like ``name``."""
    return difflib.get_close_matches(name, list(known), n=3)


def flag_name(option: click.Parameter) -> str:
    """An option's name as it is typed, without dashes; its parameter may be called otherwise."""
    return max(option.opts, key=len).lstrip("-").replace("-", "_")


def flags(command: click.Command) -> dict[str, click.Option]:
    """A command's options by their names as they are typed."""
    return {flag_name(p): p for p in command.params if isinstance(p, click.Option)}


def name_variables(command: click.Command, ctx: click.Context) -> None:
    """Let LMKIT_<COMMAND>_<OPTION> give each option; refuse such names that mean nothing."""
    prefix = f"{ctx.auto_envvar_prefix}_"
    known = flags(command)
    for name, option in known.items():
        option.envvar = prefix + name.upper()
    for variable in os.environ:
        name = variable.removeprefix(prefix).lower()
        if variable.startswith(prefix) and name not in known and not _of_sibling(variable, ctx):
            near = [prefix + near.upper() for near in near_misses(name, known)]
            raise UsageError(
                f"environment variable {variable} names no option of {ctx.command_path}",
                hint=_did_you_mean(near),
            )


def read_config(ctx: click.Context, _parameter: click.Parameter, path: str | None) -> None:
    """Put the values of a TOML file beneath the environment; unknown names are refused."""
    if path is None:
        return
    known = flags(ctx.command)
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
    ctx.meta[_FILE] = path


@contextmanager
def true_sources(ctx: click.Context) -> Iterator[None]:
    """Let errors about a value name what set it: the flag, the variable, or the file and its key.

    Hints keep the flags: on the command line they win.
    """
    try:
        yield
    except (UsageError, MismatchError) as error:
        error.args = (_with_sources(str(error), ctx),)
        raise
    except click.BadParameter as error:
        if isinstance(error.param, click.Option):
            source = _source(error.param, ctx)
            if source is ParameterSource.ENVIRONMENT:
                error.param_hint = str(error.param.envvar)
            elif source is ParameterSource.DEFAULT_MAP:
                error.param_hint = f"{flag_name(error.param)} in config file {ctx.meta[_FILE]}"
        raise


def say_with_sources(ctx: click.Context, complaint: Complaint) -> None:
    """Say what another process complains of, which was given the values of ``ctx`` as flags."""
    if complaint.exit_code in {UsageError.exit_code, MismatchError.exit_code}:
        complaint = complaint._replace(message=_with_sources(complaint.message, ctx))
    complaint.say()


def _with_sources(message: str, ctx: click.Context) -> str:
    """The message with each flag whose value was not typed called as it was set."""
    sources = {name: (option, _source(option, ctx)) for name, option in flags(ctx.command).items()}
    from_file = False

    def called(flag: re.Match[str]) -> str:
        nonlocal from_file
        option, source = sources.get(flag[1], (None, None))
        if option and source is ParameterSource.ENVIRONMENT:
            return str(option.envvar)
        from_file |= source is ParameterSource.DEFAULT_MAP
        return flag[1] if source is ParameterSource.DEFAULT_MAP else flag[0]

    said = _FLAG.sub(called, message)
    return f"config file {ctx.meta[_FILE]}: {said}" if from_file else said


def _source(option: click.Option, ctx: click.Context) -> ParameterSource | None:
    return ctx.get_parameter_source(str(option.name))


def _of_sibling(variable: str, ctx: click.Context) -> bool:
    """Whether a variable of `train` belongs to `train-tokenizer`, whose prefix is longer."""
    group = ctx.parent.command if ctx.parent else None
    names = group.list_commands(ctx) if isinstance(group, click.Group) else []
    prefixes = [f"LMKIT_{name.replace('-', '_').upper()}_" for name in names]
    mine = f"{ctx.auto_envvar_prefix}_"
    return any(variable.startswith(one) and len(one) > len(mine) for one in prefixes)


def _did_you_mean(near: list[str]) -> str | None:
    return f"did you mean {' or '.join(near)}?" if near else None


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
