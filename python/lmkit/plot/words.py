"""Numbers as people read them on an axis or in a table."""

import math

DAY, HOUR, MINUTE = 86_400, 3_600, 60
UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))

# Lengths of time that people count by, in seconds.
TIMES = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, DAY)


def short(value: float, _place: object = None) -> str:
    """``1.2M``, ``45k``, ``0.03``; also what matplotlib calls with a tick and its place."""
    for unit, name in UNITS:
        if abs(value) >= unit:
            return f"{value / unit:.3g}{name}"
    return f"{value:.4g}"


def duration(seconds: float, _place: object = None) -> str:
    """``2d 3h``, ``1h 05m``, ``4m``, ``12s``."""
    whole = round(seconds)
    if whole >= DAY:
        return _joined(whole // DAY, "d", whole % DAY // HOUR, "h")
    if whole >= HOUR:
        return _joined(whole // HOUR, "h", whole % HOUR // MINUTE, "m")
    if whole >= MINUTE:
        return _joined(whole // MINUTE, "m", whole % MINUTE, "s")
    return f"{whole}s"


def _joined(large: int, large_unit: str, small: int, small_unit: str) -> str:
    rest = f" {small:02d}{small_unit}" if small else ""
    return f"{large}{large_unit}{rest}"


def time_step(least: float) -> float:
    """The shortest length of time that people count by, of at least ``least`` seconds."""
    fitting = next((one for one in TIMES if one >= least), None)
    return fitting or math.ceil(least / DAY) * DAY
