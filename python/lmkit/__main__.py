"""`python -m lmkit` and the console script: the command line, from arguments to exit code."""

import atexit
import io
import os
import re
import signal
import sys
import threading
import warnings
from contextlib import suppress
from types import FrameType
from typing import NoReturn, TextIO, cast

from lmkit.complaint import INTERRUPTED, Complaint, one_line
from lmkit.process import end_with_launcher


class _Remarks(io.TextIOWrapper):
    """Standard error; what nobody reads, or a full disk does not take, ends no command."""

    def write(self, text: str) -> int:
        with suppress(OSError):
            super().write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            super().flush()


class _CtrlC:
    """What SIGINT does by default; remembers that it came.

    Modules that it breaks off while they load (torch's, most of all) may fail in ways of their own
    after it.
    """

    def __init__(self) -> None:
        self.came = False
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self)

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.came = True
        signal.default_int_handler(number, frame)


def run() -> None:
    """Run the command line and leave with its exit code; errors are one line each on stderr."""
    signal.signal(signal.SIGTERM, _terminated)
    ctrl_c = _CtrlC()
    end_with_launcher()
    sys.unraisablehook = _not_raised
    warnings.showwarning = _warned
    _prepare_streams()
    try:
        code = _flushed(_outcome(ctrl_c))
    except KeyboardInterrupt:  # while modules were loaded
        code = _interrupted()
    # All is said and written: who asks to leave now is not to change the code, nor see a traceback.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    if ctrl_c.came or os.environ.get("WORLD_SIZE", "1") != "1":
        _leave_at_once(code)
    sys.exit(code)


def _prepare_streams() -> None:
    """Let no character and no reader who has left be a failure."""
    if sys.stderr is not None:
        before = cast("io.TextIOWrapper", sys.stderr)
        encoding = before.encoding
        remarks = _Remarks(before.detach(), encoding, line_buffering=True)
        sys.stderr = sys.__stderr__ = remarks  # type: ignore[misc]  # as both are used
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            # A file's name or a model's text may hold what the terminal's encoding has no sign for.
            cast("io.TextIOWrapper", stream).reconfigure(errors="backslashreplace")


def _leave_at_once(code: int) -> NoReturn:
    """End a process that was interrupted, or trained with others, as it is.

    Taking the interpreter down, Python ends by SIGINT where that broke off code it compiled, though
    it was caught; torch runs such code while it loads. And gloo's threads may still hold tensors of
    Python's; giving them back to an interpreter that is being taken down aborts the process
    (pytorch/pytorch#179291), though all was done.
    """
    atexit._run_exitfuncs()  # what os._exit leaves out
    os._exit(code)


def _terminated(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _not_raised(unraisable: "sys.UnraisableHookArgs") -> None:
    """Send a signal again whose exception came where Python raises none, as in a weak reference.

    Such are made and dropped with every module that is loaded. A moment later, from a thread, or
    it would come in here.
    """
    kinds = {KeyboardInterrupt: signal.SIGINT, SystemExit: signal.SIGTERM}
    number = kinds.get(unraisable.exc_type)
    if number is None:
        sys.__unraisablehook__(unraisable)
        return
    again = threading.Timer(0.1, os.kill, (os.getpid(), number))
    again.daemon = True
    again.start()


def _warned(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """A warning that concerns the user's files is a note; one about code keeps Python's form."""
    if issubclass(category, UserWarning) and os.environ.get("LMKIT_DEBUG") != "1":
        told = f"note: {one_line(str(message))}\n"
    else:
        told = warnings.formatwarning(message, category, filename, lineno, line)
    (file or sys.stderr).write(told)


def _outcome(ctrl_c: _CtrlC) -> int:
    import click

    from lmkit.cli import call
    from lmkit.errors import LmkitError

    try:
        if "_LMKIT_COMPLETE" in os.environ:
            from lmkit.cli.completions import answer

            return answer()
        return call(sys.argv[1:], color=False if os.environ.get("NO_COLOR") else None)
    except LmkitError as error:
        return _fail(str(error), error.hint, error.exit_code, error)
    except click.ClickException as error:
        return _fail(*_said(error), error.exit_code, error)
    except (KeyboardInterrupt, click.Abort):
        return _interrupted()
    except Exception as error:  # noqa: BLE001 - the last door: no traceback leaves it
        return _interrupted() if ctrl_c.came else _unexpected(error)


def _interrupted() -> int:
    Complaint("interrupted", None, INTERRUPTED, "KeyboardInterrupt").say()
    return INTERRUPTED


def _unexpected(error: Exception) -> int:
    """An exception that no command has put into words: the system's refusal, or our mistake."""
    if isinstance(error, BrokenPipeError):
        _discard_output()
        return 0  # whoever read our output has seen enough
    if isinstance(error, MemoryError):
        return _fail(f"out of memory{f': {error}' if str(error) else ''}", None, 4, error)
    if isinstance(error, OSError):
        reason = (error.strerror or str(error)).lower()
        message = reason if error.filename is None else f"{error.filename}: {reason}"
        return _fail(message, None, 2 if isinstance(error, FileNotFoundError) else 4, error)
    hint = "this is a mistake in lmkit; with LMKIT_DEBUG=1 it shows where"
    return _fail(f"{type(error).__name__}: {error}".rstrip(": "), hint, 1, error)


def _flushed(code: int) -> int:
    """Write what is still held back of the output; a reader who has left does not mind."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        _discard_output()
    except OSError as error:
        _discard_output()
        return _fail(f"cannot write the output: {(error.strerror or '').lower()}", None, 4, error)
    return code


def _discard_output() -> None:
    """Keep the interpreter from writing, at its end, to where nobody reads."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _said(error: "object") -> tuple[str, str | None]:
    """Click's own words in our form: lower case, no full stop, suggestions as a hint."""
    import click

    message, hint = getattr(error, "message", ""), None
    if isinstance(error, click.exceptions.MissingParameter | click.BadParameter):
        message, _, choices = error.format_message().partition(". Choose from:")
        hint = f"it is one of {' '.join(choices.split())}" if choices else None
    near = getattr(error, "possibilities", None) or _near_choices(error)
    if near:
        hint = f"did you mean {' or '.join(sorted(near))}?"
    elif hint is None and isinstance(error, click.UsageError) and error.ctx is not None:
        hint = f"try {error.ctx.command_path} --help"
    message = message[:1].lower() + message[1:]
    return message.rstrip("."), hint


def _near_choices(error: "object") -> list[str]:
    """Of an option's choices those that are spelt much like what was typed."""
    import click

    from lmkit.cli.value_sources import near_misses

    if not isinstance(error, click.BadParameter) or error.param is None:
        return []
    typed = re.match(r"'(.+)' is not one of ", error.message)
    choices = error.param.type.choices if isinstance(error.param.type, click.Choice) else ()
    return near_misses(typed[1], map(str, choices)) if typed else []


def _fail(message: str, hint: str | None, code: int, error: BaseException) -> int:
    if os.environ.get("LMKIT_DEBUG") == "1":
        import traceback

        traceback.print_exception(error)
    Complaint(message, hint, code, type(error).__name__).say()
    return code


if __name__ == "__main__":
    run()
