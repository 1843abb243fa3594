"""`lmkit plot`: runs to a page, an image, a drawing in the terminal, or the numbers."""

import json
import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lmkit.cli.options import Command, notices
from lmkit.cli.shared_options import force_option, json_option, one_of, option, quiet_option
from lmkit.counted import counted
from lmkit.errors import UsageError, already_exists

if TYPE_CHECKING:
    from lmkit.plot import Run

KINDS = (".html", ".png", ".svg")
DEFAULT_OUTPUT = "plot.html"
SECONDS_BETWEEN = 5.0

_OUTPUT = "Output"
_LOOK = "What it shows"


@click.command(cls=Command)
@click.argument("run_paths", nargs=-1, required=True, metavar="RUN [RUN...]")
@option(
    "--output_path",
    metavar="FILE",
    help="Write here: .html, a page that needs no network; .png or .svg (with the extra plot).  "
    "[default: plot.html, without --terminal and --json]",
    group=_OUTPUT,
)
@option("--terminal", is_flag=True, help="Draw in the terminal.", group=_OUTPUT)
@option(
    "--live",
    is_flag=True,
    help="Draw again every few seconds, as long as one of the runs goes on.",
    group=_OUTPUT,
)
@option(
    "--interval",
    type=click.FloatRange(min=0.5),
    default=SECONDS_BETWEEN,
    show_default=True,
    metavar="SECONDS",
    help="With --live: wait this long in between.",
    group=_OUTPUT,
)
@force_option("Replace an output that is there already.", group=_OUTPUT)
@one_of(
    "--x",
    ["step", "tokens", "time"],
    "Draw against steps, tokens learned from, or time spent; a page can switch.",
    default="step",
    group=_LOOK,
)
@one_of(
    "--unit",
    ["nats", "bits", "perplexity"],
    "Show the loss in nats a token, in bits a byte, which compares vocabularies, or as "
    "perplexity; a page can switch.",
    default="nats",
    group=_LOOK,
)
@option("--log", is_flag=True, help="Show the loss on a logarithmic scale.", group=_LOOK)
@option(
    "--smoothing",
    type=click.FloatRange(min=0, max=1, max_open=True),
    default=0.8,
    show_default=True,
    metavar="X",
    help="Draw the training loss as a moving average that keeps X of itself each step, the raw "
    "curve faint behind it; 0 for the raw one alone.",
    group=_LOOK,
)
@one_of(
    "--theme",
    ["auto", "light", "dark"],
    "Draw dark on light or light on dark; auto lets a page follow the reader's system.",
    default="auto",
    group=_LOOK,
)
@json_option
@quiet_option
def command(
    *,
    run_paths: tuple[str, ...],
    output_path: str | None,
    terminal: bool,
    live: bool,
    interval: float,
    force: bool,
    as_json: bool,
    quiet: bool,
    **look: Any,  # noqa: ANN401 - how it is drawn, passed on
) -> None:
    r"""Draw the curves of one or more runs of 'lmkit train'.

    Shows training and validation loss, learning rate, gradient norm and tokens a second, where runs
    were resumed, which settings differ, and what the models wrote. RUN is a --checkpoint_dir; a run
    that still goes on will do. --json prints all that is drawn, as numbers.

    \b
    Examples:
      lmkit plot checkpoints/
      lmkit plot runs/adamw runs/muon --x tokens --output_path compared.png
      lmkit plot checkpoints/ --live --terminal
    """
    if live and as_json:
        raise UsageError(
            "--live and --json exclude each other", hint="train --json prints as it goes"
        )
    if output_path is None and not terminal and not as_json:
        output_path = DEFAULT_OUTPUT
    if output_path is not None:
        _check_output(output_path, force=force)
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    artist = _Artist(run_paths, look, output_path, terminal=terminal, colour=colour)
    if live:
        _keep_drawing(artist, interval, say=notices(quiet=quiet))
        return
    runs = artist.read()
    artist.draw(runs, None)
    _tell(artist, runs, as_json=as_json, quiet=quiet)


def _check_output(path: str, *, force: bool) -> None:
    """Refuse a file of an unknown kind, one that is there, and a folder that is not."""
    if Path(path).suffix.lower() not in KINDS:
        raise UsageError(f"--output_path {path} ends in none of {', '.join(KINDS)}")
    if Path(path).exists() and not force:
        raise already_exists(path)
    if not Path(path).absolute().parent.is_dir():
        raise UsageError(f"{Path(path).parent}: no such folder")


class _Artist:
    """Reads the runs and draws them, as often as asked."""

    def __init__(
        self,
        paths: Sequence[str],
        look: Mapping[str, Any],
        output: str | None,
        *,
        terminal: bool,
        colour: bool,
    ) -> None:
        from lmkit.plot import RunReader
        from lmkit.plot.naming import run_names

        folders = [Path(path).parent if Path(path).is_file() else Path(path) for path in paths]
        names = run_names(folders)
        self.readers = [RunReader(path, name) for path, name in zip(paths, names, strict=True)]
        self.look, self.output = look, output
        self.terminal, self.colour = terminal, colour

    def state(self) -> list[tuple[int, int] | None]:
        """What tells whether a run has written something; None where there is no file now."""
        found: list[tuple[int, int] | None] = []
        for reader in self.readers:
            try:
                stat = reader.metrics.stat()
            except OSError:  # which reading it puts into words
                found.append(None)
            else:
                found.append((stat.st_mtime_ns, stat.st_size))
        return found

    def read(self, *, may_be_empty: bool = False) -> "list[Run]":
        """The runs as they are now; one without numbers is refused, unless it has just begun."""
        runs = [reader.read() for reader in self.readers]
        for run in runs:
            if run.is_empty and not (may_be_empty and run.is_going):
                raise UsageError(
                    f"{run.path} has taken no step yet, so there is nothing to draw",
                    hint="--live waits for the first one" if run.is_going else None,
                )
        return runs

    def draw(self, runs: "Sequence[Run]", live: float | None) -> None:
        """Draw what was asked for; ``live``: seconds until a page is to look for a newer one."""
        if self.output is not None:
            self._write(runs, live)
        if self.terminal:
            self._show(runs)

    def _write(self, runs: "Sequence[Run]", live: float | None) -> None:
        from lmkit.durable import write_durably

        path = Path(str(self.output))
        kind = path.suffix.lower()
        if kind == ".html":
            from lmkit.plot.page import page

            content = page(runs, self.look, live).encode()
        else:
            from lmkit.plot.image import image

            theme = "dark" if self.look["theme"] == "dark" else "light"
            content = image(runs, kind[1:], **{**self.look, "theme": theme})
        write_durably(path, content)

    def _show(self, runs: "Sequence[Run]") -> None:
        from lmkit.plot.terminal import drawing

        columns, rows = shutil.get_terminal_size((100, 24))
        look = {name: value for name, value in self.look.items() if name != "theme"}
        height = max(8, min(24, rows - 6 - len(runs)))
        text = drawing(runs, columns - 1, height, colour=self.colour, **look)
        click.echo(text, color=self.colour)


def _keep_drawing(artist: _Artist, interval: float, say: "Any") -> None:  # noqa: ANN401 - a callable
    """Draw until no run goes on; a drawing is only made where something is new."""
    now, runs = artist.state(), artist.read(may_be_empty=True)
    if artist.output is not None:
        click.echo(f"Drawing into {artist.output} every {interval:g} s; Ctrl-C ends it")
    before: object = None
    while any(run.is_going for run in runs):
        if now != before:
            _wipe(artist)
            artist.draw(runs, interval)
            before = now
        time.sleep(interval)
        # Looked at first: what is written between the two is drawn the next time, not never.
        now, runs = artist.state(), artist.read(may_be_empty=True)
    if before is None:
        say("none of the runs goes on, so this is drawn once")
    _wipe(artist)
    artist.draw(artist.read(), None)  # with what the run wrote before it ended


def _wipe(artist: _Artist) -> None:
    """Begin again at the top of a terminal that takes escape sequences."""
    if artist.terminal and artist.colour:
        click.echo("\x1b[H\x1b[2J", nl=False, color=True)


def _tell(artist: _Artist, runs: "Sequence[Run]", *, as_json: bool, quiet: bool) -> None:
    if as_json:
        from lmkit.plot.data import plot_data

        click.echo(json.dumps({"output_path": artist.output, **plot_data(runs)}))
    elif artist.output is not None and not quiet:
        steps = sum(len(run.training) for run in runs)
        told = f"{counted(len(runs), 'run')}, {counted(steps, 'step')}"
        click.echo(f"{artist.output}: {told}", err=artist.terminal)
    for run in runs:
        if run.torn and not quiet:
            click.echo(
                f"note: {run.path}: {counted(run.torn, 'line')} of its metrics "
                f"{'are' if run.torn > 1 else 'is'} not whole and left out",
                err=True,
            )
