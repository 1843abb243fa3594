"""The options of learning a vocabulary, as Python and the command line have them, to the core's.

Text is counted, then learned from; both faces take the same steps with the same :class:`Learning`,
so they give the same bytes. Imports neither click nor torch.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, TypedDict

from lmkit import _core
from lmkit.byte_size import byte_size
from lmkit.errors import UsageError, already_exists
from lmkit.whole_number import whole_number, whole_number_or_none

Progress: TypeAlias = Callable[[int, int, int], object]


class Growth(TypedDict):
    """What the text is with a vocabulary of ``vocab_size``: a row of a report."""

    vocab_size: int
    tokens: int
    bytes_per_token: float


class Listed(TypedDict):
    """One token of a report."""

    id: int
    token: bytes
    count: int


class Report(TypedDict):
    """What a vocabulary makes of text that it was not learned from.

    ``text_bytes``: how much text that is, special tokens left out; ``growth``: bytes a token
    without merges, at each power of two, and at the full size; ``commonest`` and ``longest``:
    twenty tokens each, with how often they occur in that text.
    """

    text_bytes: int
    growth: list[Growth]
    commonest: list[Listed]
    longest: list[Listed]


@dataclass(frozen=True)
class Learning:
    """Everything that decides what is learned; see :meth:`lmkit.Tokenizer.train`."""

    vocab_size: int
    special_tokens: Sequence[str] | None
    pattern: str | None
    tie_break: str
    min_frequency: int
    max_token_length: int | None
    special_ids: str | None
    initial_alphabet: str
    extend: _core.Tokenizer | None
    from_counts: Sequence[str | os.PathLike[str]]
    sample: float | None
    seed: int
    holds_out: bool
    memory_limit: str | int | None
    allow_pruning: bool
    num_threads: int | None

    def learner(self) -> _core.Learner:
        """The core's learner; refuses what cannot be learned, before any text is read."""
        if self.initial_alphabet != "bytes":
            raise UsageError(
                f"--initial_alphabet must be bytes, not {self.initial_alphabet!r}: every "
                "vocabulary begins with all 256"
            )
        if self.allow_pruning and self.memory_limit is None:
            raise UsageError(
                "--allow_pruning has no effect without --memory_limit: nothing is ever dropped"
            )
        if not 0 <= self.seed < 1 << 64:
            raise UsageError(f"--seed must be from 0 to 2**64 - 1, not {self.seed}")
        limit = None
        if self.memory_limit is not None:
            limit = byte_size(self.memory_limit, "--memory_limit")
        return _core.Learner(
            whole_number(self.vocab_size, "--vocab_size"),
            None if self.special_tokens is None else list(self.special_tokens),
            self.pattern,
            self.tie_break,
            min_frequency=whole_number(self.min_frequency, "--min_frequency"),
            max_token_length=whole_number_or_none(self.max_token_length, "--max_token_length"),
            special_ids=self.special_ids,
            extend=self.extend,
            from_counts=[os.fspath(path) for path in self.from_counts],
            sample=self.sample,
            seed=self.seed,
            holds_out=self.holds_out,
            memory_limit=whole_number_or_none(limit, "--memory_limit"),
            allow_pruning=self.allow_pruning,
            num_threads=whole_number_or_none(self.num_threads, "--num_threads"),
        )


def check_counts_path(path: str | os.PathLike[str], *, force: bool) -> None:
    """Refuse to save counts where something is, or where nothing can be, before the counting."""
    target = Path(path)
    if target.exists() and not (force and target.is_file()):
        raise already_exists(path)
    if not target.parent.is_dir():
        raise UsageError(f"{target.parent}: no such folder to save counts in")


def pruned(counts: _core.Counts) -> str | None:
    """A sentence about what was dropped for want of memory; None where nothing was."""
    pretokens, text_bytes, lowest_kept = counts.pruned
    if not pretokens:
        return None
    share = text_bytes / max(text_bytes + counts.text_bytes, 1)
    return (
        f"the different pretokens did not fit into --memory_limit: {share:.3%} of the text was "
        f"dropped, and the lowest count kept is {lowest_kept:,}"
    )


def report(learner: _core.Learner, tokenizer: _core.Tokenizer, counts: _core.Counts) -> Report:
    """What ``tokenizer`` makes of the text that ``counts`` hold out."""
    told = learner.report(tokenizer, counts)

    def listed(tokens: Iterable[tuple[int, bytes, int]]) -> list[Listed]:
        return [{"id": number, "token": token, "count": n} for number, token, n in tokens]

    size = told["text_bytes"]
    return {
        "text_bytes": size,
        "growth": [
            {"vocab_size": vocab, "tokens": tokens, "bytes_per_token": size / max(tokens, 1)}
            for vocab, tokens in told["growth"]
        ],
        "commonest": listed(told["commonest"]),
        "longest": listed(told["longest"]),
    }


InitialAlphabet: TypeAlias = Literal["bytes"]
SpecialIds: TypeAlias = Literal["first", "last"]
