"""The colours of images, by theme: those of ``page.css``, so that a run looks the same in both.

Eight that people who see few colours can tell apart; a ninth run has the first again.
"""

COLOURS = {
    "light": (
        "#0b6bcb", "#d1495b", "#1a8a5a", "#b35c00", "#7b4bb8", "#008299", "#a8327e", "#5f6b2d",
    ),
    "dark": (
        "#6cb2ff", "#ff8797", "#58d39a", "#ffb257", "#c3a0ff", "#4fd6e8", "#ff8fd0", "#c6d26a",
    ),
}  # fmt: skip
PAPER = {"light": "#ffffff", "dark": "#14171b"}
INK = {"light": "#1b1f24", "dark": "#e8eaed"}
SOFT = {"light": "#5d6670", "dark": "#9ba5b0"}
GRID = {"light": "#e9ecf0", "dark": "#272d35"}
