"""A preset's name to the settings it stands for, which lie beneath those that are given."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lmkit.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

# What each preset sets. d_ff is 8/3 of d_model rounded to a multiple of 64, as SwiGLU wants it;
# the flag's own default stays the original script's 3072.
PRESETS: dict[str, dict[str, int]] = {
    "small": {
        "vocab_size": 1000,
        "d_model": 256,
        "n_layers": 4,
        "n_heads": 4,
        "d_ff": 704,
        "batch_size": 16,
        "max_iters": 10_000,
    },
    "medium": {
        "vocab_size": 10_000,
        "d_model": 768,
        "n_layers": 12,
        "n_heads": 12,
        "d_ff": 2048,
        "batch_size": 32,
        "max_iters": 100_000,
    },
    "large": {
        "vocab_size": 50_000,
        "d_model": 1024,
        "n_layers": 24,
        "n_heads": 16,
        "d_ff": 2752,
        "batch_size": 64,
        "max_iters": 500_000,
    },
    # The CPU setting of the CS336 course's first assignment, on its TinyStories corpus.
    "cs336-tinystories": {
        "vocab_size": 10_000,
        "d_model": 512,
        "n_layers": 4,
        "n_heads": 16,
        "d_ff": 1344,
        "context_length": 256,
        "batch_size": 32,
        "max_iters": 5_000,
    },
}


def expand_preset(given: Mapping[str, object]) -> dict[str, object]:
    """The given settings with those of the ``preset`` among them put beneath."""
    values = dict(given)
    preset = values.pop("preset", None)
    if preset is None:
        return values
    if preset not in PRESETS:
        *others, last = PRESETS
        raise UsageError(f"--preset must be {', '.join(others)} or {last}, not {preset!r}")
    return {**PRESETS[str(preset)], **values}
