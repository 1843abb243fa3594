"""What there is to read: a token file of any format as rows of ids, and what is known of them."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lmkit.errors import MalformedError, UsageError
from lmkit.token_file import Sidecar, TokenReader, read_sidecar
from lmkit.token_formats import llmc, megatron
from lmkit.token_formats.document_ends import DocumentEnds, StoredEnds
from lmkit.token_formats.stretch import Stretch, size_of

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclass(frozen=True)
class TokenSource:
    """Ids in one file or several, one after another.

    Attributes:
        name: as typed.
        format: one of :data:`lmkit.token_formats.READ`.
        stretches: where they are.
        ends: where documents end, if the format says so.
        sidecar: what lmkit's own files say of themselves.
    """

    name: str
    format: str
    stretches: list[Stretch]
    ends: DocumentEnds | None = None
    sidecar: Sidecar | None = None

    @property
    def tokens(self) -> int:
        """How many ids there are."""
        return sum(stretch.count for stretch in self.stretches)

    @property
    def dtype(self) -> str:
        """How they are stored: the widest of the files'."""
        dtypes = [stretch.dtype for stretch in self.stretches]
        return max(dtypes, key=lambda dtype: dtype.itemsize).name if dtypes else "int32"

    def blocks(self) -> Iterator["npt.NDArray[np.integer]"]:
        """All ids, in blocks."""
        for stretch in self.stretches:
            yield from stretch.blocks()


def open_source(path: str | os.PathLike[str], format: str) -> TokenSource:  # noqa: A002 - its name
    """Open what is at ``path``; headers and sizes are checked.

    Args:
        path: a file, a glob (of ``nanogpt`` and ``llmc``), a folder (of ``shards``), and for
            ``megatron`` either of the two files or the name that they share.
        format: one of :data:`lmkit.token_formats.READ`.

    Raises:
        MissingFileError: a file is not there.
        MalformedError: it is not of this format, or is torn.
    """
    name = os.fspath(path)
    if format in {"npy", "bin"}:
        return _own(name, format)
    if format == "shards":
        return _shards(name)
    if format == "megatron":
        index = megatron.open_index(Path(path))
        return TokenSource(name, format, [index.ids], index)
    if format not in {"nanogpt", "llmc"}:
        raise UsageError(f"{format!r} is no format that is read")
    of_one = llmc.stretch if format == "llmc" else _nanogpt
    return TokenSource(name, format, [of_one(file) for file in llmc.files(path)])


def ends_path(path: str | os.PathLike[str]) -> Path:
    """Where the document ends of a token file of lmkit's are: ``NAME.docs.npy``."""
    return Path(path).with_suffix(".docs.npy")


def _own(name: str, format: str) -> TokenSource:  # noqa: A002 - its name
    is_npy = name.endswith(".npy")
    if (format == "npy") is not is_npy:
        raise UsageError(f"{name}: lmkit's {format} files end in .{format}")
    with TokenReader(name) as reader:
        stretch = Stretch(name, reader.dtype, size_of(name) - _bytes(reader), len(reader))
        sidecar = reader.sidecar
    ends = None
    if ends_path(name).exists():
        ends = StoredEnds([(_stored_ends(ends_path(name)), stretch.count)])
    return TokenSource(name, format, [stretch], ends, sidecar)


def _bytes(reader: TokenReader) -> int:
    return len(reader) * reader.dtype.itemsize


def _stored_ends(path: Path) -> Stretch:
    with TokenReader(path) as reader:
        return Stretch(os.fspath(path), reader.dtype, size_of(path) - _bytes(reader), len(reader))


def _nanogpt(path: Path) -> Stretch:
    import numpy as np

    size = size_of(path)
    if size % 2:
        raise MalformedError(f"{path}: {size:,} bytes are no whole number of uint16 tokens")
    sidecar = read_sidecar(path)
    if sidecar is not None and sidecar.dtype != "uint16":
        raise MalformedError(
            f"{path}: its sidecar speaks of {sidecar.dtype}, and nanoGPT's files are uint16",
            hint="--from bin takes the sidecar's word",
        )
    return Stretch(os.fspath(path), np.dtype("<u2"), 0, size // 2)


def _shards(name: str) -> TokenSource:
    from lmkit.shards.manifest import read_manifest

    manifest = read_manifest(name)
    stretches, ends = [], []
    for shard in manifest.shards:
        with TokenReader(Path(name, manifest.token_file(shard))) as reader:
            offset = size_of(reader.path) - _bytes(reader)
            stretches.append(Stretch(reader.path, reader.dtype, offset, len(reader)))
        if len(reader) != shard.tokens:
            raise MalformedError(
                f"{reader.path}: holds {len(reader):,} tokens, and the manifest speaks of "
                f"{shard.tokens:,}"
            )
        ends.append((_stored_ends(Path(name, manifest.document_ends_file(shard))), shard.tokens))
    sidecar = Sidecar(
        dtype=manifest.dtype,
        tokens=manifest.tokens,
        documents=manifest.documents,
        text_bytes=manifest.text_bytes,
        smallest_id=manifest.smallest_id,
        largest_id=manifest.largest_id,
        tokenizer=manifest.tokenizer,
        vocab_size=manifest.vocab_size,
        inputs=list(manifest.inputs),
    )
    return TokenSource(name, "shards", stretches, StoredEnds(ends), sidecar)
