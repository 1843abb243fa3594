"""`tokenize`: text files to a token file."""

import os
from collections.abc import Callable, Sequence
from typing import Any

from lmkit import _core
from lmkit.errors import UsageError
from lmkit.tokenizer import Path, Tokenizer
from lmkit.whole_number import whole_number, whole_number_or_none


def tokenize(
    inputs: Path | Sequence[Path],
    output: Path,
    tokenizer: Tokenizer,
    *,
    method: str = "streaming",
    dtype: str = "int32",
    errors: str = "strict",
    special: str = "encode",
    end_of_document: str | None = None,
    val_fraction: float | None = None,
    val_output: Path | None = None,
    text_field: str | None = None,
    num_threads: int | None = None,
    max_record_bytes: int = 1 << 30,
    force: bool = False,
    resume: bool = False,
    progress: Callable[[int, int, int], object] | None = None,
) -> dict[str, Any]:
    """Turn text files into a token file with a sidecar, in bounded memory.

    Args:
        inputs: a file, a folder, a glob or ``"-"``, or several; ``.gz``, ``.zst``, ``.jsonl`` and
            ``.parquet`` (with pyarrow) are understood.
        output: a ``.npy`` or ``.bin`` file; it appears only when whole.
        tokenizer: what to encode with.
        method: ``"streaming"``, or ``"in-memory"``, which writes the same bytes at the end.
        dtype: ``"int32"``, ``"uint16"`` or ``"uint32"``.
        errors: what to do with bytes that are not UTF-8: ``"strict"`` refuses them, ``"replace"``
            takes U+FFFD, ``"bytes"`` makes each a pretoken of its own.
        special: ``"encode"`` special tokens in the text, or take them as text (``"none"``).
        end_of_document: the special token to write after each document that does not end with it;
            None takes ``<|endoftext|>`` where documents come one by one and the tokenizer has it;
            an empty string writes none.
        val_fraction: send this share of the documents to ``val_output``.
        val_output: default: ``NAME.val.npy`` beside the output.
        text_field: the field of a JSON line, or the column of a ``.parquet`` file, that holds the
            text; default ``text``.
        num_threads: encoder threads; None: one per core. The result does not depend on it.
        max_record_bytes: the longest record, or stretch of text without a cut, that is taken.
        force: replace outputs that are there already.
        resume: go on where a killed run of the same job was, to the same bytes; from the start
            where there was none. Without it, what such a run left is removed.
        progress: called as ``progress(phase, bytes_done, bytes_total)`` a few times a second.

    Returns:
        A summary: tokens, documents, text_bytes, smallest_id, largest_id, checksum, seconds,
        skipped files, null_rows (rows of a table without text, passed over), and the same for
        ``validation``; with ``resume`` also resumed_bytes, how much
        of the text was done before.

    Raises:
        MissingFileError: an input is not there.
        MalformedError: text that is not UTF-8, with its place; a torn archive.
        UsageError: an output exists, or options exclude each other.
        MismatchError: the run to resume had another tokenizer, other options or other inputs.
        SystemRefusedError: the system refused a read or a write.

    Examples:
        >>> from lmkit import Tokenizer, open_tokens
        >>> summary = tokenize("raw_text.txt", "tokens.npy", Tokenizer.load("tokenizer/"))
        >>> summary["tokens"] == len(open_tokens("tokens.npy"))
        True
    """
    job = plan(
        inputs,
        output,
        tokenizer,
        method=method,
        dtype=dtype,
        errors=errors,
        special=special,
        end_of_document=end_of_document,
        val_fraction=val_fraction,
        val_output=val_output,
        text_field=text_field,
        num_threads=num_threads,
        max_record_bytes=max_record_bytes,
        force=force,
        resume=resume,
    )
    return job.run(progress)


def plan(
    inputs: Path | Sequence[Path],
    output: Path,
    tokenizer: Tokenizer,
    *,
    method: str = "streaming",
    val_output: Path | None = None,
    num_threads: int | None = None,
    max_record_bytes: int = 1 << 30,
    resume: bool = False,
    slice_bytes: int | None = None,
    note_every: float | None = None,
    **options: Any,  # noqa: ANN401 - those of `tokenize`, passed on
) -> _core.TokenizeJob:
    """The job that :func:`tokenize` would run, checked; nothing is read or written yet.

    ``note_every``: how many seconds lie between two notes of how far it is; None: two.
    """
    if not isinstance(tokenizer, Tokenizer):
        raise TypeError(
            f"tokenizer is a lmkit.Tokenizer, not {type(tokenizer).__name__}; "
            "lmkit.Tokenizer.load opens one"
        )
    if method not in {"streaming", "in-memory"}:
        raise UsageError(f"--method {method!r} is neither streaming nor in-memory")
    if val_output is not None and options.get("val_fraction") is None:
        raise UsageError("--val_output_path has no effect without --val_fraction")
    paths = [inputs] if isinstance(inputs, str | os.PathLike) else list(inputs)
    stem, ending = os.path.splitext(os.fspath(output))  # noqa: PTH122 - the path as typed
    return _core.TokenizeJob(
        tokenizer._native,
        [os.fspath(path) for path in paths],
        os.fspath(output),
        val_output=os.fspath(val_output) if val_output else f"{stem}.val{ending}",
        in_memory=method == "in-memory",
        num_threads=whole_number_or_none(num_threads, "--num_threads"),
        max_record_bytes=whole_number(max_record_bytes, "--max_record_bytes"),
        resume=resume,
        slice_bytes=slice_bytes,
        note_every=note_every,
        **options,
    )
