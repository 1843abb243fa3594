"""Named tensors to safetensors files and back, a shard in memory at a time.

Files above a limit are split as Hugging Face splits them: ``model-00001-of-00002.safetensors`` and
so on, with ``model.safetensors.index.json`` to say which holds what. Reading takes either, and
nothing else: formats that hold pickles are refused, for unpickling can run anything.

Writing costs one copy of the largest shard.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lmkit.durable import refused, sync_file
from lmkit.errors import MalformedError, MissingFileError, SystemRefusedError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
FLOATS = (torch.float32, torch.bfloat16, torch.float16)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write one safetensors file and sync it; tensors are made contiguous."""
    try:
        # The library writes another file and renames it, readable for its owner alone.
        path.touch()
        mode = path.stat().st_mode
        save_file({n: t.contiguous() for n, t in tensors.items()}, path, dict(metadata))
        path.chmod(mode)
        sync_file(path)
    except OSError as error:
        raise refused("write", path, error) from error
    except SafetensorError as error:  # which is what a full disk becomes in there
        reason = str(error).removeprefix("Error while serializing: I/O error: ")
        raise SystemRefusedError(f"cannot write {path}: {reason}") from error


def write_shards(
    folder: Path,
    sizes: Mapping[str, int],
    make: Callable[[str], Tensor],
    max_shard_size: int,
) -> list[str]:
    """Write tensors into a folder, split where they are larger than a shard may be.

    Args:
        folder: where to write.
        sizes: the bytes of each tensor by its name, in the order of writing.
        make: gives a tensor by its name, when its shard is written.
        max_shard_size: the most bytes a shard holds; a tensor larger than this has its own.

    Returns:
        The names of the files.
    """
    shards = _split(sizes, max_shard_size)
    if len(shards) == 1:
        names = [SINGLE]
    else:
        names = [f"model-{n:05}-of-{len(shards):05}.safetensors" for n in range(1, len(shards) + 1)]
    for file, shard in zip(names, shards, strict=True):
        write_tensors(folder / file, {name: make(name) for name in shard}, {"format": "pt"})
    if len(shards) == 1:
        return names
    placed = {name: file for file, shard in zip(names, shards, strict=True) for name in shard}
    index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": placed}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return [*names, INDEX]


def _split(sizes: Mapping[str, int], limit: int) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    held = 0
    for name, size in sizes.items():
        if shards[-1] and held + size > limit:
            shards.append([])
            held = 0
        shards[-1].append(name)
        held += size
    return shards


def read_metadata(path: Path) -> dict[str, str]:
    """What a safetensors file says of itself."""
    with _opened(path) as file:
        return dict(file.metadata() or {})


def read_folder(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """All tensors of a folder of Hugging Face, one at a time.

    Raises:
        MissingFileError: there are none, or a shard is not there.
        MalformedError: a file is not what it should be.
    """
    if not (folder / INDEX).exists():
        if not (folder / SINGLE).exists():
            raise _no_weights(folder)
        yield from read_tensors(folder / SINGLE)
        return
    placed = _weight_map(folder / INDEX)
    for file in dict.fromkeys(placed.values()):
        expected = {name for name, place in placed.items() if place == file}
        found = set()
        for name, tensor in read_tensors(folder / file):
            found.add(name)
            if name in expected:
                yield name, tensor
        if expected - found:
            raise MalformedError(
                f"{folder / file} lacks {min(expected - found)}, which {INDEX} places there"
            )


def read_tensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    """The tensors of one file, one at a time; other numbers than floats of 16 or 32 bits fail."""
    with _opened(path) as file:
        for name in file.keys():  # noqa: SIM118 - not a mapping
            try:
                tensor: Tensor = file.get_tensor(name)
            except SafetensorError as error:
                raise MalformedError(f"{path}: {name} cannot be read: {error}") from error
            if tensor.dtype not in FLOATS:
                kind = str(tensor.dtype).removeprefix("torch.")
                raise MalformedError(
                    f"{path}: {name} holds {kind}; float32, bfloat16 and float16 are read"
                )
            yield name, tensor


def _opened(path: Path) -> "AbstractContextManager[Any]":
    try:
        opened: AbstractContextManager[Any] = safe_open(path, framework="pt")
    except FileNotFoundError as error:
        raise MissingFileError(f"there is no {path}") from error
    except OSError as error:
        raise refused("read", path, error) from error
    except SafetensorError as error:
        raise MalformedError(f"{path} is not a whole safetensors file: {error}") from error
    return opened


def _weight_map(index: Path) -> dict[str, str]:
    """Which file holds which tensor; files outside the index's own folder are refused."""
    try:
        placed = json.loads(index.read_bytes())["weight_map"]
        files = set(placed.values())
    except OSError as error:
        raise refused("read", index, error) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise MalformedError(f"{index} is no index of safetensors files") from error
    for file in files:
        if not isinstance(file, str) or Path(file).name != file:
            raise MalformedError(f"{index} names the file {file!r} outside its folder")
    return dict(placed)


def _no_weights(folder: Path) -> MissingFileError:
    pickles = sorted(file.name for pattern in PICKLES for file in folder.glob(pattern))
    if not pickles:
        return MissingFileError(f"{folder} has neither {SINGLE} nor {INDEX}")
    return MissingFileError(
        f"{folder} has its weights only in {pickles[0]}, a pickle, which can run code when loaded",
        hint="where you trust it, transformers' from_pretrained and save_pretrained make "
        f"{SINGLE} of it",
    )
