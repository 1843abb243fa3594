"""One text file to one ``.npy`` of ids, once with each tool: ``encoders.py TOOL TEXT FOLDER OUT``.

FOLDER is a tokenizer folder that lmkit wrote; every tool loads what it can of it. Each function is
the fastest way known to drive its tool on two cores, and each ends with an fsync.
"""

import ctypes
import json
import mmap
import os
import queue
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

SEPARATOR = b"<|endoftext|>"
SLICE = 8 << 20
BLOCK = 4 << 20
HEADER = 128


def slices(path: str, size: int) -> Iterator[bytes]:
    """The file in pieces of about ``size`` bytes, cut after a separator."""
    rest = b""
    with Path(path).open("rb", buffering=0) as source:
        while piece := source.read(size):
            piece = rest + piece
            end = piece.rfind(SEPARATOR) + len(SEPARATOR)
            if end < len(SEPARATOR):
                rest = piece
                continue
            rest = piece[end:]
            yield piece[:end]
    if rest:
        yield rest


def npy_header(count: int) -> bytes:
    """The 128 bytes before ``count`` little-endian int32."""
    text = f"{{'descr': '<i4', 'fortran_order': False, 'shape': ({count},), }}"
    body = text.encode().ljust(HEADER - 11) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(body).to_bytes(2, "little") + body


class DirectWriter(threading.Thread):
    """Writes int32 arrays in order from one aligned buffer past the page cache, header last."""

    def __init__(self, path: str) -> None:
        """Open ``path`` with direct I/O where the file system takes it."""
        super().__init__()
        self.path = path
        self.inbox: queue.Queue[object] = queue.Queue(maxsize=4)
        self.buffer = mmap.mmap(-1, BLOCK)
        flags = os.O_CREAT | os.O_TRUNC | os.O_RDWR
        try:
            self.file = os.open(path, flags | getattr(os, "O_DIRECT", 0), 0o644)
        except OSError:
            self.file = os.open(path, flags, 0o644)

    def run(self) -> None:
        """Copy what comes into the buffer; write it out when it is full."""
        filled, offset = HEADER, 0
        view = memoryview(self.buffer)
        while (array := self.inbox.get()) is not None:
            data = memoryview(array).cast("B")  # type: ignore[arg-type]
            while data.nbytes:
                take = min(BLOCK - filled, data.nbytes)
                view[filled : filled + take] = data[:take]
                data = data[take:]
                filled += take
                if filled == BLOCK:
                    os.pwrite(self.file, view, offset)
                    offset += BLOCK
                    filled = 0
        padded = -(-filled // 4096) * 4096
        if padded:
            os.pwrite(self.file, view[:padded], offset)
        size = offset + filled
        os.ftruncate(self.file, size)
        os.close(self.file)
        with Path(self.path).open("r+b") as out:
            out.write(npy_header((size - HEADER) // 4))
            out.flush()
            os.fsync(out.fileno())


def gigatoken_glue(text: str, folder: str, out: str) -> None:
    """Gigatoken at its best: pairs of slices on its two threads, a reader and a direct writer."""
    keep_pages()
    import gigatoken
    import numpy as np

    tokenizer = gigatoken.Tokenizer.from_json(Path(folder, "tokenizer.json").read_text())
    writer = DirectWriter(out)
    writer.start()
    ready: queue.Queue[bytes | None] = queue.Queue(maxsize=4)

    def read() -> None:
        for piece in slices(text, SLICE):
            ready.put(piece)
        ready.put(None)

    threading.Thread(target=read, daemon=True).start()
    done = False
    while not done:
        pair = []
        while len(pair) < 2 and not done:
            piece = ready.get()
            if piece is None:
                done = True
            else:
                pair.append(piece)
        if pair:
            ids = tokenizer.encode_batch(pair)
            writer.inbox.put(np.asarray(ids.layout.content.data))
    writer.inbox.put(None)
    writer.join()


def keep_pages() -> None:
    """Tell glibc to keep freed pages (M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD)."""
    libc = ctypes.CDLL(None)
    for option, value in ((-1, 1 << 30), (-2, 64 << 20), (-3, 1 << 30)):
        libc.mallopt(option, value)


def gigatoken_file(text: str, folder: str, out: str) -> None:
    """Gigatoken's documented file call; its result lacks the separators, which are put back."""
    import gigatoken
    import numpy as np

    tokenizer = gigatoken.Tokenizer.from_json(Path(folder, "tokenizer.json").read_text())
    source = gigatoken.TextFileSource([text])
    ids = tokenizer.encode_files(source)
    save(np.asarray(ids.layout.content.data).view(np.int32), out)


def save(ids: object, out: str) -> None:
    """``numpy.save`` and an fsync."""
    import numpy as np

    with Path(out).open("wb") as file:
        np.save(file, ids)
        file.flush()
        os.fsync(file.fileno())


def tiktoken(text: str, folder: str, out: str) -> None:
    """Tiktoken: documents in batches over two threads, each followed by the separator's id."""
    import numpy as np
    import tiktoken as library

    meta = json.loads(Path(folder, "lmkit.json").read_text())
    ranks, special = rank_table(folder)
    encoding = library.Encoding(
        "bench", pat_str=meta["regex"], mergeable_ranks=ranks, special_tokens=special
    )
    parts = []
    for piece in slices(text, SLICE):
        documents = piece.decode().split(SEPARATOR.decode())
        rows = encoding.encode_ordinary_batch(documents, num_threads=2)
        end = special[SEPARATOR.decode()]
        flat = [number for row in rows for number in (*row, end)]
        parts.append(np.array(flat[: -1 if not documents[-1] else None], dtype=np.int32))
    save(np.concatenate(parts) if parts else np.zeros(0, np.int32), out)


def rank_table(folder: str) -> tuple[dict[bytes, int], dict[str, int]]:
    """Ids by token bytes, without the special tokens, and those."""
    import lmkit

    tokenizer = lmkit.Tokenizer.load(folder)
    special = dict(tokenizer.special_tokens)
    numbers = set(special.values())
    return {token: id_ for id_, token in tokenizer.vocab.items() if id_ not in numbers}, special


def huggingface(text: str, folder: str, out: str) -> None:
    """Hugging Face tokenizers: documents with their separators in batches."""
    import numpy as np
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_file(str(Path(folder, "tokenizer.json")))
    parts = []
    for piece in slices(text, SLICE):
        documents = piece.decode().split(SEPARATOR.decode())
        whole = [document + SEPARATOR.decode() for document in documents[:-1]] + documents[-1:]
        rows = tokenizer.encode_batch_fast(whole, add_special_tokens=False)
        parts.extend(np.array(row.ids, dtype=np.int32) for row in rows)
    save(np.concatenate(parts) if parts else np.zeros(0, np.int32), out)


TOOLS = {
    "gigatoken-glue": gigatoken_glue,
    "gigatoken-file": gigatoken_file,
    "tiktoken": tiktoken,
    "huggingface": huggingface,
}

if __name__ == "__main__":
    TOOLS[sys.argv[1]](*sys.argv[2:])
