"""A config to TOML, a table a group, and back. Imports no torch."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from lmkit.config import GROUPS, TrainConfig, from_dict, settings, to_dict
from lmkit.errors import MissingFileError, SystemRefusedError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Config = TypeVar("Config")


def to_toml(config: object) -> str:
    """A config as TOML, a table a group, complete: reading it gives an equal config."""
    import tomli_w

    values = to_dict(config)
    tables: dict[str, dict[str, object]] = {}
    for name, one in settings(type(config)).items():
        if values[name] == one.default and values[name] is None:
            continue  # TOML has no null; an absent setting has its default
        value = "none" if values[name] is None else values[name]
        tables.setdefault(one.group, {})[name] = value
    return tomli_w.dumps({group: tables[group] for group in GROUPS if group in tables})


def explained_toml(values: Mapping[str, object]) -> str:
    """Every setting of a training run as TOML, each under its sentence; unset ones in comments.

    Args:
        values: what the settings are, flat; what is absent or None is not set. Names that are no
            settings come first, outside of the tables.
    """
    import textwrap

    import tomli_w

    known = settings(TrainConfig)
    others = {name: one for name, one in values.items() if name not in known and one is not None}
    lines = tomli_w.dumps(others).splitlines()
    for group in GROUPS:
        members = [one for one in known.values() if one.group == group]
        lines += ["", f"[{group}]"] if members else []
        for one in members:
            value = values.get(one.name)
            comment = textwrap.wrap(one.sentence, 96, initial_indent="# ", subsequent_indent="# ")
            said = f"# {one.name} =" if value is None else tomli_w.dumps({one.name: value}).rstrip()
            lines += [*comment, said]
    return "\n".join(lines).strip() + "\n"


def from_toml(config_class: type[Config], text: str) -> Config:
    """A config from TOML text as :func:`to_toml` writes it, or without its tables."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"not TOML: {error}") from error
    return from_dict(config_class, flatten(document, GROUPS))


def flatten(document: Mapping[str, object], groups: Iterable[str]) -> dict[str, object]:
    """A TOML document to name and value; dashes in names mean underscores, tables only group."""
    groups = tuple(groups)
    flat: dict[str, object] = {}
    for key, value in document.items():
        inner = value.items() if key in groups and isinstance(value, dict) else [(key, value)]
        for name, one in inner:
            name = name.replace("-", "_")  # noqa: PLW2901 - the same name, spelt our way
            if name in flat:
                raise UsageError(f"{name} is set twice")
            flat[name] = one
    return flat


def read_toml(path: str | Path) -> dict[str, object]:
    """The document of a TOML file, or an error naming the file."""
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise MissingFileError(f"config file {path} does not exist") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"config file {path} is not TOML: {error}") from error
    except OSError as error:
        raise SystemRefusedError(f"cannot read config file {path}: {error.strerror}") from error
