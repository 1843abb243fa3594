from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias, final

import numpy as np
import numpy.typing as npt

__all__ = [
    "Checksum",
    "Counts",
    "EncodeIterator",
    "Learner",
    "ShardInputs",
    "StreamDecoder",
    "TokenizeJob",
    "Tokenizer",
    "__version__",
]

__version__: str

_Progress: TypeAlias = Callable[[int, int, int], object]

@final
class Checksum:
    def __new__(cls) -> Checksum: ...
    def update(self, data: bytes | bytearray) -> None: ...
    def text(self) -> str: ...

@final
class Tokenizer:
    def __new__(
        cls,
        vocab: Sequence[tuple[int, bytes]],
        merges: Sequence[tuple[bytes, bytes]],
        special_tokens: Sequence[str],
        pattern: str,
    ) -> Tokenizer: ...
    @staticmethod
    def from_files(
        vocab_path: str,
        merges_path: str,
        special_tokens: Sequence[tuple[str, int | None]] | None,
        pattern: str,
    ) -> Tokenizer: ...
    @staticmethod
    def load(
        path: str, special_tokens: Sequence[tuple[str, int | None]] | None, pattern: str | None
    ) -> Tokenizer: ...
    @staticmethod
    def from_json(text: str) -> Tokenizer: ...
    def to_json(self) -> str: ...
    def save(self, path: str, format: str, force: bool) -> str | None: ...  # noqa: A002
    def encode(self, text: str, special: str) -> list[int]: ...
    def encode_array(self, text: str, special: str) -> npt.NDArray[np.int32]: ...
    def encode_batch(
        self, texts: Sequence[str], special: str, num_threads: int | None
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]: ...
    def encode_iterable(self, texts: Iterator[str], special: str) -> EncodeIterator: ...
    def decode(self, ids: Iterable[int] | npt.NDArray[np.integer[Any]]) -> str: ...
    def decode_bytes(self, ids: Iterable[int] | npt.NDArray[np.integer[Any]]) -> bytes: ...
    def stream_decoder(self) -> StreamDecoder: ...
    def vocab(self) -> dict[int, bytes]: ...
    def merges(self) -> list[tuple[bytes, bytes]]: ...
    def special_tokens(self) -> dict[str, int]: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def pattern(self) -> str: ...
    @property
    def regex(self) -> str: ...
    @property
    def has_own_scanner(self) -> bool: ...
    @property
    def normalizer(self) -> str | None: ...
    @property
    def remarks(self) -> list[str]: ...
    @property
    def fingerprint(self) -> str: ...

@final
class EncodeIterator:
    def __iter__(self) -> EncodeIterator: ...
    def __next__(self) -> int: ...

@final
class Learner:
    def __new__(
        cls,
        vocab_size: int,
        special_tokens: Sequence[str] | None,
        pattern: str | None,
        tie_break: str,
        *,
        min_frequency: int,
        max_token_length: int | None,
        special_ids: str | None,
        extend: Tokenizer | None,
        from_counts: Sequence[str],
        sample: float | None,
        seed: int,
        holds_out: bool,
        memory_limit: int | None,
        allow_pruning: bool,
        num_threads: int | None,
    ) -> Learner: ...
    def plan(
        self, paths: Sequence[str], text_field: str | None, output_path: str | None, force: bool
    ) -> tuple[int, int]: ...
    def count_files(
        self,
        paths: Sequence[str],
        errors: str,
        text_field: str | None,
        leave_out: Sequence[str],
        progress: _Progress | None,
    ) -> Counts: ...
    def count_texts(self, texts: Iterator[str], progress: _Progress | None) -> Counts: ...
    def hold_out(
        self,
        counts: Counts,
        paths: Sequence[str],
        errors: str,
        text_field: str | None,
        progress: _Progress | None,
    ) -> None: ...
    def save_counts(self, counts: Counts, path: str) -> None: ...
    def learn(self, counts: Counts, progress: _Progress | None) -> Tokenizer: ...
    def report(self, tokenizer: Tokenizer, counts: Counts) -> dict[str, Any]: ...

@final
class Counts:
    @property
    def pretokens(self) -> int: ...
    @property
    def text_bytes(self) -> int: ...
    @property
    def pruned(self) -> tuple[int, int, int]: ...
    @property
    def not_text(self) -> list[Path]: ...
    @property
    def null_rows(self) -> int: ...

@final
class StreamDecoder:
    def push(self, token_id: int) -> str: ...
    def finish(self) -> str: ...

@final
class TokenizeJob:
    def __new__(
        cls,
        tokenizer: Tokenizer,
        inputs: Sequence[str],
        output: str,
        *,
        val_output: str,
        val_fraction: float | None,
        dtype: str,
        special: str,
        end_of_document: str | None,
        num_threads: int | None,
        in_memory: bool,
        force: bool,
        resume: bool,
        note_every: float | None,
        errors: str,
        text_field: str | None,
        max_record_bytes: int,
        slice_bytes: int | None,
    ) -> TokenizeJob: ...
    @staticmethod
    def of_shard(
        tokenizer: Tokenizer,
        files: Sequence[tuple[str, int, int, bool, int, int]],
        output: str,
        *,
        has_documents: bool,
        val_output: str,
        val_fraction: float | None,
        dtype: str,
        special: str,
        end_of_document: str | None,
        num_threads: int | None,
        in_memory: bool,
        errors: str,
        text_field: str | None,
        max_record_bytes: int,
    ) -> TokenizeJob: ...
    @property
    def files(self) -> int: ...
    @property
    def total_bytes(self) -> int: ...
    @property
    def end_of_document(self) -> str | None: ...
    @property
    def is_resumable(self) -> bool: ...
    def run(self, progress: Callable[[int, int, int], object] | None) -> dict[str, Any]: ...

@final
class ShardInputs:
    def __new__(
        cls,
        paths: Sequence[str],
        *,
        errors: str,
        text_field: str | None,
        max_record_bytes: int,
        left_out: Sequence[str],
    ) -> ShardInputs: ...
    @property
    def files(self) -> list[tuple[str, int, int, bool]]: ...
    @property
    def has_documents(self) -> bool: ...
    @property
    def skipped(self) -> list[str]: ...
    def check(
        self,
        tokenizer: Tokenizer,
        *,
        dtype: str,
        special: str,
        end_of_document: str | None,
        val_fraction: float | None,
        num_threads: int | None,
    ) -> str | None: ...
    def cuts(self, tokenizer: Tokenizer, special: str, count: int) -> list[tuple[int, int]]: ...
    def sample(self, tokenizer: Tokenizer, special: str) -> tuple[int, int]: ...
