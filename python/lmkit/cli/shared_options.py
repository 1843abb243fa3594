"""Options that several commands have, and the two shapes that most others have.

What an option takes, and how its help shows that, is said here once; what it means to a command
is the sentence that the command gives. Those that tell which text or which tokenizer is meant stand
in `text_options` and `tokenizer_options`; those of a run are made of its settings (`options`).
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import click

from lmkit.cli.options import Option
from lmkit.config import TrainConfig, settings
from lmkit.presets import PRESETS
from lmkit.whole_number import LARGEST

Decorator: TypeAlias = Callable[[Any], Any]


def in_order(*options: Decorator) -> Decorator:
    """Add these options, the first of them first in help."""

    def decorate(function: Any) -> Any:  # noqa: ANN401 - click's
        for add in reversed(options):
            function = add(function)
        return function

    return decorate


def option(*names: str, **more: Any) -> Decorator:  # noqa: ANN401 - click's
    """An option as of `click.option`, whose ``group`` says where a long help page shows it."""
    return click.option(*names, cls=Option, **more)


class _WholeNumber(click.IntRange):
    """A range whose end, that of 64 bits, is told only to who went beyond it."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ANN401 - click's
        number = super().convert(value, param, ctx)
        if number > LARGEST:
            self.fail(f"{number} is more than {LARGEST}", param, ctx)
        return number


def whole_number(
    flag: str,
    sentence: str,
    *,
    default: int | None = None,
    at_least: int = 1,
    **more: Any,  # noqa: ANN401 - click's
) -> Decorator:
    """An option that takes a whole number; ``more``, here and below, goes to `option`."""
    kind = _WholeNumber(min=at_least)
    return option(flag, type=kind, metavar="N", help=sentence, **(_default(default) | more))


def one_of(
    flag: str,
    choices: Sequence[str],
    sentence: str,
    *,
    default: str | None = None,
    name: str | None = None,
    **more: Any,  # noqa: ANN401 - click's
) -> Decorator:
    """An option that takes one of some words; ``name`` is its parameter's, where that differs."""
    names = [flag, name] if name else [flag]
    kind = click.Choice(choices)
    return option(*names, type=kind, help=sentence, **(_default(default) | more))


def _default(value: object) -> dict[str, Any]:
    return {} if value is None else {"default": value, "show_default": True}


def force_option(sentence: str, **more: Any) -> Decorator:  # noqa: ANN401 - click's
    """Add ``--force``; ``sentence`` says what it replaces."""
    return option("--force", is_flag=True, help=sentence, **more)


def tokenizer_option(sentence: str) -> Decorator:
    """Add ``--tokenizer``; ``sentence`` says what it is taken for."""
    return option("--tokenizer", "tokenizer_path", metavar="PATH", help=sentence)


def checkpoint_option(sentence: str) -> Decorator:
    """Add ``--checkpoint``; ``sentence`` says what is done with it, or with a folder's newest."""
    return option("--checkpoint", required=True, metavar="PATH", help=sentence)


preset_option = one_of(
    "--preset",
    list(PRESETS),
    "Set the model's shape, batch size and steps together; flags that are given win.",
    group="model",
)
json_option = option(
    "--json", "as_json", is_flag=True, help="Print results as JSON, one object a line."
)
quiet_option = option("--quiet", is_flag=True, help="Show no progress and no remarks.")


def _as_setting(name: str) -> Decorator:
    """An option like this setting of a run, for a command that has none of the others."""
    setting = settings(TrainConfig)[name]
    return option(
        setting.flag, metavar=setting.metavar, help=setting.sentence, **_default(setting.default)
    )


device_option = _as_setting("device")
data_cache_options = in_order(_as_setting("data_cache_dir"), _as_setting("data_cache_limit"))
