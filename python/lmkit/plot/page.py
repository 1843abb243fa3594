"""Runs to one self-contained HTML page: curves, tables and samples, without a network.

The page is put together from the files beside this one (``page.html``, ``page.css``, ``chart.js``,
``page.js``) and the numbers as JSON. Its policy allows no request at all. About 30 KB a run of a
thousand steps or more.
"""

import html
import json
import re
import time
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from lmkit._core import __version__
from lmkit.plot.data import plot_data
from lmkit.plot.history import Run


def page(
    runs: Sequence[Run], options: Mapping[str, Any] | None = None, live: float | None = None
) -> str:
    """The page's text.

    Args:
        runs: what to draw.
        options: how it is drawn first: ``x``, ``log``, ``smoothing``, ``theme``, ``unit``.
        live: let the page look for newer numbers every so many seconds.
    """
    made = time.strftime("%Y-%m-%d %H:%M:%S")
    told = plot_data(runs) | {"options": dict(options or {}), "live": live, "made": made}
    parts = {
        "title": html.escape(page_title(runs)),
        "version": __version__,
        "css": _file("page.css"),
        "js": _file("chart.js") + _file("page.js").replace('"use strict";\n', "", 1),
        "data": _in_html(told),
    }
    return re.sub(r"\{(\w+)\}", lambda hole: parts[hole[1]], _file("page.html"))


def page_title(runs: Sequence[Run]) -> str:
    """A heading: the run's name, or how many are compared."""
    names = [run.name for run in runs]
    return names[0] if len(names) == 1 else f"{len(names)} runs: {', '.join(names)}"


def _file(name: str) -> str:
    return (files("lmkit.plot") / name).read_text(encoding="utf-8")


def _in_html(value: object) -> str:
    """JSON that cannot end the element it stands in."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
