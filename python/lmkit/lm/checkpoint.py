"""A training state to one file and back; a torn or altered file is never taken for a whole one.

``checkpoint_<iter>.pt`` is what ``torch.save`` makes of tensors, numbers, strings and containers of
them, so that ``torch.load(weights_only=True)`` reads it and nothing is ever unpickled. Beside it
``checkpoint_<iter>.pt.json`` holds its size and sha256. The sidecar is put in place first; where it
replaces another it also names the file that was there, so that a crash between the two renames
leaves a pair that verifies.

Saving costs one pass of the state through sha256 and the disk, loading one more to verify.
Of a model that is cut over processes the checkpoint is a folder, ``checkpoint_<iter>.dcp``
(``sharded_checkpoint``); whoever reads by what is here need not know which it is.
"""

import hashlib
import json
import os
import pickle
import shlex
import warnings
import zipfile
from collections.abc import Callable, Mapping
from io import BufferedReader
from pathlib import Path
from typing import IO, Any, BinaryIO, TypeAlias, cast

import torch

from lmkit.config import from_dict
from lmkit.durable import durable_file, refused, sync_open, write_durably
from lmkit.errors import LmkitError, MismatchError, MissingFileError
from lmkit.lm.checkpoint_names import checkpoints_in, is_folder, sidecar_path
from lmkit.lm.distributed import Ranks
from lmkit.lm.document_mask import end_of_document_id
from lmkit.lm.model import Transformer
from lmkit.lm.optimizer import Optimizer
from lmkit.model_config import ModelConfig
from lmkit.setting import own_settings
from lmkit.tokenizer import Tokenizer

Notice: TypeAlias = Callable[[str], None]

TAKE_ANOTHER = (
    "take an earlier one; a folder as --checkpoint, or --load_checkpoint latest, "
    "takes the newest that is whole"
)


def save_checkpoint(
    model: torch.nn.Module,
    optimizer: Optimizer,
    iteration: int,
    out: str | os.PathLike[str] | BinaryIO | IO[bytes],
) -> None:
    """Save any module and optimizer, after ``iteration`` steps, to a path or a binary file."""
    state = {
        "model": uncompiled(model).state_dict(),
        "optimizer": optimizer.state_dict(),
        "iteration": int(iteration),
    }
    if isinstance(out, str | os.PathLike):
        write_checkpoint(Path(out), state)
    else:
        torch.save(state, out)


def load_checkpoint(
    src: str | os.PathLike[str] | BinaryIO | IO[bytes],
    model: torch.nn.Module,
    optimizer: Optimizer | None = None,
) -> int:
    """Put a saved state back into a module and its optimizer; the number of steps it had taken.

    Both are left as they were when the checkpoint is of another shape.
    """
    if isinstance(src, str | os.PathLike):
        state, name = read_checkpoint(src), os.fspath(src)
    else:
        state, name = unpack(src, "the checkpoint"), "the checkpoint"
    restore(state, model, optimizer, name)
    return int(state["iteration"])


def restore(
    state: Mapping[str, Any],
    model: torch.nn.Module,
    optimizer: Optimizer | None,
    name: str,
) -> None:
    """Copy the tensors of a checkpoint into a module and its optimizer, or touch neither."""
    model = uncompiled(model)
    differences = shape_differences(model.state_dict(), state["model"])
    if differences:
        raise MismatchError(f"{name} is of another model: {'; '.join(differences)}")
    if optimizer is not None:
        if "optimizer" not in state:
            raise MismatchError(f"{name} holds no optimizer's state")
        try:
            optimizer.load_state_dict(state["optimizer"])
        except ValueError as error:
            raise MismatchError(f"{name} is of another optimizer: {error}") from error
    model.load_state_dict(state["model"])


def load_model(
    path: str | os.PathLike[str], notice: Notice | None = None
) -> tuple[Transformer, Tokenizer]:
    """The model of a training run, on the CPU and ready to evaluate, with its tokenizer.

    Of a run that averages its weights it has the average, which is what the run evaluated.

    Args:
        path: a checkpoint, or a run folder, of which the newest that verifies is taken.
        notice: told what was passed over or not verified; None warns.

    Raises:
        MissingFileError: there is no checkpoint.
        MismatchError: it is damaged, or is not of a run.

    Examples:
        >>> model, tokenizer = load_model("checkpoints/")
        >>> model.training, model.context_length
        (False, 32)
        >>> tokenizer.decode(tokenizer.encode("a b"))
        'a b'
    """
    name, state = read_weights(path, notice)
    model = Transformer(run_shape(state, name))
    restore(state, model, None, name)
    if "average" in state:
        with torch.no_grad():
            for parameter_name, parameter in model.named_parameters():
                parameter.copy_(state["average"][parameter_name])
    stored: Mapping[str, Any] = state["config"]
    model.context_length = int(stored["context_length"])
    tokenizer = Tokenizer.from_json(state["tokenizer"])
    if stored.get("mask_documents"):
        model.document_end = end_of_document_id(tokenizer, "--mask_documents")
    return model.eval(), tokenizer


def run_shape(state: Mapping[str, Any], name: str) -> ModelConfig:
    """The model's shape, of the state of a training run; errors call the checkpoint ``name``."""
    missing = [part for part in ("config", "tokenizer") if part not in state]
    if missing:
        raise MismatchError(
            f"{name} holds no {' and no '.join(missing)}: it is not the checkpoint of a run",
            hint=f"lmkit import {shlex.quote(name)} DIR --tokenizer PATH --n_heads N makes a run's",
        )
    stored = state["config"]  # one from before a field was thought of has the model's default
    shape = {field: stored[field] for field in own_settings(ModelConfig) if field in stored}
    return from_dict(ModelConfig, shape)


def read_weights(
    path: str | os.PathLike[str], notice: Notice | None = None
) -> tuple[str, dict[str, Any]]:
    """The path and the state of a checkpoint, or of a folder's newest, but for its optimizer.

    Tensors are whole and on the CPU, also of a checkpoint that is cut over processes: ``model``,
    ``average`` with ``--ema_decay``, ``config``, ``tokenizer`` and what else the checkpoint holds.
    """
    if Path(path).is_dir() and not is_folder(path):
        name, state = read_latest(path, notice)
    else:
        name, state = os.fspath(path), read_outline(path, notice)
    return name, _with_tensors({k: v for k, v in state.items() if k != "optimizer"}, name)


def write_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write a state and its sidecar; afterwards either both are new or the old pair still holds."""
    with durable_file(path) as file:
        hashed = _HashedFile(file)
        torch.save(dict(state), cast("IO[bytes]", hashed))
        hashed.finish()
        sidecar: dict[str, Any] = {"size": hashed.size, "sha256": hashed.sha256.hexdigest()}
        if path.exists():
            sidecar["replaces"] = _identity(path)
        # torch.save is done and this block's end renames, so the sidecar is first by one rename.
        sync_open(file)
        write_durably(sidecar_path(path), json.dumps(sidecar, indent=1).encode() + b"\n")


def read_checkpoint(path: str | os.PathLike[str], notice: Notice | None = None) -> dict[str, Any]:
    """The state in a checkpoint, on the CPU, verified against its sidecar.

    ``notice`` is told when there is no sidecar to verify against; by default it is a warning.
    """
    return _with_tensors(read_outline(path, notice), path)


def read_outline(
    path: str | os.PathLike[str], notice: Notice | None = None, ranks: Ranks | None = None
) -> dict[str, Any]:
    """Do as `read_checkpoint`, but leave tensors that are cut on the disk, to be read by `fill`.

    Of several ``ranks`` all must call this; where one cannot read the checkpoint, none can.
    """
    ranks = ranks or Ranks()
    if is_folder(path):
        from lmkit.lm import sharded_checkpoint

        return sharded_checkpoint.read_outline(path, ranks)
    state: dict[str, Any] = {}
    failure: LmkitError | None = None
    try:
        state = _read_file(path, notice or _warn)
    except LmkitError as error:
        failure = error
    for other in ranks.gathered(failure):
        if other is not None:
            raise failure or other
    return state


def _with_tensors(outline: dict[str, Any], path: str | os.PathLike[str]) -> dict[str, Any]:
    """The whole of the tensors that were left on the disk."""
    if not is_folder(path):
        return outline
    from lmkit.lm.sharded_checkpoint import fill, whole

    return fill(outline, path, whole)


def _read_file(path: str | os.PathLike[str], notice: Notice) -> dict[str, Any]:
    typed = os.fspath(path)
    try:
        with Path(path).open("rb") as file:
            _verify(typed, file, notice)
            file.seek(0)
            return unpack(file, typed)
    except FileNotFoundError as error:
        raise MissingFileError(f"there is no checkpoint at {typed}") from error
    except OSError as error:
        raise refused("read", typed, error) from error


def verifies(path: Path) -> bool:
    """Whether a checkpoint is there, has a sidecar, and is what that says."""
    try:
        if is_folder(path):
            read_outline(path)
            return True
        with path.open("rb") as file:
            _verify(os.fspath(path), file, _refuse_unvouched)
    except (MismatchError, MissingFileError, OSError):
        return False
    return True


def iteration_of(path: Path) -> int:
    """The steps a checkpoint's model has taken, without reading its tensors."""
    if is_folder(path):
        from lmkit.lm.sharded_checkpoint import iteration_of_sharded

        return iteration_of_sharded(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return int(state["iteration"])
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, ValueError) as error:
        raise MismatchError(f"the checkpoint {path} cannot be read: {error}") from error
    except OSError as error:
        raise refused("read", path, error) from error


def read_latest(
    folder: str | os.PathLike[str], notice: Notice | None = None, ranks: Ranks | None = None
) -> tuple[str, dict[str, Any]]:
    """The newest checkpoint of a folder that verifies: its path and its state, see `read_outline`.

    The path begins as ``folder`` is typed. ``notice`` hears which checkpoints were passed over.
    """
    notice, typed, ranks = notice or _warn, os.fspath(folder), ranks or Ranks()
    candidates = ranks.from_first(checkpoints_in(Path(folder)))
    for _, path in candidates:
        name = f"{typed.rstrip('/')}/{path.name}"
        try:
            return name, read_outline(name, notice, ranks)
        except MismatchError as error:
            notice(f"passed over {path.name}: {error}")
    if candidates:
        raise MismatchError(f"none of the {len(candidates)} checkpoints in {typed} verifies")
    is_foreign = Path(folder, "config.json").exists()
    raise MissingFileError(
        f"there is no checkpoint in {typed}",
        hint=f"lmkit import {shlex.quote(typed)} DIR makes one of that model"
        if is_foreign
        else None,
    )


def uncompiled(model: torch.nn.Module) -> torch.nn.Module:
    """The module itself, so that no saved name begins with what ``torch.compile`` puts before."""
    inner = getattr(model, "_orig_mod", model)
    return inner if isinstance(inner, torch.nn.Module) else model


class _HashedFile:
    """Takes the sha256 of all that is written through it.

    An error of the disk is kept for ``finish``: raised inside ``torch.save`` it would be replaced
    there by an internal error about positions, and the reader would never learn the disk is full.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._error: OSError | None = None
        self.sha256 = hashlib.sha256()
        self.size = 0

    def write(self, content: bytes) -> int:
        if self._error is None:
            try:
                self._file.write(content)
            except OSError as error:
                self._error = error
            self.sha256.update(content)
        self.size += len(content)
        return len(content)

    def flush(self) -> None:
        """Nothing is held back here; the file is flushed when it is whole."""

    def finish(self) -> None:
        if self._error is not None:
            raise self._error


def _verify(typed: str, file: BufferedReader, notice: Notice) -> None:
    """Raise unless the sidecar vouches for the file; without a sidecar, say so."""
    sidecar_name = f"{typed}.json"
    try:
        sidecar = json.loads(Path(sidecar_name).read_bytes())
        vouched = [sidecar, sidecar["replaces"]] if "replaces" in sidecar else [sidecar]
        known = {(entry["size"], entry["sha256"]) for entry in vouched}
    except FileNotFoundError:
        notice(f"{typed} has no sidecar {sidecar_name}: loaded without verifying it")
        return
    except (ValueError, KeyError, TypeError) as error:
        if not zipfile.is_zipfile(file):  # a token file's sidecar has the same name
            raise MismatchError(
                f"{typed} is no checkpoint",
                hint=f"lmkit inspect {shlex.quote(typed)} tells what it is",
            ) from error
        raise MismatchError(f"the sidecar {sidecar_name} is damaged") from error
    size = os.fstat(file.fileno()).st_size
    if all(size != known_size for known_size, _ in known):
        raise MismatchError(
            f"the checkpoint {typed} is damaged: it has {size:,} bytes, "
            f"its sidecar says {sidecar['size']:,}",
            hint=TAKE_ANOTHER,
        )
    if (size, hashlib.file_digest(file, "sha256").hexdigest()) not in known:
        raise MismatchError(
            f"the checkpoint {typed} is damaged: its sha256 is not the one its sidecar holds",
            hint=TAKE_ANOTHER,
        )


def unpack(file: BinaryIO | IO[bytes], name: str) -> dict[str, Any]:
    """Read the archive ``torch.save`` made, taking nothing but plain data from it."""
    if not zipfile.is_zipfile(file):
        raise MismatchError(f"the checkpoint {name} is damaged: it is not a whole archive")
    file.seek(0)
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise MismatchError(
            f"{name} is not a checkpoint of lmkit: it holds more than plain data, which could run "
            "code when loaded"
        ) from error
    except OSError:
        raise
    except Exception as error:  # of damaged bytes torch's reader makes errors of almost any kind
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise MismatchError(f"the checkpoint {name} cannot be read: {reason}") from error
    missing = [key for key in ("model", "iteration") if key not in _mapping(state)]
    if missing:
        raise MismatchError(f"{name} is not a checkpoint of lmkit: it has no {missing[0]!r}")
    return dict(state)


def _mapping(state: object) -> Mapping[str, Any]:
    return state if isinstance(state, Mapping) else {}


def _identity(path: Path) -> dict[str, Any]:
    """Size and sha256 of a file as it stands."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"size": os.fstat(file.fileno()).st_size, "sha256": digest}


def shape_differences(
    ours: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor]
) -> list[str]:
    """A phrase for each parameter that only one side has or that differs in shape."""
    phrases = [f"it has no {name}" for name in ours.keys() - theirs.keys()]
    phrases += [f"the model has no {name}" for name in theirs.keys() - ours.keys()]
    phrases += [
        f"{name} is {tuple(theirs[name].shape)}, the model's {tuple(ours[name].shape)}"
        for name in ours.keys() & theirs.keys()
        if ours[name].shape != theirs[name].shape
    ]
    return sorted(phrases)


def _refuse_unvouched(sentence: str) -> None:
    raise MismatchError(sentence)


def _warn(sentence: str) -> None:
    warnings.warn(sentence, stacklevel=4)
