"""Parquet files → the text of one column, in small batches; the core's readers call this.

A row group is decoded page by page, never as a whole: memory is a batch of about a megabyte and a
few of the file's pages, however long its row groups. A page is the format's smallest part, and
writers make it of a thousand rows or so, so rows of megabytes make pages of gigabytes; such rows
are better kept as lines of JSON. Needs pyarrow (`pip install 'lmkit[parquet]'`).
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from lmkit.errors import MalformedError, MissingFileError, SystemRefusedError, UsageError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

FilePath: TypeAlias = str | os.PathLike[str]
Batch: TypeAlias = (
    "tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64], npt.NDArray[np.bool_] | None, int]"
)

_BATCH_BYTES = 1 << 19
_MOST_ROWS = 1024

# Where a column is a dictionary of a few long texts, its size says nothing of its rows': writers
# keep to a dictionary of about a megabyte, so these rows are at most 64 MB.
_MOST_DICTIONARY_ROWS = 64
_DICTIONARY_BYTES = 4 << 20

_READ_BYTES = 1 << 16
_NAMED_AT_MOST = 20


def check(path: FilePath, field: str) -> None:
    """Refuse ``path`` if it is no Parquet file or has no column ``field`` of text.

    Reads the file's footer alone.

    Raises:
        UsageError: pyarrow is not installed.
        MissingFileError: there is no such file.
        MalformedError: it is not Parquet, or has no such column, or one that is not text.
        SystemRefusedError: the system refused a read.
    """
    with _opened(path) as file:
        _check_column(path, file, field)


def batches(path: FilePath, field: str) -> Iterator[Batch]:
    """The text of the column ``field``, row after row.

    Yields:
        ``(text, offsets, has_text, file_bytes)``: the bytes of some rows' text, uint8; where each
        row's begin, and where the last one's end, int64 of shape (rows + 1,); which rows have text,
        bool of shape (rows,), or None where all do; how many of the file's bytes they stand for.

    Raises:
        LmkitError: one of those of :func:`check`; also while reading, where the file is damaged.
    """
    with _opened(path) as file:
        _check_column(path, file, field)
        size, rows = Path(path).stat().st_size, file.metadata.num_rows
        done = told = 0
        for group in range(file.metadata.num_row_groups):
            count = _rows_at_once(file.metadata.row_group(group), field)
            # One thread: the core's own are busy, and a pool of pyarrow's would not live in a fork.
            for batch in file.iter_batches(
                batch_size=count, row_groups=[group], columns=[field], use_threads=False
            ):
                done += batch.num_rows
                upto = size * done // max(rows, 1)
                yield *_arrays(batch.column(batch.schema.get_field_index(field))), upto - told
                told = upto
        if done != rows:
            raise MalformedError(
                f"{os.fspath(path)}: not sound Parquet: {done:,} rows where it speaks of {rows:,}"
            )


@contextlib.contextmanager
def _opened(path: FilePath) -> Iterator[Any]:
    """The file, opened; what pyarrow raises meanwhile becomes an error of ours."""
    try:
        import pyarrow.parquet as pq
    except ImportError as error:
        raise UsageError(
            f"{os.fspath(path)}: reading .parquet needs pyarrow",
            hint="pip install 'lmkit[parquet]'",
        ) from error
    import pyarrow as pa

    try:
        before = pa.default_memory_pool()
        # The reader keeps to the pool that is the default when it is made, and this one gives back
        # what was freed: 30 MiB less at the peak than pyarrow's own.
        pa.set_memory_pool(pa.system_memory_pool())
        try:
            file = pq.ParquetFile(
                os.fspath(path), memory_map=False, pre_buffer=False, buffer_size=_READ_BYTES
            )
        finally:
            pa.set_memory_pool(before)
        with file:
            yield file
    except FileNotFoundError as error:
        raise MissingFileError(f"{os.fspath(path)}: no such file or folder") from error
    except MemoryError:
        raise
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            said = os.strerror(error.errno)
            raise SystemRefusedError(f"{os.fspath(path)}: {said}") from error
        said = " ".join(str(error).split())
        raise MalformedError(f"{os.fspath(path)}: not sound Parquet: {said}") from error


def _check_column(path: FilePath, file: Any, field: str) -> None:  # noqa: ANN401 - a ParquetFile
    import pyarrow.types as kinds

    schema = file.schema_arrow
    if schema.names.count(field) != 1:
        named = ", ".join(schema.names[:_NAMED_AT_MOST])
        more = ", ..." if len(schema.names) > _NAMED_AT_MOST else ""
        held = "two columns" if field in schema.names else "no column"
        raise MalformedError(
            f"{os.fspath(path)}: {held} {field!r} among {named}{more}",
            hint="--text_field names the column with the text",
        )
    kind = schema.field(field).type
    if kinds.is_dictionary(kind):
        kind = kind.value_type
    of_text = (
        kinds.is_string,
        kinds.is_large_string,
        kinds.is_string_view,
        kinds.is_binary,
        kinds.is_large_binary,
        kinds.is_binary_view,
    )
    if not any(is_kind(kind) for is_kind in of_text):
        raise MalformedError(
            f"{os.fspath(path)}: column {field!r} holds {kind}, which is not text",
            hint="--text_field names the column with the text",
        )


def _rows_at_once(group: Any, field: str) -> int:  # noqa: ANN401 - metadata of a row group
    columns = (group.column(place) for place in range(group.num_columns))
    column = next(column for column in columns if column.path_in_schema == field)
    size, rows = int(column.total_uncompressed_size), int(group.num_rows)
    most = _MOST_ROWS
    if column.has_dictionary_page and size < _DICTIONARY_BYTES + 8 * rows:
        most = _MOST_DICTIONARY_ROWS
    return max(1, min(most, _BATCH_BYTES * rows // max(size, 1)))


def _arrays(
    column: Any,  # noqa: ANN401 - a pyarrow array
) -> "tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64], npt.NDArray[np.bool_] | None]":
    import numpy as np
    import pyarrow as pa

    has_text = None
    if column.null_count:
        has_text = column.is_valid().to_numpy(zero_copy_only=False)
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    column = column.cast(pa.large_binary())
    _, ends, text = column.buffers()
    offsets = np.frombuffer(ends, np.int64, len(column) + 1, 8 * column.offset)
    if text is None:
        return np.empty(0, np.uint8), np.zeros(len(column) + 1, np.int64), has_text
    begin, end = int(offsets[0]), int(offsets[-1])
    return np.frombuffer(text, np.uint8, end - begin, begin), offsets - begin, has_text
