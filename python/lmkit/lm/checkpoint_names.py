"""What checkpoints are called: a file and its sidecar, or a folder where the model is cut.

A run folder may hold both kinds, as a run may go on with another number of processes. Of one step
it keeps one: the later, in whose place the other is removed.
"""

import os
import re
import shutil
from pathlib import Path

from lmkit.durable import TEMPORARY_SUFFIX, refused

CHECKPOINT_NAME = re.compile(r"checkpoint_(\d+)\.(pt|dcp)")
BEST_NAMES = ("best.pt", "best.dcp")
MANIFEST = "checkpoint.json"  # in the folder of a checkpoint that is cut


def checkpoints_in(folder: Path) -> list[tuple[int, Path]]:
    """The checkpoints of a folder with their iterations, newest first."""
    if not folder.is_dir():
        return []
    found = ((CHECKPOINT_NAME.fullmatch(path.name), path) for path in folder.iterdir())
    return sorted(((int(match[1]), path) for match, path in found if match), reverse=True)


def is_folder(path: str | os.PathLike[str]) -> bool:
    """Whether a path is of a checkpoint that is cut, a folder, rather than of a file or a run."""
    path = Path(path)
    return path.is_dir() and (path.suffix == ".dcp" or (path / MANIFEST).exists())


def checkpoint_name(iteration: int, *, cut: bool) -> str:
    """The name of the checkpoint after ``iteration`` steps, of a model that is cut or whole."""
    return f"checkpoint_{iteration}.{'dcp' if cut else 'pt'}"


def twin_of(path: Path) -> Path:
    """Where the same checkpoint of the other kind would stand."""
    return path.with_suffix(".pt" if path.suffix == ".dcp" else ".dcp")


def remove_checkpoint(path: Path) -> None:
    """Remove a checkpoint with its sidecar, at once under its own name; none there is no error."""
    try:
        if path.is_dir():
            doomed = path.with_name(f".{path.name}.removed{TEMPORARY_SUFFIX}")
            shutil.rmtree(doomed, ignore_errors=True)
            path.rename(doomed)
            shutil.rmtree(doomed)
        else:
            # The checkpoint first: if this is cut short, what stays behind is a sidecar alone.
            path.unlink(missing_ok=True)
            sidecar_path(path).unlink(missing_ok=True)
    except OSError as error:
        raise refused("remove", path, error) from error


def sidecar_path(path: Path) -> Path:
    """Where the size and sha256 of a checkpoint stand."""
    return path.with_name(f"{path.name}.json")


def recover_replaced(folder: Path) -> None:
    """Put back what a killed run was about to replace, where the new folder had not come yet."""
    for old in folder.glob(".*.dcp.replaced"):
        final = folder / old.name.removeprefix(".").removesuffix(".replaced")
        if final.exists():
            shutil.rmtree(old)
        else:
            old.rename(final)
