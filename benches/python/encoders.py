"""One text to one token file, with one tool: ``encoders.py TOOL TEXT FOLDER OUT [DTYPE]``.

TEXT is a file (plain, ``.gz`` or ``.zst``) or a folder of plain ones, FOLDER a tokenizer folder
that lmkit wrote (a tool loads what it can of it, or the rank file beside it), OUT a ``.npy`` or
``.bin``. Each function is the fastest way known to drive its tool on two cores, and each ends with
an fsync.
"""

import json
import mmap
import os
import queue
import sys
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SEPARATOR = b"<|endoftext|>"
SLICE = 2 << 20
LOOK_BACK = 1 << 16
BATCH = 8 << 20
BLOCK = 4 << 20
HEADER = 128
THREADS = 2
IN_FLIGHT = 6
PATTERNS = {
    "gpt2": r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    # gigatoken's names for those of rank files
    "cl100k": "gpt4",
    "o200k": "o200k",
}


def stream(path: str) -> Iterator[bytes]:
    """The text of a compressed file, or of a folder's files with a separator after each."""
    if Path(path).is_dir():
        for file in sorted(Path(path).iterdir()):
            yield file.read_bytes() + SEPARATOR
        return
    with Path(path).open("rb", buffering=0) as source:
        if path.endswith(".gz"):
            unpack = zlib.decompressobj(31)
            while piece := source.read(1 << 20):
                yield unpack.decompress(piece)
        elif path.endswith(".zst"):
            import zstandard

            with zstandard.ZstdDecompressor().stream_reader(source) as reader:
                while piece := reader.read(1 << 20):
                    yield piece
        else:
            while piece := source.read(1 << 20):
                yield piece


def slices(path: str, size: int) -> Iterator[bytes]:
    """The text in pieces of about ``size`` bytes, cut after a separator."""
    parts: list[bytes] = []
    gathered = 0
    for part in stream(path):
        parts.append(part)
        gathered += len(part)
        if gathered < size:
            continue
        whole = b"".join(parts)
        end = whole.rfind(SEPARATOR) + len(SEPARATOR)
        if end < len(SEPARATOR):
            parts = [whole]
            continue
        yield whole[:end]
        parts = [whole[end:]]
        gathered = len(parts[0])
    if rest := b"".join(parts):
        yield rest


class Slices:
    """The pieces of a text for several threads, numbered; a plain file is read by all at once."""

    def __init__(self, path: str) -> None:
        """Open the text at ``path``."""
        self.lock = threading.Lock()
        self.number = 0
        self.at = 0
        self.file = -1
        if Path(path).suffix in {".gz", ".zst"} or Path(path).is_dir():
            self.pieces = slices(path, SLICE)
        else:
            self.file = os.open(path, os.O_RDONLY)
            self.size = os.fstat(self.file).st_size

    def take(self) -> tuple[int, bytes] | None:
        """The next piece and its number; None after the last."""
        with self.lock:
            number = self.number
            self.number += 1
            if self.file < 0:
                piece = next(self.pieces, None)
                return None if piece is None else (number, piece)
            start = self.at
            if start == self.size:
                return None
            end = self.at = self.cut(start)
        return number, os.pread(self.file, end - start, start)

    def cut(self, start: int) -> int:
        """Where the piece from ``start`` on ends: after a separator."""
        end = start + SLICE
        while end < self.size:
            look = os.pread(self.file, LOOK_BACK, end - LOOK_BACK)
            place = look.rfind(SEPARATOR)
            if place >= 0 and end - LOOK_BACK + place >= start:
                return end - LOOK_BACK + place + len(SEPARATOR)
            end += LOOK_BACK
        return self.size


def npy_header(count: int, dtype: str) -> bytes:
    """The 128 bytes before ``count`` little-endian numbers."""
    descr = {"int32": "<i4", "uint16": "<u2"}[dtype]
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': ({count},), }}"
    body = text.encode().ljust(HEADER - 11) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(body).to_bytes(2, "little") + body


class DirectWriter(threading.Thread):
    """Writes arrays by rising number from one aligned buffer past the page cache, header last."""

    def __init__(self, path: str, dtype: str, expected: int) -> None:
        """Open ``path`` with direct I/O where the file system takes it, ``expected`` bytes long."""
        super().__init__()
        self.path = path
        self.dtype = dtype
        self.header = HEADER if path.endswith(".npy") else 0
        self.inbox: queue.Queue[tuple[int, Any] | None] = queue.Queue()
        self.buffer = mmap.mmap(-1, BLOCK)
        flags = os.O_CREAT | os.O_TRUNC | os.O_RDWR
        try:
            self.file = os.open(path, flags | getattr(os, "O_DIRECT", 0), 0o644)
        except OSError:
            self.file = os.open(path, flags, 0o644)
        # Blocks given out in one go are quicker to write; what is too much is cut off.
        if expected:
            os.posix_fallocate(self.file, 0, expected)

    def arrays(self) -> Iterator[Any]:
        """What comes in, in order."""
        waiting: dict[int, Any] = {}
        following = 0
        while (item := self.inbox.get()) is not None:
            waiting[item[0]] = item[1]
            del item
            while following in waiting:
                yield waiting.pop(following)
                following += 1

    def run(self) -> None:
        """Copy what comes into the buffer; write it out when it is full."""
        import numpy as np

        buffer = np.frombuffer(self.buffer, np.uint8)
        filled, offset = self.header, 0
        for array in self.arrays():
            data = array.view(np.uint8)
            while data.size:
                take = min(BLOCK - filled, data.size)
                buffer[filled : filled + take] = data[:take]
                data = data[take:]
                filled += take
                if filled == BLOCK:
                    os.pwrite(self.file, self.buffer, offset)
                    offset += BLOCK
                    filled = 0
        padded = -(-filled // 4096) * 4096
        if padded:
            os.pwrite(self.file, memoryview(self.buffer)[:padded], offset)
        size = offset + filled
        os.ftruncate(self.file, size)
        os.close(self.file)
        with Path(self.path).open("r+b") as out:
            if self.header:
                width = np.dtype(self.dtype).itemsize
                out.write(npy_header((size - self.header) // width, self.dtype))
            out.flush()
            os.fsync(out.fileno())


def load_gigatoken(folder: str) -> Any:  # noqa: ANN401 - a peer without types
    """The tokenizer in ``folder``; patterns other than GPT-2's it reads with a rank file only."""
    import gigatoken

    meta = json.loads(Path(folder, "lmkit.json").read_text())
    if meta["pattern"] == "gpt2":
        return gigatoken.Tokenizer.from_json(Path(folder, "tokenizer.json").read_text())
    ranks, name = f"{folder}.tiktoken", PATTERNS[meta["pattern"]]
    return gigatoken.Tokenizer.from_tiktoken(ranks, name, meta["special_tokens"])


def gigatoken_glue(text: str, folder: str, out: str, dtype: str = "int32") -> None:
    """Gigatoken at its best: a tokenizer a thread, small slices, a direct writer, kept pages.

    A tokenizer a thread, because one alone lets a single batch in at a time, and within a batch
    its own threads wait for each other. Slices of 2 MB: 1 and 4 are no faster, 8 and 16 slower and
    larger. Huge pages, more arenas, more threads than cores were slower, the page cache by a third.
    """
    keep_pages()
    import numpy as np

    source = Slices(text)
    expected = Path(text).stat().st_size if source.file >= 0 else 0
    writer = DirectWriter(out, dtype, expected)
    writer.start()
    room = threading.Semaphore(IN_FLIGHT)

    def work(tokenizer: Any) -> None:  # noqa: ANN401 - a peer without types
        while (item := source.take()) is not None:
            room.acquire()
            number, piece = item
            ids = tokenizer.encode_batch([piece], parallel=False)
            ids = np.asarray(ids.layout.content.data)
            writer.inbox.put((number, ids if dtype == "int32" else ids.astype(dtype)))
            del item, piece, ids
            room.release()

    threads = [
        threading.Thread(target=or_end, args=(work, load_gigatoken(folder))) for _ in range(THREADS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.inbox.put(None)
    writer.join()


def or_end(work: Any, *arguments: object) -> None:  # noqa: ANN401 - any function
    """Do ``work``; a failure ends the process, which would wait for its outcome otherwise."""
    try:
        work(*arguments)
    except BaseException:  # noqa: BLE001 - told, and the process ends
        sys.excepthook(*sys.exc_info())
        os._exit(1)


def keep_pages() -> None:
    """Tell glibc to keep freed pages, in two arenas; the environment is read at the start only."""
    settings = {
        "MALLOC_TRIM_THRESHOLD_": 1 << 32,
        "MALLOC_MMAP_THRESHOLD_": 1 << 32,
        "MALLOC_TOP_PAD_": 64 << 20,
        "MALLOC_ARENA_MAX": 2,
    }
    if not settings.keys() <= os.environ.keys():
        settings_text = {name: str(value) for name, value in settings.items()}
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **settings_text})


def gigatoken_file(text: str, folder: str, out: str, dtype: str = "int32") -> None:
    """Gigatoken's documented file call; without a separator, its result has everything."""
    import gigatoken
    import numpy as np

    tokenizer = load_gigatoken(folder)
    ids = tokenizer.encode_files(gigatoken.TextFileSource([text]))
    save(np.asarray(ids.layout.content.data).view(np.int32), out, dtype)


def save(ids: Any, out: str, dtype: str) -> None:  # noqa: ANN401 - numpy is loaded where needed
    """``numpy.save`` and an fsync."""
    import numpy as np

    with Path(out).open("wb") as file:
        np.save(file, ids.astype(dtype, copy=False))
        file.flush()
        os.fsync(file.fileno())


def load_tiktoken(folder: str) -> Any:  # noqa: ANN401 - loaded where needed
    """The encoding in ``folder``, whose ids are ranks."""
    import tiktoken as library

    import lmkit

    tokenizer = lmkit.Tokenizer.load(folder)
    special = dict(tokenizer.special_tokens)
    numbers = set(special.values())
    ranks = {token: id_ for id_, token in tokenizer.vocab.items() if id_ not in numbers}
    pattern = PATTERNS[tokenizer.pattern]
    return library.Encoding("bench", pat_str=pattern, mergeable_ranks=ranks, special_tokens=special)


def tiktoken(text: str, folder: str, out: str, dtype: str = "int32") -> None:
    """Tiktoken: documents in batches over two threads, each followed by the separator's id."""
    import numpy as np

    encoding = load_tiktoken(folder)
    end = encoding.encode_single_token(SEPARATOR)
    parts = []
    for piece in slices(text, BATCH):
        documents = piece.decode().split(SEPARATOR.decode())
        rows = encoding.encode_ordinary_batch(documents, num_threads=THREADS)
        flat = [number for row in rows for number in (*row, end)][:-1]
        parts.append(np.array(flat, dtype=dtype))
    save(np.concatenate(parts) if parts else np.zeros(0, dtype), out, dtype)


def huggingface(text: str, folder: str, out: str, dtype: str = "int32") -> None:
    """Hugging Face tokenizers: documents with their separators in batches."""
    import numpy as np
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_file(str(Path(folder, "tokenizer.json")))
    parts = []
    for piece in slices(text, BATCH):
        documents = piece.decode().split(SEPARATOR.decode())
        whole = [document + SEPARATOR.decode() for document in documents[:-1]] + documents[-1:]
        rows = tokenizer.encode_batch_fast(whole, add_special_tokens=False)
        parts.extend(np.array(row.ids, dtype=dtype) for row in rows)
    save(np.concatenate(parts) if parts else np.zeros(0, dtype), out, dtype)


TOOLS = {
    "gigatoken-glue": gigatoken_glue,
    "gigatoken-file": gigatoken_file,
    "tiktoken": tiktoken,
    "huggingface": huggingface,
}

if __name__ == "__main__":
    TOOLS[sys.argv[1]](*sys.argv[2:])
