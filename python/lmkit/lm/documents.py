"""Tokens to the documents they make up: which one a token lies in, and the windows of each.

Where documents end is known of shards by the files beside them, and of a single token file by
reading it through once. Of shards nothing is kept but the blocks of `WindowIndex`; finding a
document takes a few small reads. A window holds tokens of one document: the last of a document, or
the only one of a short one, is shorter than the others.
"""

import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lmkit.errors import UsageError

Int64: TypeAlias = NDArray[np.int64]
Tick: TypeAlias = Callable[[int, int, int], object] | None

BLOCK = 1024  # documents of which an index keeps one number, and which are read together
MOST_IN_A_ROW = 10_000  # documents without anything to predict, before the data is given up
TOKENS_AT_ONCE = 1 << 20


class EndsReader(Protocol):
    """Reads where the documents of one section end, counted from the section's beginning."""

    def __len__(self) -> int:
        """How many documents there are."""
        ...

    def read(self, start: int, stop: int) -> NDArray[np.integer[Any]]:
        """The ends of documents ``start`` to ``stop``."""
        ...


class TokenSource(Protocol):
    """Tokens that documents are looked for in."""

    def __len__(self) -> int:
        """How many there are."""
        ...

    def read(self, start: int, stop: int) -> NDArray[np.integer[Any]]:
        """The tokens from ``start`` up to ``stop``."""
        ...


@dataclass(frozen=True)
class Spans:
    """Windows, each of tokens of one document.

    Attributes:
        starts: int64 (B,), where each begins in the data.
        stops: int64 (B,), where it ends: a window and the token after it at most.
    """

    starts: Int64
    stops: Int64

    def __len__(self) -> int:
        """How many windows there are."""
        return len(self.starts)

    def __getitem__(self, rows: slice) -> "Spans":
        """Some of them."""
        return Spans(self.starts[rows], self.stops[rows])

    @property
    def targets(self) -> Int64:
        """How many tokens of each window are predicted: all but the first."""
        return (self.stops - self.starts - 1).clip(min=0)


class DocumentTokens:
    """Tokens whose windows are to hold one document each; they read like any others.

    Attributes:
        tokens: the tokens.
        documents: those they make up.
    """

    def __init__(self, tokens: TokenSource, documents: "Documents") -> None:
        self.tokens = tokens
        self.documents = documents

    def __len__(self) -> int:
        return len(self.tokens)

    def read(self, start: int, stop: int) -> NDArray[np.integer[Any]]:
        """The tokens from ``start`` up to ``stop``."""
        return self.tokens.read(start, stop)


class _InMemory:
    """Document ends that were found by reading."""

    def __init__(self, ends: Int64) -> None:
        self._ends = ends

    def __len__(self) -> int:
        return len(self._ends)

    def read(self, start: int, stop: int) -> NDArray[np.integer[Any]]:
        return self._ends[start:stop]


class Documents:
    """The documents of data that comes in sections, each of whole documents.

    Args:
        section_ends: int64, how many tokens the sections up to and with each one hold.
        open_ends: gives the document ends of a section, by its number.
    """

    def __init__(self, section_ends: Int64, open_ends: Callable[[int], EndsReader]) -> None:
        self.section_ends = section_ends
        self.open_ends = open_ends
        self._indexes: dict[int, WindowIndex] = {}

    def __len__(self) -> int:
        """How many tokens there are."""
        return int(self.section_ends[-1]) if len(self.section_ends) else 0

    def windows(self, context_length: int, tick: Tick = None) -> "WindowIndex":
        """The index of all windows of this length; it is made once."""
        if context_length not in self._indexes:
            self._indexes[context_length] = WindowIndex(self, context_length, tick)
        return self._indexes[context_length]

    def around(self, position: int) -> tuple[int, int]:
        """Where the document that holds a token begins and ends."""
        section = int(np.searchsorted(self.section_ends, position, side="right"))
        begin = self.begin_of(section)
        ends = self.open_ends(section)
        start, stop = _around(ends, position - begin, int(self.section_ends[section]) - begin)
        return begin + start, begin + stop

    def begin_of(self, section: int) -> int:
        """Where a section begins."""
        return int(self.section_ends[section - 1]) if section else 0


def documents_of_file(tokens: TokenSource, end_id: int, tick: Tick = None) -> Documents:
    """Find the documents of tokens in which each ends with ``end_id``; reads all of them."""
    found = []
    for start in range(0, len(tokens), TOKENS_AT_ONCE):
        stop = min(start + TOKENS_AT_ONCE, len(tokens))
        found.append(np.flatnonzero(tokens.read(start, stop) == end_id) + (start + 1))
        if tick is not None:
            tick(0, stop, len(tokens))
    if not found or not found[-1].size or found[-1][-1] != len(tokens):
        found.append(np.array([len(tokens)]))
    ends = _InMemory(np.concatenate(found).astype(np.int64))
    return Documents(np.array([len(tokens)]), lambda _: ends)


def joined(parts: Sequence[Documents]) -> Documents:
    """The documents of data that follows one another."""
    lengths = [len(part) for part in parts]
    offsets = np.cumsum([0, *lengths[:-1]])
    sections = np.cumsum([0, *(len(part.section_ends) for part in parts)])

    def open_ends(section: int) -> EndsReader:
        number = int(np.searchsorted(sections, section, side="right")) - 1
        return parts[number].open_ends(section - int(sections[number]))

    ends = [part.section_ends + offset for part, offset in zip(parts, offsets, strict=True)]
    return Documents(np.concatenate(ends), open_ends)


def windows_around(documents: Documents, positions_B: Int64, context_length: int) -> Spans:
    """One window for each position, from the document that holds it.

    Of a document longer than a window all places are equally likely where the positions are; a
    shorter one is taken whole. A document of one token has nothing to predict: the next one is
    taken instead.
    """
    starts_B, stops_B = np.empty_like(positions_B), np.empty_like(positions_B)
    for row, position in enumerate(positions_B.tolist()):
        start, stop = _predictable(documents, position)
        places = stop - start - context_length
        if places > 1:
            inside = min(max(position - start, 0), stop - start - 1)
            start += inside * places // (stop - start)
            stop = start + context_length + 1
        starts_B[row], stops_B[row] = start, stop
    return Spans(starts_B, stops_B)


class WindowIndex:
    """All windows of all documents by number; each token is a target once, but a document's first.

    Making one reads all document ends; it keeps 8 bytes for a block of 1,024 documents.

    Args:
        documents: of the data.
        context_length: how many targets a window has at most.
        tick: told of the progress, by sections.
    """

    def __init__(self, documents: Documents, context_length: int, tick: Tick = None) -> None:
        self._documents = documents
        self._context_length = context_length
        counts: list[Int64] = []
        sections = len(documents.section_ends)
        for section in range(sections):
            counts.append(self._count(section))
            if tick is not None:
                tick(0, section + 1, sections)
        self._first_block = np.cumsum([0, *(len(one) for one in counts)])
        self._ends = np.cumsum(np.concatenate(counts)) if counts else np.empty(0, np.int64)
        if not len(self):
            raise UsageError("the data has no document of two tokens or more: nothing to predict")

    def __len__(self) -> int:
        """How many windows there are."""
        return int(self._ends[-1]) if len(self._ends) else 0

    def spans(self, numbers_B: Int64) -> Spans:
        """The windows of these numbers."""
        found = [self._span(number) for number in numbers_B.tolist()]
        starts, stops = zip(*found, strict=True) if found else ((), ())
        return Spans(np.array(starts, np.int64), np.array(stops, np.int64))

    def _count(self, section: int) -> Int64:
        """How many windows each block of a section's documents has."""
        reader, before, counts = self._documents.open_ends(section), 0, []
        for start in range(0, len(reader), BLOCK * BLOCK):
            ends = reader.read(start, min(start + BLOCK * BLOCK, len(reader)))
            windows = self._windows(np.diff(ends, prepend=before))
            counts.append(np.add.reduceat(windows, np.arange(0, len(windows), BLOCK)))
            before = int(ends[-1])
        return np.concatenate(counts) if counts else np.empty(0, np.int64)

    def _windows(self, lengths: NDArray[np.integer[Any]]) -> Int64:
        """How many windows documents of these lengths have."""
        targets = np.maximum(lengths.astype(np.int64) - 1, 0)
        return -(-targets // self._context_length)

    def _span(self, number: int) -> tuple[int, int]:
        block = int(np.searchsorted(self._ends, number, side="right"))
        section = int(np.searchsorted(self._first_block, block, side="right")) - 1
        first = (block - int(self._first_block[section])) * BLOCK
        reader, begin = self._documents.open_ends(section), self._documents.begin_of(section)
        ends = reader.read(max(first - 1, 0), min(first + BLOCK, len(reader)))
        before, ends = (int(ends[0]), ends[1:]) if first else (0, ends)
        windows = self._windows(np.diff(ends, prepend=before)).cumsum()
        inside = number - (int(self._ends[block - 1]) if block else 0)
        document = int(np.searchsorted(windows, inside, side="right"))
        start = begin + (int(ends[document - 1]) if document else before)
        stop = begin + int(ends[document])
        start += (inside - (int(windows[document - 1]) if document else 0)) * self._context_length
        return start, min(stop, start + self._context_length + 1)


def _predictable(documents: Documents, position: int) -> tuple[int, int]:
    """The document at a position, or the next one that has two tokens."""
    total = len(documents)
    for _ in range(MOST_IN_A_ROW):
        start, stop = documents.around(position)
        if stop - start > 1:  # one to see and one to predict
            return start, stop
        position = stop % total
    raise UsageError(
        f"{MOST_IN_A_ROW:,} documents of one token follow each other: there is nothing to predict",
        hint="look at the text: what ends documents may stand where it should not",
    )


def _around(reader: EndsReader, position: int, total: int) -> tuple[int, int]:
    """Where the document with a token begins and ends, inside a section of ``total`` tokens.

    Documents of much the same length are found at once where their share of the section says; what
    lies elsewhere is found by halving, a block of ends being read each time.
    """
    low, high, guess = 0, len(reader), position * len(reader) // total
    while True:
        first = min(max(guess - BLOCK // 2, low), max(high - BLOCK, low))
        last = min(first + BLOCK, high)
        ends = reader.read(max(first - 1, 0), last).tolist()
        before = ends.pop(0) if first else 0
        if position < before:
            high = first
        elif position >= ends[-1]:
            low = last
        else:
            place = bisect.bisect_right(ends, position)
            return (ends[place - 1] if place else before), ends[place]
        guess = (low + high) // 2
