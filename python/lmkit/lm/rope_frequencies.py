"""Rotary frequencies to those of Llama 3.1, which sees further than it was first trained.

Pairs that turn fast within the first training's length keep their frequency; those whose turn is
longer than it are slowed down; between the two the frequency goes over smoothly. The rule is that
of Meta's Llama 3.1, and its numbers have the names of Hugging Face's ``rope_type`` "llama3".

Axes: P pairs of dimensions.
"""

import math

from torch import Tensor

from lmkit.rope_scaling import RopeScaling


def scaled(frequency_P: Tensor, scaling: RopeScaling) -> Tensor:
    """The frequencies after scaling, in the dtype they have.

    Args:
        frequency_P: radians a position.
        scaling: how.
    """
    turns_P = scaling.original_max_position_embeddings * frequency_P / (2 * math.pi)
    kept_P = (turns_P - scaling.low_freq_factor) / (
        scaling.high_freq_factor - scaling.low_freq_factor
    )
    kept_P = kept_P.clamp(0, 1)  # 0: slowed down in full, 1: as it was
    return frequency_P * (kept_P + (1 - kept_P) / scaling.factor)
