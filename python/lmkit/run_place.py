"""The folder of a run, told by what is typed to begin it or go on with it; loads no torch."""

from collections.abc import Mapping
from pathlib import Path


def run_folder(settings: Mapping[str, object], default: str) -> str:
    """Where a run that is given these settings keeps its checkpoints.

    Args:
        settings: what is given, by name.
        default: where a new run does, unless told.
    """
    if "checkpoint_dir" in settings:
        return str(settings["checkpoint_dir"])
    typed = str(settings.get("load_checkpoint", "latest")).rstrip("/")
    if typed == "latest":
        return default
    return run_folder_of(f"{typed}/latest" if _holds_runs(Path(typed)) else typed)


def run_folder_of(checkpoint: str) -> str:
    """The run's folder, as typed: the checkpoint's own, or the one above ``superseded/``."""
    folder, slash, _ = checkpoint.rpartition("/")
    if not slash:
        return "."
    above, _, last = folder.rpartition("/")
    return (above or ".") if last == "superseded" else folder or "/"


def _holds_runs(path: Path) -> bool:
    """Whether it is a folder of checkpoints, and not a checkpoint that is one."""
    return path.is_dir() and path.suffix != ".dcp" and not (path / "checkpoint.json").exists()
