"""A dataclass field to a setting: its sentence, its limits, and the check of what is typed for it.

Flags, help, TOML and checks are made from what a field says of itself here; which settings there
are stands in `lmkit.config`. Errors are :class:`~lmkit.errors.UsageError` and name the flag as it
is typed. Imports no torch and no click.
"""

from __future__ import annotations

import dataclasses
import math
import operator
import re
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmkit.errors import UsageError
from lmkit.whole_number import LARGEST

if TYPE_CHECKING:
    from collections.abc import Mapping


def setting(
    default: object,
    sentence: str,
    *,
    group: str,
    metavar: str | None = None,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
    choices: tuple[str, ...] = (),
    words: tuple[str, ...] = (),
    duration: bool = False,
    several: bool = False,
) -> Any:  # noqa: ANN401 - dataclass fields take any default
    """A config field: its default, the sentence its help shows, and its limits.

    ``words`` may be typed in the place of a value and are settled before there is a config. A
    ``duration`` is seconds, and may be typed as 3h50m. Of ``choices`` ``several`` may be typed,
    with commas between.
    """
    limits = {"above": above, "at_least": at_least, "below": below, "at_most": at_most}
    metadata = {"sentence": sentence, "group": group, "metavar": metavar, "choices": choices}
    spelling = {"words": words, "duration": duration, "several": several}
    return dataclasses.field(default=default, metadata=metadata | limits | spelling)


@dataclass(frozen=True)
class Setting:
    """What a config field says of itself; flags, help and checks are made from it."""

    name: str
    kind: type
    optional: bool
    default: object
    sentence: str
    group: str
    metavar: str | None
    choices: tuple[str, ...]
    above: float | None
    at_least: float | None
    below: float | None
    at_most: float | None
    words: tuple[str, ...]
    duration: bool
    several: bool

    @property
    def flag(self) -> str:
        """The flag as it is typed."""
        return f"--{self.name}"

    def check_given(self, value: object) -> object:
        """What was given: a word that is settled later as it is, anything else checked."""
        return value if isinstance(value, str) and value in self.words else self.check(value)

    def check(self, value: object) -> object:
        """The value as its field's type, or a UsageError naming the flag."""
        if value is None or (self.optional and value == "none"):
            if self.optional:
                return None
            raise UsageError(f"{self.flag} cannot be none")
        value = self._typed(value)
        chosen = str(value).split(",") if self.several else [value]
        if self.choices and not set(chosen) <= set(self.choices):
            listed = f"{', '.join(self.choices[:-1])} or {self.choices[-1]}"
            several = ", or several of them with commas between" if self.several else ""
            raise UsageError(f"{self.flag} must be {listed}{several}, not {value!r}")
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            self._check_limits(value)
        return value

    def _typed(self, value: object) -> object:
        if self.duration and isinstance(value, str):
            value = _seconds(value, self.flag)
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if isinstance(value, int) and abs(value) > LARGEST:
            raise UsageError(f"{self.flag} must be at most {LARGEST}")
        if self.kind is float and is_number:
            return float(typing.cast("float", value))
        if self.kind is int and isinstance(value, float) and value.is_integer():
            return int(value)
        if self.kind is str and isinstance(value, Path):
            return str(value)
        if not isinstance(value, self.kind) or (self.kind is int and not is_number):
            kinds = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
            raise UsageError(f"{self.flag} must be {kinds[self.kind]}, not {value!r}")
        return value

    def _check_limits(self, value: float) -> None:
        if not math.isfinite(value):
            raise UsageError(f"{self.flag} must be a finite number, not {value}")
        limits = [
            ("above", self.above, operator.gt),
            ("at least", self.at_least, operator.ge),
            ("below", self.below, operator.lt),
            ("at most", self.at_most, operator.le),
        ]
        given = [(words, limit, holds) for words, limit, holds in limits if limit is not None]
        if not all(holds(value, limit) for _, limit, holds in given):
            listed = " and ".join(f"{words} {limit}" for words, limit, _ in given)
            raise UsageError(f"{self.flag} must be {listed}, not {value}")


def _seconds(text: str, flag: str) -> float:
    """The seconds in ``3h50m``, ``1d``, ``90s`` or ``90``."""
    pattern = r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m(?:in)?)?(?:(\d+(?:\.\d+)?)s?)?"
    found = re.fullmatch(pattern, text.strip().replace(" ", ""))
    if not found or not any(found.groups()):
        raise UsageError(f"{flag} must be a time such as 3h50m, 90m or 45s, not {text!r}")
    units = (86_400, 3_600, 60, 1)
    return sum(float(n or 0) * unit for n, unit in zip(found.groups(), units, strict=True))


def own_settings(config_class: type) -> dict[str, Setting]:
    """The settings of one config class by name, those of a nested config left out."""
    hints = typing.get_type_hints(config_class)
    found: dict[str, Setting] = {}
    for field in dataclasses.fields(config_class):
        if "sentence" not in field.metadata:
            continue
        hint = hints[field.name]
        if field.metadata["choices"] and field.default is not None:
            hint = str  # said as a Literal of strings
        kinds = typing.get_args(hint) or (hint,)
        found[field.name] = Setting(
            name=field.name,
            kind=next(kind for kind in kinds if kind is not types.NoneType),
            optional=types.NoneType in kinds,
            default=field.default,
            **field.metadata,
        )
    return found


def shown(config: object, always: typing.Collection[str] = ()) -> str:
    """A config as a call that makes it again, without the settings that have their defaults.

    Args:
        config: a dataclass of settings.
        always: names of fields that are shown in any case.
    """
    fields = [one for one in dataclasses.fields(typing.cast("Any", config)) if one.init]
    known = own_settings(type(config))
    texts = [
        f"{one.name}={getattr(config, one.name)!r}"
        for one in fields
        if one.name in always
        or one.name not in known
        or getattr(config, one.name) != known[one.name].default
    ]
    return f"{type(config).__name__}({', '.join(texts)})"


def check_settings(config: object) -> None:
    """Replace each field of a frozen config by its checked value; for ``__post_init__``."""
    for name, one in own_settings(type(config)).items():
        object.__setattr__(config, name, one.check(getattr(config, name)))


def near_miss(name: str, known: Mapping[str, object]) -> str | None:
    """A hint naming the known settings that are spelt much like this one, or None."""
    import difflib

    near = difflib.get_close_matches(name, list(known), n=3)
    return f"did you mean {' or '.join(near)}?" if near else None
