"""One token file → another, block by block, every id checked against what the target can hold."""

import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmkit.durable import refused
from lmkit.errors import LmkitError, MalformedError, MismatchError, UsageError
from lmkit.token_file import sidecar_path
from lmkit.token_formats import detect, llmc
from lmkit.token_formats.document_ends import DocumentEnds, EndsAfter, OneDocument
from lmkit.token_formats.outputs import Outputs, check_outputs
from lmkit.token_formats.sinks import (
    ArraySink,
    Facts,
    LlmcSink,
    MegatronSink,
    RawSink,
    Sink,
    TextSink,
    files_of,
)
from lmkit.token_formats.sources import TokenSource, ends_path, open_source

if TYPE_CHECKING:
    from lmkit.tokenizer import Tokenizer

SEPARATOR = "<|endoftext|>"
_DTYPES = {
    "npy": ("int32", "uint16", "uint32"),
    "bin": ("int32", "uint16", "uint32"),
    "nanogpt": ("uint16",),
    "llmc": ("uint16", "uint32"),
    "megatron": ("uint16", "int32"),
    "text": (),
}


@dataclass(frozen=True)
class _Ask:
    """What the caller wants of the target."""

    target: Path
    format: str
    dtype: str | None
    tokenizer: "Tokenizer | None"
    shard_tokens: int | None
    force: bool


def convert(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    from_format: str | None = None,
    to_format: str | None = None,
    dtype: str | None = None,
    tokenizer: "Tokenizer | None" = None,
    end_of_document: str | None = None,
    shard_tokens: int | None = None,
    force: bool = False,
    progress: Callable[[int, int, int], object] | None = None,
) -> dict[str, Any]:
    """Write the ids of one token file as another, in bounded memory.

    Args:
        source: what to read: a file, a folder of shards, a glob (of ``llmc`` and ``nanogpt``).
        target: what to write; nothing of it is there before all of it is.
        from_format: one of :data:`READ`; None: by name and content.
        to_format: one of :data:`WRITTEN`; None: by name.
        dtype: ``"int32"``, ``"uint16"`` or ``"uint32"``. None: lmkit's own files keep that of the
            source where they can; ``llmc`` and ``megatron`` take uint16 where all ids fit.
        tokenizer: what the ids were made with: decodes them for ``text``, names special tokens, and
            goes into the sidecar.
        end_of_document: documents end after this token (one of the tokenizer's special tokens, or
            an id in digits); empty: it is all one document; None: as the source says, else after
            the tokenizer's ``<|endoftext|>``.
        shard_tokens: ids a file of ``llmc``; None: as many as its header can count.
        force: replace what is there already.
        progress: called as ``progress(0, tokens_done, tokens_total)`` after each block.

    Returns:
        ``from`` and ``to`` (formats), ``tokens``, ``documents`` (None where unknown), ``dtype``,
        ``smallest_id``, ``largest_id``, ``files``, ``ends_kept`` (where documents end; None where
        that is not known).

    Raises:
        MissingFileError: an input is not there.
        MalformedError: an input is not of its format, or an id does not fit the target.
        MismatchError: the ids were made with another tokenizer.
        UsageError: an output exists, or options that do not go together.
        SystemRefusedError: the system refused a read or a write.

    Examples:
        >>> convert("train.npy", "train", to_format="megatron", end_of_document="50256")
        ... # doctest: +SKIP
    """
    opened = open_source(source, from_format or detect.source_format(source))
    written = to_format or detect.target_format(target)
    ask = _Ask(Path(target), written, dtype, tokenizer, shard_tokens, force)
    _check(ask, opened)
    paths = _paths(ask, opened.tokens)
    beside = _beside(ask, paths)
    check_outputs([*paths, *beside], force=force)
    ends = _ends(ask, opened, end_of_document)
    stored = _dtype(ask, opened)
    spool = closing(ends) if isinstance(ends, EndsAfter) else nullcontext()
    with _naming(opened.name, target), Outputs() as outputs, spool:
        sink = _sink(ask, opened, outputs, paths, stored)
        smallest, largest = _copy(ask, opened, sink, ends, stored, progress)
        sidecar = opened.sidecar
        facts = Facts(
            ends.count() if ends is not None else sidecar.documents if sidecar else None,
            sidecar.text_bytes if sidecar else None,
            smallest,
            largest,
            tokenizer.fingerprint if tokenizer else sidecar.tokenizer if sidecar else None,
            tokenizer.vocab_size if tokenizer else sidecar.vocab_size if sidecar else None,
            sidecar.inputs if sidecar and sidecar.inputs else [opened.name],
        )
        sink.finish(ends, facts)
        outputs.put_in_place(stale=[*paths[1:], *beside])
    return {
        "from": opened.format,
        "to": written,
        "tokens": opened.tokens,
        "documents": facts.documents,
        "dtype": stored or None,
        "smallest_id": smallest,
        "largest_id": largest,
        "files": [os.fspath(path) for path in paths],
        "ends_kept": None if ends is None else written in {"npy", "bin", "megatron"},
    }


@contextmanager
def _naming(source: str, target: str | os.PathLike[str]) -> Iterator[None]:
    """Name the files in what the system refuses of one that is open, which it does not name."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or isinstance(error, LmkitError):
            raise
        raise refused(f"turn {source} into", os.fspath(target), error) from error


def _check(ask: _Ask, source: TokenSource) -> None:
    if ask.format not in detect.WRITTEN:
        raise UsageError(f"{ask.format!r} is no format that is written")
    if ask.format in {"npy", "bin"} and ask.target.suffix != f".{ask.format}":
        raise UsageError(f"{ask.target}: lmkit's {ask.format} files end in .{ask.format}")
    if ask.dtype is not None and ask.dtype not in _DTYPES[ask.format]:
        held = ", ".join(_DTYPES[ask.format]) or "no numbers"
        raise UsageError(f"--dtype {ask.dtype}: {ask.format} files hold {held}")
    if ask.shard_tokens is not None and ask.format != "llmc":
        raise UsageError("--shard_tokens has no effect but on llmc")
    if ask.shard_tokens is not None and not 0 < ask.shard_tokens <= llmc.MOST_TOKENS:
        raise UsageError(
            f"--shard_tokens must be from 1 to {llmc.MOST_TOKENS}, not {ask.shard_tokens}"
        )
    if ask.format == "text" and ask.tokenizer is None:
        raise UsageError(
            "ids become text with a tokenizer", hint="pass --tokenizer, the one that made them"
        )
    made_with = source.sidecar.tokenizer if source.sidecar else None
    if ask.tokenizer and made_with and made_with != ask.tokenizer.fingerprint:
        raise MismatchError(
            f"{source.name}: made with another tokenizer: its sidecar has fingerprint "
            f"{made_with[:12]}, this tokenizer {ask.tokenizer.fingerprint[:12]}"
        )
    inputs = {os.path.realpath(stretch.path) for stretch in source.stretches}
    if any(os.path.realpath(path) in inputs for path in _paths(ask, source.tokens)):
        raise UsageError("the output is one of the inputs")


def _paths(ask: _Ask, tokens: int) -> list[Path]:
    parts = max(1, -(-tokens // (ask.shard_tokens or llmc.MOST_TOKENS)))
    return list(files_of(ask.target, ask.format, parts, numbered=ask.shard_tokens is not None))


def _ends(ask: _Ask, source: TokenSource, asked: str | None) -> DocumentEnds | None:
    """Where documents end, as far as that is known or wanted."""
    folder = ask.target.parent
    if asked is not None:
        if ask.format not in {"npy", "bin", "megatron"}:
            raise UsageError(
                f"--end_of_document has no effect: {ask.format} keeps no document ends"
            )
        if not asked:
            return OneDocument(source.tokens)
        return EndsAfter(_id_of(asked, ask.tokenizer), folder)
    if source.ends is not None or ask.format != "megatron":
        return source.ends
    specials = ask.tokenizer.special_tokens if ask.tokenizer else {}
    if SEPARATOR in specials:
        return EndsAfter(specials[SEPARATOR], folder)
    raise UsageError(
        f"{source.name}: nothing says where its documents end, which Megatron's index holds",
        hint="--end_of_document names the token that ends one; '' takes it all as one document",
    )


def _id_of(asked: str, tokenizer: "Tokenizer | None") -> int:
    specials = tokenizer.special_tokens if tokenizer else {}
    if asked in specials:
        return specials[asked]
    with suppress(ValueError):
        return int(asked)
    if tokenizer is None:
        raise UsageError(
            f"--end_of_document {asked}: no tokenizer says which id that is",
            hint="pass --tokenizer, or the id itself",
        )
    raise UsageError(f"--end_of_document {asked!r} is not one of the special tokens")


def _dtype(ask: _Ask, source: TokenSource) -> str:
    if ask.dtype is not None:
        return ask.dtype
    held = _DTYPES[ask.format]
    if ask.format in {"npy", "bin"}:
        return source.dtype if source.dtype in held else "int32"
    if len(held) < 2:  # noqa: PLR2004 - one of them, or none
        return held[0] if held else ""
    return held[0] if _fits_uint16(ask, source) else held[1]


def _fits_uint16(ask: _Ask, source: TokenSource) -> bool:
    """Whether all ids do, by what is known of the vocabulary, else by looking at them."""
    if source.dtype == "uint16":
        return True
    known = [ask.tokenizer.vocab_size] if ask.tokenizer else []
    if source.sidecar and source.sidecar.vocab_size:
        known.append(source.sidecar.vocab_size)
    if known:
        return max(known) <= 1 << 16
    return all(int(ids.max()) < 1 << 16 for ids in source.blocks())


def _sink(ask: _Ask, source: TokenSource, outputs: Outputs, paths: list[Path], dtype: str) -> Sink:
    if ask.format == "text":
        if ask.tokenizer is None:
            raise AssertionError("checked before")
        return TextSink(outputs, ask.target, ask.tokenizer, source.name)
    if ask.format == "llmc":
        most = ask.shard_tokens or llmc.MOST_TOKENS
        return LlmcSink(outputs, paths, dtype, source.tokens, most)
    if ask.format == "megatron":
        return MegatronSink(outputs, ask.target, dtype)
    if ask.format == "nanogpt":
        return RawSink(outputs, ask.target)
    return ArraySink(outputs, ask.target, dtype, source.tokens)


def _copy(
    ask: _Ask,
    source: TokenSource,
    sink: Sink,
    ends: DocumentEnds | None,
    dtype: str,
    progress: Callable[[int, int, int], object] | None,
) -> tuple[int | None, int | None]:
    """Write all ids; the smallest and the largest."""
    import numpy as np

    most = int(np.iinfo(dtype).max) if dtype else (1 << 31) - 1
    limit = f"{dtype} holds ids from 0 to {most:,}" if dtype else "ids are from 0 to 2147483647"
    if ask.tokenizer is not None and ask.tokenizer.vocab_size <= most:
        most = ask.tokenizer.vocab_size - 1
        limit = f"the tokenizer has ids from 0 to {most:,}"
    done, smallest, largest = 0, None, None
    for ids in source.blocks():
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or high > most:
            place = int(np.argmax((ids < 0) | (ids > most)))
            raise MalformedError(
                f"{source.name}: id {int(ids[place])} at index {done + place:,} does not fit: "
                f"{limit}"
            )
        smallest = low if smallest is None else min(low, smallest)
        largest = high if largest is None else max(high, largest)
        if isinstance(ends, EndsAfter):
            ends.look_at(ids)
        sink.write(ids.astype(np.dtype(dtype).newbyteorder("<"), copy=False) if dtype else ids)
        done += len(ids)
        if progress is not None:
            progress(0, done, source.tokens)
    if isinstance(ends, EndsAfter):
        ends.finish()
    return smallest, largest


def _beside(ask: _Ask, paths: list[Path]) -> list[Path]:
    """What is taken for a part of the target where it lies beside it."""
    if ask.format in {"npy", "bin"}:
        return [sidecar_path(ask.target), ends_path(ask.target)]
    if ask.format == "llmc" and paths != [ask.target]:
        return [path for path in llmc.numbered_like(paths[0]) if path not in paths]
    if ask.format in {"nanogpt", "llmc"}:
        return [sidecar_path(ask.target)]
    return []
