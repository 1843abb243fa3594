"""One tool's calls in memory, timed: ``calls.py TOOL FOLDER TEXT ANSWERS``.

Writes to ANSWERS, as a ``.npz``, the ids or bytes that each call gave (to be compared) and the
seconds that it took, a number a repetition. Every tool is called as its own documentation has it,
in the form that its users want: a list of ids for one text, whatever it likes best for a batch.
"""

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from encoders import SEPARATOR

SNIPPETS = 1000
SHORT, MEDIUM = 20, 1000
BATCH = 100_000
REPEATS = 7
BUDGET_S = 2.0
DECODED = 4_000_000


@dataclass(frozen=True)
class Calls:
    """How a tool does each thing; None where it cannot."""

    encode: Callable[[str], Any]
    # The same, but an array is the answer.
    encode_array: Callable[[str], Any]
    encode_batch: Callable[[list[str]], Any]
    decode: Callable[[Any], str | bytes]
    # What decode likes best, made of an int32 array.
    prepared: Callable[[Any], Any]
    # The ids of one text, and of a batch in a row, as an array.
    ids: Callable[[Any], Any]
    flat: Callable[[Any], Any]


def lmkit(folder: str) -> Calls:
    """Our own."""
    import lmkit as library

    tokenizer = library.Tokenizer.load(folder)
    return Calls(
        encode=tokenizer.encode,
        encode_array=tokenizer.encode_array,
        encode_batch=tokenizer.encode_batch,
        decode=tokenizer.decode,
        prepared=lambda ids: ids,
        ids=np.asarray,
        flat=lambda answer: answer[0],
    )


def gigatoken(folder: str) -> Calls:
    """Gigatoken, whose arrays are taken as they are."""
    from encoders import load_gigatoken

    tokenizer = load_gigatoken(folder)
    return Calls(
        encode=tokenizer.encode,
        encode_array=tokenizer.encode,
        encode_batch=tokenizer.encode_batch,
        decode=tokenizer.decode,
        prepared=lambda ids: ids.astype(np.uint32),
        ids=np.asarray,
        flat=lambda answer: np.asarray(answer.layout.content.data),
    )


def tiktoken(folder: str) -> Calls:
    """Tiktoken, with special tokens taken as text: its fastest way."""
    from encoders import load_tiktoken

    encoding = load_tiktoken(folder)
    return Calls(
        encode=encoding.encode_ordinary,
        encode_array=lambda text: encoding.encode_to_numpy(text, disallowed_special=()),
        encode_batch=lambda texts: encoding.encode_ordinary_batch(texts, num_threads=2),
        decode=encoding.decode,
        prepared=lambda ids: ids.tolist(),
        ids=np.asarray,
        flat=lambda answer: np.concatenate([np.asarray(row, np.int32) for row in answer]),
    )


def huggingface(folder: str) -> Calls:
    """Hugging Face tokenizers."""
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_file(str(Path(folder, "tokenizer.json")))
    return Calls(
        encode=lambda text: tokenizer.encode(text).ids,
        encode_array=lambda text: np.asarray(tokenizer.encode(text).ids, np.int32),
        encode_batch=tokenizer.encode_batch_fast,
        decode=lambda ids: tokenizer.decode(ids, skip_special_tokens=False),
        prepared=lambda ids: ids.tolist(),
        ids=np.asarray,
        flat=lambda answer: np.concatenate([np.asarray(row.ids, np.int32) for row in answer]),
    )


TOOLS = {
    "lmkit": lmkit,
    "gigatoken": gigatoken,
    "tiktoken": tiktoken,
    "huggingface": huggingface,
}


def seconds(work: Callable[[], object]) -> list[float]:
    """How long each of the repetitions took, fewer where they are slow.

    The calls were made before, to compare their answers, so that tables are filled.
    """
    times: list[float] = []
    while len(times) < REPEATS and sum(times) < BUDGET_S:
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return times


def snippets(text: str, length: int) -> list[str]:
    """Different pieces of ``length`` characters from all over the text."""
    step = max((len(text) - length) // SNIPPETS, 1)
    return [text[at : at + length] for at in range(0, SNIPPETS * step, step)]


def short_texts(text: str) -> list[str]:
    """Lines that are no longer than a message: up to 100,000 different ones, over and over."""
    lines = [line for line in text.splitlines() if line.strip() and len(line) < 300]
    return [lines[number % len(lines)] for number in range(BATCH)]


def timed(calls: Calls, text: str) -> Iterator[tuple[str, object]]:
    """What each call answered, and how many seconds each repetition of it took."""
    for name, length, encode in (
        ("encode_20", SHORT, calls.encode),
        ("encode_1000", MEDIUM, calls.encode),
        ("encode_array_1000", MEDIUM, calls.encode_array),
    ):
        pieces = snippets(text, length)
        yield name, np.concatenate([calls.ids(encode(piece)) for piece in pieces])
        times = seconds(lambda encode=encode, pieces=pieces: [encode(piece) for piece in pieces])
        yield f"{name}_s", [one / SNIPPETS for one in times]
    batch = short_texts(text)
    yield "encode_batch", calls.flat(calls.encode_batch(batch))
    yield "encode_batch_s", seconds(lambda: calls.encode_batch(batch))
    yield "encode_batch_bytes", sum(len(line.encode()) for line in batch)
    ids = calls.ids(calls.encode(text))[:DECODED].astype(np.int32)
    prepared = calls.prepared(ids)
    answer = calls.decode(prepared)
    answer = answer.encode() if isinstance(answer, str) else answer
    yield "decode", np.frombuffer(answer, np.uint8)
    yield "decode_s", seconds(lambda: calls.decode(prepared))
    yield "decode_bytes", len(answer)


def main() -> None:
    """Time every call of one tool."""
    tool, folder, path, answers = sys.argv[1:]
    # Without separators, which some take for text and others for tokens.
    text = Path(path).read_text(encoding="utf-8").replace(SEPARATOR.decode(), "")
    np.savez(answers, **dict(timed(TOOLS[tool](folder), text)))


if __name__ == "__main__":
    main()
