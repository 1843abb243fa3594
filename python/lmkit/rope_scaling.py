"""The four numbers by which Llama 3.1 scales rotary positions: what is typed to what it means.

What they do to frequencies stands in `lmkit.lm.rope_frequencies`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from lmkit.errors import UsageError


@dataclass(frozen=True)
class RopeScaling:
    """How Llama 3.1 slows rotary positions down, by the names of Hugging Face.

    Attributes:
        factor: slow pairs turn this many times slower.
        low_freq_factor: slow are those that turn fewer times than this over the length,
        high_freq_factor: as they were stay those that turn more often than this.
        original_max_position_embeddings: the length.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int

    @classmethod
    def parse(cls, text: str) -> RopeScaling:
        """What is typed to what it means.

        Raises:
            UsageError: it is not four such numbers.

        Example:
            >>> RopeScaling.parse("8,1,4,8192").factor
            8.0
        """
        try:
            factor, low, high, length = (float(part) for part in text.split(","))
        except ValueError:
            factor = low = high = length = 0.0
        if not (1 <= factor < math.inf and 0 < low < high < math.inf and length.is_integer()):
            raise UsageError(
                "--rope_scaling must be four numbers FACTOR,LOW,HIGH,LENGTH such as 8,1,4,8192, "
                f"FACTOR at least 1 and LOW below HIGH, not {text!r}"
            )
        if length < 1:
            raise UsageError(f"--rope_scaling: the length must be at least 1, not {length:g}")
        return cls(factor, low, high, int(length))

    def __str__(self) -> str:
        numbers = (self.factor, self.low_freq_factor, self.high_freq_factor)
        shown = ",".join(f"{n:.17g}" for n in numbers)
        return f"{shown},{self.original_max_position_embeddings}"
