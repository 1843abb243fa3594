"""Runs to pictures: a page, an image, a drawing in the terminal, or the numbers themselves.

    run folder → history → curves → page | image | terminal

A run is read from what `train` leaves in its folder (``metrics.jsonl``, ``config.toml``), also
while it still goes on. Everything is drawn from the same thinned curves, so that all pictures of a
run agree. Loads no torch; matplotlib only for images.
"""

from lmkit.plot.history import Run
from lmkit.plot.reading import RunReader, read_run

__all__ = ["Run", "RunReader", "read_run"]
