"""Every exception lmkit raises on purpose; the Rust core imports them from here.

One tree under :class:`LmkitError`. Each class knows the exit code the command line ends with, and
each error may carry a ``hint``: what to do about it, as one sentence.
"""


class LmkitError(Exception):
    """Something failed while working.

    Attributes:
        exit_code: what the command line exits with.
        hint: what to do about it, or None.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(LmkitError, ValueError):
    """Misuse: an option out of range, or an output that exists."""

    exit_code = 2


class MissingFileError(UsageError, FileNotFoundError):
    """An input that is not there."""


class MalformedError(LmkitError, ValueError):
    """An input that is not what it should be: not UTF-8, a bad vocabulary, an id out of range."""

    exit_code = 3


class SystemRefusedError(LmkitError, OSError):
    """The system refused: disk full, no permission, I/O error, locked by another run."""

    exit_code = 4


class MismatchError(LmkitError, ValueError):
    """Two files do not belong together, or a checkpoint is damaged."""

    exit_code = 5


class TrainingError(LmkitError):
    """Training failed while working, for example because the loss is no longer a number."""


class LostProcessError(TrainingError):
    """Another process of the run is gone; what became of it, that one may have said."""


def already_exists(path: object) -> UsageError:
    """The refusal to replace what is at ``path``."""
    return UsageError(
        f"{path}: already exists", hint="choose another name, or replace it with --force"
    )
