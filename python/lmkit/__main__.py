"""`python -m lmkit` and the console script: the command line, from arguments to exit code."""

import os
import signal
import sys
from types import FrameType


def run() -> None:
    """Run the command line and leave with its exit code; errors are one line each on stderr."""
    signal.signal(signal.SIGTERM, _terminated)
    sys.exit(_outcome())


def _terminated(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _outcome() -> int:  # noqa: PLR0911 - one return a way to end
    import click

    from lmkit.cli import main
    from lmkit.errors import LmkitError

    try:
        result = main.main(prog_name="lmkit", standalone_mode=False)
        sys.stdout.flush()
    except LmkitError as error:
        return _fail(str(error), error.hint, error.exit_code, error)
    except click.ClickException as error:
        return _fail(*_said(error), error.exit_code, error)
    except (KeyboardInterrupt, click.Abort):
        print("interrupted", file=sys.stderr)  # noqa: T201 - the last word of the command line
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # Whoever read our output has seen enough; keep the interpreter from flushing into nothing.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except MemoryError as error:
        return _fail(f"out of memory{f': {error}' if str(error) else ''}", None, 1, error)
    except OSError as error:
        return _fail(str(error), None, 4, error)
    return result if isinstance(result, int) else 0


def _said(error: "object") -> tuple[str, str | None]:
    """Click's own words in our form: lower case, no full stop, suggestions as a hint."""
    import click

    message, hint = getattr(error, "message", ""), None
    if isinstance(error, click.exceptions.MissingParameter | click.BadParameter):
        message = error.format_message()
    near = getattr(error, "possibilities", None)
    if near:
        hint = f"did you mean {' or '.join(sorted(near))}?"
    elif isinstance(error, click.UsageError) and error.ctx is not None:
        hint = f"try {error.ctx.command_path} --help"
    message = message[:1].lower() + message[1:]
    return message.rstrip("."), hint


def _fail(message: str, hint: str | None, code: int, error: BaseException) -> int:
    if os.environ.get("LMKIT_DEBUG") == "1":
        raise error
    print(f"error: {message}", file=sys.stderr)  # noqa: T201 - where errors belong
    if hint:
        print(f"hint: {hint}", file=sys.stderr)  # noqa: T201 - where errors belong
    return code


if __name__ == "__main__":
    run()
