"""Lines to text: each character cell holds 2 x 4 dots, the braille patterns of Unicode.

A canvas knows dots and colours, not what they mean. A cell that two colours share has the later.
"""

import itertools
from collections.abc import Sequence

# The bit of each dot of a cell, by column and row.
DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
BLANK = 0x2800


class Canvas:
    """``width`` x ``height`` characters, twice as many dots across and four times down."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self._cells = [[0] * width for _ in range(height)]
        self._colours: list[list[int | None]] = [[None] * width for _ in range(height)]

    @property
    def dots(self) -> tuple[int, int]:
        """How many dots there are, across and down."""
        return 2 * self.width, 4 * self.height

    def dot(self, x: int, y: int, colour: int | None = None) -> None:
        """Set a dot, counted from the upper left; one outside is left out."""
        if 0 <= x < 2 * self.width and 0 <= y < 4 * self.height:
            self._cells[y // 4][x // 2] |= DOTS[x % 2][y % 4]
            self._colours[y // 4][x // 2] = colour

    def line(self, points: Sequence[tuple[int, int]], colour: int | None = None) -> None:
        """Connect points; a single one is a dot."""
        for (x0, y0), (x1, y1) in itertools.pairwise(points):
            length = max(abs(x1 - x0), abs(y1 - y0), 1)
            for i in range(length):
                self.dot(
                    x0 + round((x1 - x0) * i / length), y0 + round((y1 - y0) * i / length), colour
                )
        if points:
            self.dot(*points[-1], colour)

    def rows(self) -> list[list[tuple[str, int | None]]]:
        """Each row's characters with their colours."""
        return [
            [
                (chr(BLANK + dots) if dots else " ", colour)
                for dots, colour in zip(cells, colours, strict=True)
            ]
            for cells, colours in zip(self._cells, self._colours, strict=True)
        ]
