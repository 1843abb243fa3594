"""A training state that is cut over processes, to one folder that each of them writes a part of.

``checkpoint_<iter>.dcp/`` holds what ``torch.distributed.checkpoint`` makes of the tensors that are
cut (``.metadata``, and ``__<rank>_0.distcp`` of each process), ``state.pt`` with all the rest of
the state, and ``checkpoint.json`` with the size and sha256 of each of these. All is written under
a temporary name that the first process changes once everything is there, so a folder with the
final name is whole. Any number of processes reads it, one too: each takes the rows it needs.

Writing costs each process one pass over its share, and one more to take the sha256 of what the
system says it wrote. Reading costs one pass to verify, which the processes share, and one to load.
"""

import hashlib
import json
import os
import pickle
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar, cast

import torch
from torch import Tensor, distributed
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from lmkit.durable import (
    TEMPORARY_SUFFIX,
    durable_file,
    refused,
    remove,
    sync_folder,
    write_durably,
)
from lmkit.errors import LmkitError, MismatchError, MissingFileError, TrainingError
from lmkit.lm.checkpoint import TAKE_ANOTHER, unpack
from lmkit.lm.checkpoint_names import MANIFEST
from lmkit.lm.distributed import Ranks

FORMAT = 1
METADATA = ".metadata"
REST = "state.pt"
STORED = "stored in"  # the key, in the rest of a state, of a tensor's name

Result = TypeVar("Result")

# All that a .metadata file may be made of; whatever else a pickle names is not looked up.
_DATA_CLASSES = {
    *(
        ("torch.distributed.checkpoint.metadata", name)
        for name in (
            "BytesStorageMetadata",
            "ChunkStorageMetadata",
            "Metadata",
            "MetadataIndex",
            "StorageMeta",
            "TensorProperties",
            "TensorStorageMetadata",
            "_MEM_FORMAT_ENCODING",
        )
    ),
    ("torch", "Size"),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch.serialization", "_get_layout"),
    ("pathlib", "Path"),
    ("pathlib", "PosixPath"),
    ("pathlib._local", "Path"),
    ("pathlib._local", "PosixPath"),
}


@dataclass(frozen=True)
class Stored:
    """A tensor of a state that is still on the disk.

    Attributes:
        name: what it is stored under.
        shape: of the whole tensor.
        dtype: its numbers' format.
    """

    name: str
    shape: torch.Size
    dtype: torch.dtype


class _GoneError(TrainingError):
    """Another process does not answer."""


def write_sharded(
    path: Path, state: Mapping[str, Any], ranks: Ranks, group: distributed.ProcessGroup | None
) -> None:
    """Write a state, each process its part of it; afterwards the folder is there, or all raise.

    Args:
        path: the folder to make, on a file system that all processes see.
        state: plain data, and tensors in the host's memory, those that are cut as DTensors.
        ranks: the processes; all must call this.
        group: over which to talk; of gloo, and used by nothing else at that time.
    """
    building = path.with_name(f".{path.name}{TEMPORARY_SUFFIX}")
    tensors, rest = _parted(state)

    def make() -> None:
        if ranks.is_first:
            remove(building)
            building.mkdir()

    def write() -> dict[str, dict[str, Any]]:
        writer = FileSystemWriter(building, single_file_per_rank=True, sync_files=True)
        save(tensors, storage_writer=writer, process_group=group)
        mine = building.glob(f"__{ranks.rank}_*.distcp")
        return {one.name: _identity(one) for one in mine}

    def finish(written: list[dict[str, dict[str, Any]]]) -> None:
        if ranks.is_first:
            files = {name: known for part in written for name, known in part.items()}
            _complete(building, path, rest, files)

    try:
        all_do(make, path, ranks, group)
        written = all_do(write, path, ranks, group)
        all_do(lambda: finish(written), path, ranks, group)
    except _GoneError:
        if not ranks.is_first or building.exists():
            raise
        # It is whole, and who else is gone is for the run to find out.
    except BaseException:
        if ranks.is_first:
            remove(building)
        raise


def read_outline(
    path: str | os.PathLike[str], ranks: Ranks | None = None, *, verify: bool = True
) -> dict[str, Any]:
    """The state in a folder, a `Stored` in the place of each tensor that is cut.

    Everything is verified, unless it was before (``verify`` is off). Several ``ranks`` share the
    work, and all must call this.
    """
    typed = os.fspath(path).rstrip("/")
    files = _files(typed)
    if verify:
        _verify(typed, files, ranks or Ranks())
    with (Path(typed) / REST).open("rb") as file:
        rest = unpack(file, f"{typed}/{REST}")
    known = _Reader(typed, files).read_metadata().state_dict_metadata
    return cast("dict[str, Any]", _with(rest, lambda name: _stored(name, known, typed)))


def fill(
    outline: Mapping[str, Any], path: str | os.PathLike[str], make: Callable[[Stored], Tensor]
) -> dict[str, Any]:
    """The outline with its tensors read; ``make`` gives an empty one for each, cut or whole.

    Of a tensor that is cut only the rows of this process are read.
    """
    typed = os.fspath(path).rstrip("/")
    tensors: dict[str, Tensor] = {}

    def made(value: object) -> object:
        if isinstance(value, Stored):
            if value.name not in tensors:
                tensors[value.name] = make(value)
            return tensors[value.name]
        if isinstance(value, Mapping):
            return {key: made(one) for key, one in value.items()}
        return value

    filled = {key: made(value) for key, value in outline.items()}
    if tensors:
        with warnings.catch_warnings():  # that each process reads for itself is what is wanted
            warnings.filterwarnings("ignore", "torch.distributed is disabled")
            reader = _Reader(typed, _files(typed))
            try:
                load(cast("dict[str, Any]", tensors), storage_reader=reader, no_dist=True)
            except CheckpointException as error:
                raise _plain(error, typed, verb="read") from error
    return filled


def whole(stored: Stored) -> Tensor:
    """An empty tensor for all of a stored one, in the host's memory."""
    return torch.empty(stored.shape, dtype=stored.dtype)


def read_metadata(path: Path) -> Metadata:
    """Which rows of which tensor stand where in a folder, by its ``.metadata``."""
    try:
        with path.open("rb") as file:
            metadata = cast("Metadata", _DataOnly(file).load())
        _ = metadata.state_dict_metadata, metadata.storage_data.items()
    except (pickle.UnpicklingError, EOFError, AttributeError, TypeError, ValueError) as error:
        raise MismatchError(f"{path} cannot be read: {error}", hint=TAKE_ANOTHER) from error
    return metadata


def iteration_of_sharded(path: Path) -> int:
    """The steps the model has taken, by the manifest alone."""
    return int(_manifest(os.fspath(path))["iteration"])


def all_do(
    work: Callable[[], Result],
    path: Path,
    ranks: Ranks,
    group: distributed.ProcessGroup | None,
) -> list[Result]:
    """What each process made of its work, by rank; where one fails all raise the same error."""
    made: Result | None = None
    failure: LmkitError | None = None
    try:
        made = work()
    except (Exception, CheckpointException) as error:  # noqa: BLE001 - told to all, raised by all
        failure = _plain(error, path)
        failure.__cause__ = error
    try:
        told = ranks.gathered((made, failure), group)
    except RuntimeError as error:
        raise failure or _GoneError(
            f"cannot write {path}: another process is gone ({str(error).splitlines()[0]})"
        ) from error
    for _, other in told:
        if other is not None:
            raise failure or other
    return [cast("Result", result) for result, _ in told]


def _parted(state: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The tensors that are cut, by name, and the state with these names in their places.

    A tensor that stands in several places, such as a tied weight, is stored once.
    """
    names: dict[int, str] = {}
    tensors: dict[str, Any] = {}

    def part(value: object, name: str) -> object:
        if hasattr(value, "to_local"):
            if id(value) not in names:
                names[id(value)], tensors[name] = name, value
            return {STORED: names[id(value)]}
        if isinstance(value, Mapping):
            return {key: part(one, f"{name}.{key}") for key, one in value.items()}
        return value

    rest = {key: part(value, key) for key, value in state.items()}
    return tensors, rest


def _with(rest: object, stored: Callable[[str], Stored]) -> object:
    """The rest of a state with what is made of each name in the places of tensors."""
    if not isinstance(rest, Mapping):
        return rest
    if rest.keys() == {STORED}:
        return stored(rest[STORED])
    return {key: _with(one, stored) for key, one in rest.items()}


def _stored(name: str, known: Mapping[str, object], typed: str) -> Stored:
    entry = known.get(name)
    if not isinstance(entry, TensorStorageMetadata):
        raise MismatchError(f"the checkpoint {typed} is damaged: it has no tensor {name!r}")
    return Stored(name, entry.size, entry.properties.dtype)


def _complete(
    building: Path, path: Path, rest: Mapping[str, Any], files: dict[str, dict[str, Any]]
) -> None:
    """Add what is not cut and the manifest, and give the folder its name."""
    missing = sorted(name for name in files if not (building / name).exists())
    if missing:
        raise TrainingError(
            f"cannot write {path}: {missing[0]}, which another process wrote, is not there",
            hint="--parallel fsdp needs a --checkpoint_dir that the machines of all processes see",
        )
    with durable_file(building / REST) as file:
        torch.save(dict(rest), cast("IO[bytes]", file))
    files |= {name: _identity(building / name) for name in (METADATA, REST)}
    manifest = {"format": FORMAT, "iteration": int(rest["iteration"]), "files": files}
    write_durably(building / MANIFEST, json.dumps(manifest, indent=1, sort_keys=True).encode())
    replaced = path.with_name(f".{path.name}.replaced")
    if path.exists():
        remove(replaced)
        path.replace(replaced)
    building.replace(path)
    sync_folder(path.parent)
    remove(replaced)


def _identity(path: Path) -> dict[str, Any]:
    """Size and sha256 of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"size": os.fstat(file.fileno()).st_size, "sha256": digest}


def _plain(error: BaseException, path: object, verb: str = "write") -> LmkitError:
    """An error of the disk, or of torch's about several processes, as one of ours."""
    if isinstance(error, LmkitError):
        return error
    if isinstance(error, CheckpointException):
        wrapped = dict(sorted(error.failures.items()))
        for one, _ in wrapped.values():
            if isinstance(one, OSError):
                return refused(verb, os.fspath(cast("str", path)), one)
        error = next(iter(wrapped.values()))[0] if wrapped else error
    if isinstance(error, OSError):
        return refused(verb, os.fspath(cast("str", path)), error)
    said = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return TrainingError(f"cannot {verb} {path}: {said}")


def _manifest(typed: str) -> dict[str, Any]:
    name = f"{typed}/{MANIFEST}"
    try:
        manifest = json.loads(Path(name).read_bytes())
        version = manifest["format"]
    except FileNotFoundError as error:
        if not Path(typed).exists():
            raise MissingFileError(f"there is no checkpoint at {typed}") from error
        raise MismatchError(
            f"the checkpoint {typed} is damaged: it has no {MANIFEST}", hint=TAKE_ANOTHER
        ) from error
    except OSError as error:
        raise refused("read", name, error) from error
    except (ValueError, KeyError, TypeError) as error:
        raise MismatchError(f"the manifest {name} is damaged", hint=TAKE_ANOTHER) from error
    if version != FORMAT:
        raise MismatchError(
            f"the checkpoint {typed} has format {version}, this version of lmkit reads {FORMAT}",
            hint="upgrade lmkit",
        )
    return cast("dict[str, Any]", manifest)


def _files(typed: str) -> dict[str, dict[str, Any]]:
    """The files of a folder as its manifest has them; their names stay inside the folder."""
    manifest = _manifest(typed)
    try:
        files = {
            str(name): {"size": int(known["size"]), "sha256": str(known["sha256"])}
            for name, known in manifest["files"].items()
        }
        int(manifest["iteration"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise MismatchError(
            f"the manifest {typed}/{MANIFEST} is damaged", hint=TAKE_ANOTHER
        ) from error
    outside = [name for name in files if Path(name).name != name]
    if outside or not {METADATA, REST} <= files.keys():
        raise MismatchError(
            f"the manifest {typed}/{MANIFEST} is damaged: "
            f"{f'{outside[0]} is no file of the folder' if outside else 'files are missing'}"
        )
    return files


def _verify(typed: str, files: Mapping[str, Mapping[str, Any]], ranks: Ranks) -> None:
    """Raise, in all processes, unless all files are what the manifest says."""
    failure: LmkitError | None = None
    for name in sorted(files)[ranks.rank :: ranks.count]:
        try:
            found = _identity(Path(typed) / name)
        except FileNotFoundError:
            failure = MismatchError(
                f"the checkpoint {typed} is damaged: {name} is missing", hint=TAKE_ANOTHER
            )
            break
        except OSError as error:
            failure = refused("read", f"{typed}/{name}", error)
            break
        if found != files[name]:
            failure = MismatchError(
                f"the checkpoint {typed} is damaged: {name} is not what {MANIFEST} says",
                hint=TAKE_ANOTHER,
            )
            break
    for other in ranks.gathered(failure):
        if other is not None:
            raise other


class _Reader(FileSystemReader):
    """Reads tensors; of the pickle that describes them only plain data is taken."""

    def __init__(self, typed: str, files: Mapping[str, object]) -> None:
        super().__init__(typed)
        self._typed = typed
        self._known = files

    def read_metadata(self, *_: Any, **__: Any) -> Metadata:  # noqa: ANN401 - torch's signature
        """What the folder holds."""
        name = f"{self._typed}/{METADATA}"
        metadata = read_metadata(Path(name))
        named = {one.relative_path for one in metadata.storage_data.values()}
        strange = named - self._known.keys()
        if strange:
            raise MismatchError(f"{name} speaks of {min(strange)}, which is not of the folder")
        return metadata


class _DataOnly(pickle.Unpickler):
    """Builds torch's descriptions of tensors, and nothing else that a pickle may name."""

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401 - any class
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if (module, name) in _DATA_CLASSES or is_dtype:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(
            f"it holds more than plain data ({module}.{name}), which could run code when loaded"
        )
