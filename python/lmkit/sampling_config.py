"""How text is drawn from a model, as flags and Python name it: frozen and checked."""

from __future__ import annotations

from dataclasses import dataclass

from lmkit.setting import check_settings, setting, shown


@dataclass(frozen=True, repr=False)
class SamplingConfig:
    """How text is drawn from a model: the flags of ``lmkit generate``."""

    max_new_tokens: int = setting(
        256, "Stop after N tokens, if no end of text comes before.", group="sampling", at_least=0
    )
    temperature: float = setting(
        1.0,
        "Take fewer risks below 1, more above; 0 always takes the likeliest token.",
        group="sampling",
        at_least=0,
    )
    top_k: int | None = setting(
        None, "Choose among the N likeliest tokens only.", group="sampling", at_least=1
    )
    top_p: float | None = setting(
        None,
        "Choose among the fewest likeliest tokens that have probability X together.",
        group="sampling",
        above=0,
        at_most=1,
    )
    seed: int | None = setting(
        None,
        "Give the same text for the same N.  [default: another each time]",
        group="sampling",
        at_least=0,
    )
    num_samples: int = setting(1, "Write N texts.", group="sampling", at_least=1)

    def __post_init__(self) -> None:
        check_settings(self)

    def __repr__(self) -> str:
        return shown(self)
