"""A loss in nats a token to the unit it is shown in: nats, bits a byte, or perplexity."""

import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from lmkit.plot.curves import Numbers

Conversion: TypeAlias = Callable[[Numbers], Numbers]

UNITS = {"nats": "loss, nats a token", "bits": "loss, bits a byte", "perplexity": "perplexity"}


def bits(bytes_per_token: float) -> float:
    """What a loss in nats a token is multiplied by to be in bits a byte."""
    return 1 / (math.log(2) * bytes_per_token)


def to_unit(unit: str, bytes_per_token: float | None) -> Conversion | None:
    """What turns nats a token into the unit; None where that is not known."""
    if unit == "nats":
        return lambda values: values
    if unit == "perplexity":
        return np.exp
    if bytes_per_token is None:
        return None
    factor = bits(bytes_per_token)
    return lambda values: values * factor
