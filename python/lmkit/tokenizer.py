"""`Tokenizer`: text to token ids and back, by byte-level BPE."""

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from lmkit import _core
from lmkit.errors import SystemRefusedError, UsageError
from lmkit.train_tokenizer import (
    InitialAlphabet,
    Learning,
    Progress,
    Report,
    SpecialIds,
    check_counts_path,
    pruned,
)
from lmkit.train_tokenizer import report as report_on

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Path: TypeAlias = str | os.PathLike[str]
Special: TypeAlias = Literal["encode", "none", "error"]
Format: TypeAlias = Literal["lmkit", "huggingface", "tiktoken", "gpt2"]
TieBreak: TypeAlias = Literal["lexicographic", "huggingface"]


class Tokenizer:
    """A byte-level BPE tokenizer: a vocabulary, its merges, special tokens and a pattern.

    Gives the ids of tiktoken and of Hugging Face tokenizers for the same vocabulary. Immutable; may
    be used from many threads, pickled, copied, and used in a forked child.

    Args:
        vocab: token id -> bytes of the token. Must have all 256 single bytes; ids may have gaps and
            need not be in the order of the merges.
        merges: pairs of byte strings, the first merged first.
        special_tokens: texts that are one token each and never merged across; of several that match
            at a place the longest is taken. One that the vocabulary lacks is appended at the
            largest id + 1. None: there are none.
        pattern: how text is split before merging: ``"gpt2"``, ``"cl100k"``, ``"o200k"``,
            ``"llama3"``, ``"qwen2"``, or a regular expression. One that is known to mean the same
            as one of these is as fast; any other goes through a library and is slower.

    Raises:
        MalformedError: a byte has no token, a merge names an unknown token, an id or a token stands
            there twice, an id does not fit an int32.
        UsageError: the pattern is no regular expression, a special token is empty or given twice.

    Examples:
        >>> vocab = {byte: bytes([byte]) for byte in range(256)} | {256: b"he"}
        >>> tok = Tokenizer(vocab, [(b"h", b"e")], special_tokens=["<|endoftext|>"])
        >>> tok.encode("hehe<|endoftext|>")
        [256, 256, 257]
        >>> tok.decode([256, 257])
        'he<|endoftext|>'
    """

    __slots__ = ("_native",)

    _native: _core.Tokenizer

    def __init__(
        self,
        vocab: Mapping[int, bytes],
        merges: Sequence[tuple[bytes, bytes]],
        special_tokens: Sequence[str] | None = None,
        pattern: str = "gpt2",
    ) -> None:
        specials = list(special_tokens) if special_tokens is not None else []
        self._native = _core.Tokenizer(list(vocab.items()), list(merges), specials, pattern)

    @classmethod
    def _wrap(cls, core: _core.Tokenizer) -> "Tokenizer":
        tokenizer = cls.__new__(cls)
        tokenizer._native = core
        return tokenizer

    @classmethod
    def from_files(
        cls,
        vocab_path: Path,
        merges_path: Path,
        special_tokens: Sequence[str] | Mapping[str, int | None] | None = None,
        pattern: str = "gpt2",
    ) -> "Tokenizer":
        """Read GPT-2 style files, whatever their names.

        Args:
            vocab_path: JSON object, token in GPT-2's byte alphabet -> id.
            merges_path: one merge a line, two tokens with a space between; a first line that starts
                with ``#version`` is a header.
            special_tokens: as for the constructor, or with their ids, except that None takes the
                entries shaped ``<|...|>`` that no merge makes.
            pattern: as for the constructor.

        Raises:
            MissingFileError: a file is not there.
            MalformedError: a file is not what it should be; the message names file and line.
        """
        return cls._wrap(
            _core.Tokenizer.from_files(
                os.fspath(vocab_path), os.fspath(merges_path), _named(special_tokens), pattern
            )
        )

    @classmethod
    def load(
        cls,
        path: Path,
        special_tokens: Sequence[str] | Mapping[str, int | None] | None = None,
        pattern: str | None = None,
    ) -> "Tokenizer":
        """Read a tokenizer: a folder or a file, of lmkit or of another tool.

        Args:
            path: a tokenizer folder; a Hugging Face ``tokenizer.json`` or a folder with one; a
                folder with GPT-2's ``vocab.json`` and ``merges.txt`` (or ``encoder.json`` and
                ``vocab.bpe``); or a tiktoken rank file.
            special_tokens: None takes those the file records. A rank file records none, and a
                vocabulary with merges those shaped ``<|...|>`` that no merge makes. One that the
                vocabulary lacks gets the id that a mapping gives it, else (None there, or a list)
                the next one after the largest.
            pattern: None takes the one the file records (``"gpt2"`` where it records none).

        Raises:
            MissingFileError: there is nothing at ``path``.
            MalformedError: it is not a byte-level BPE tokenizer, or does something that would give
                other ids; the message names it.
            UsageError: a special token has another id in the vocabulary.

        Examples:
            >>> Tokenizer.load("tokenizer/") == Tokenizer.load("tokenizer/tokenizer.json")
            True
        """
        return cls._wrap(_core.Tokenizer.load(os.fspath(path), _named(special_tokens), pattern))

    @classmethod
    def from_json(cls, text: str) -> "Tokenizer":
        """The tokenizer that :meth:`to_json` described."""
        return cls._wrap(_core.Tokenizer.from_json(text))

    @classmethod
    def train(
        cls,
        paths: Path | Sequence[Path] | None = None,
        vocab_size: int = 10_000,
        special_tokens: Sequence[str] | None = None,
        pattern: str | None = None,
        tie_break: TieBreak = "lexicographic",
        *,
        texts: Iterable[str] | None = None,
        min_frequency: int = 1,
        max_token_length: int | None = None,
        special_ids: SpecialIds | None = None,
        initial_alphabet: InitialAlphabet = "bytes",
        extend: "Tokenizer | Path | None" = None,
        sample: float | None = None,
        seed: int = 0,
        from_counts: Path | Sequence[Path] = (),
        save_counts: Path | None = None,
        report: Callable[[Report], object] | None = None,
        held_out: Path | Sequence[Path] = (),
        memory_limit: str | int | None = None,
        allow_pruning: bool = False,
        num_threads: int | None = None,
        errors: Literal["strict", "replace", "bytes"] = "strict",
        text_field: str | None = None,
        force: bool = False,
        progress: Progress | None = None,
    ) -> "Tokenizer":
        """Learn a vocabulary from text: the most frequent pair of tokens is merged, time and again.

        Exact, and the same for any number of threads and however the text comes. Text with fewer
        merges than asked gives a smaller vocabulary.

        Args:
            paths: a file, a folder, a glob or ``"-"`` (standard input), or several; ``.gz`` and
                ``.zst`` are known by their content, ``.jsonl`` by its name.
            vocab_size: how many tokens to learn, the 256 bytes and the special tokens included.
            special_tokens: cut out of the text before counting; they get ids of their own. None:
                those of the tokenizer to extend, else those of the saved counts, else
                ``<|endoftext|>``.
            pattern: how text is split: ``"gpt2"``, ``"cl100k"``, ``"o200k"``, ``"llama3"``,
                ``"qwen2"``, or a regular expression. None: that of the tokenizer to extend, else
                that of the saved counts, else ``"gpt2"``.
            tie_break: which of equally frequent pairs comes first. ``"lexicographic"``: the
                greatest (left bytes, right bytes), with the ids of the bytes in GPT-2's order, of
                the merges, then of the special tokens. ``"huggingface"``: as Hugging Face's
                BpeTrainer, the smallest (left id, right id), special tokens first.
            texts: documents in memory, instead of ``paths``; taken one after another.
            min_frequency: pairs rarer than this are not merged.
            max_token_length: no token of more bytes is learned, 2 or more; None: no limit.
            special_ids: ``"first"`` or ``"last"``: whether special tokens get the ids before the
                bytes or after the merges; None: as ``tie_break`` has it.
            initial_alphabet: ``"bytes"``: every vocabulary begins with all 256 of them, so that it
                can encode any text.
            extend: a tokenizer whose tokens keep their ids and whose merges come first; its pattern
                and its special tokens stay. What is learned gets the ids after its largest.
            sample: learn from about this share of the documents, chosen by a hash of the first
                4,096 bytes of each. Documents are files, lines of ``.jsonl``, the texts, and what
                ``<|endoftext|>`` (else the first special token) divides in plain text.
            seed: which documents those are, from 0 to 2**64 - 1.
            from_counts: files of counts that ``save_counts`` wrote; they add up, with the text if
                there is any. They must have been cut by the same pattern and special tokens.
            save_counts: a file for what was counted, before anything is learned from it.
            report: called with a :class:`~lmkit.train_tokenizer.Report` of what the vocabulary
                makes of text that it was not learned from: ``held_out``, else the documents that
                ``sample`` did not choose, else one in a hundred, which are then not learned from.
            held_out: files, as for ``paths``, that are reported on.
            memory_limit: bytes, or text such as ``"4G"`` (at least ``"128M"``): the most memory
                that a fresh process takes. Text whose different pretokens do not fit is an error.
            allow_pruning: drop the rarest pretokens instead, with a warning of how much that was.
                What is dropped is the same for any number of threads.
            num_threads: how many threads count; None: one per core.
            errors: what to do with bytes in files that are not UTF-8: refuse them, replace them by
                U+FFFD, or take each as a pretoken of its own.
            text_field: the field of each line of ``.jsonl``, or the column of ``.parquet``, that
                holds the text.
            force: replace a file of counts that is there already.
            progress: called as ``progress(phase, done, total)`` while counting (phase 0, in bytes)
                and merging (phase 1, in tokens); 0 stands for a total that is not known.

        Raises:
            MissingFileError: there is nothing at a path.
            MalformedError: a file is not UTF-8 or a damaged file of counts, or there is no text.
            MismatchError: saved counts, a tokenizer to extend and the arguments do not go together.
            UsageError: ``vocab_size`` is too small for the bytes and the special tokens, the
                different pretokens do not fit into ``memory_limit``, or another argument cannot be
                used.

        Examples:
            >>> tok = Tokenizer.train(texts=["low lower lowest"], vocab_size=259)
            >>> tok.merges
            [(b'o', b'w'), (b'l', b'ow')]
        """
        counted, held = _paths(from_counts), _paths(held_out)
        _check_sources(paths, texts, counted, errors, text_field)
        if held and report is None:
            raise UsageError("held_out has no effect without report")
        if save_counts is not None:
            check_counts_path(save_counts, force=force)
        base = cls.load(extend) if isinstance(extend, str | os.PathLike) else extend
        learner = Learning(
            vocab_size=vocab_size,
            special_tokens=special_tokens,
            pattern=pattern,
            tie_break=tie_break,
            min_frequency=min_frequency,
            max_token_length=max_token_length,
            special_ids=special_ids,
            initial_alphabet=initial_alphabet,
            extend=None if base is None else base._native,
            from_counts=counted,
            sample=sample,
            seed=seed,
            holds_out=report is not None and not held,
            memory_limit=memory_limit,
            allow_pruning=allow_pruning,
            num_threads=num_threads,
        ).learner()
        if texts is None:
            counts = learner.count_files(_paths(paths or ()), errors, text_field, [], progress)
        else:
            counts = learner.count_texts(iter(texts), progress)
        if (dropped := pruned(counts)) is not None:
            warnings.warn(dropped, stacklevel=2)
        if save_counts is not None:
            learner.save_counts(counts, os.fspath(save_counts))
        if held:
            learner.hold_out(counts, held, errors, text_field, progress)
        tokenizer = learner.learn(counts, progress)
        if report is not None:
            report(report_on(learner, tokenizer, counts))
        return cls._wrap(tokenizer)

    def to_json(self) -> str:
        """The whole tokenizer as one JSON text, in canonical form; what checkpoints carry."""
        return self._native.to_json()

    def save(
        self,
        path: Path,
        *,
        format: Format = "lmkit",  # noqa: A002 - what users call it
        force: bool = False,
    ) -> None:
        """Write a tokenizer folder, or the file of another tool that gives the same ids.

        What is written appears only when whole. A tokenizer folder's ``tokenizer.json`` loads in
        Hugging Face ``tokenizers`` and ``transformers`` and gives the same ids; where a pattern of
        one's own has something that Hugging Face reads differently it is left out, with a warning.

        Args:
            path: where to write; its parent must exist.
            format: ``"lmkit"``: a folder of ``vocab.json``, ``merges.txt``, ``tokenizer.json`` and
                ``lmkit.json``. ``"huggingface"``: a ``tokenizer.json``. ``"tiktoken"``: a rank
                file, which holds neither :attr:`regex` nor the special tokens: tiktoken is told
                these. ``"gpt2"``: a folder of ``vocab.json`` and ``merges.txt``, which say neither
                the pattern nor which tokens are special.
            force: replace such a file, or a tokenizer folder, that is there already.

        Raises:
            UsageError: the format cannot give the same ids (the message says why), or ``path``
                exists (and is not a tokenizer, or ``force`` is off).
            SystemRefusedError: the system refused a write.

        Examples:
            >>> tok = Tokenizer.train(texts=["low lower lowest"], vocab_size=259)
            >>> tok.save("low_tokenizer")
            >>> Tokenizer.load("low_tokenizer") == tok
            True
        """
        left_out = save_native(self._native, path, format, force=force)
        if left_out is not None:
            warnings.warn(left_out, stacklevel=2)

    def encode(self, text: str, *, special: Special = "encode") -> list[int]:
        """Token ids of ``text``.

        Args:
            text: any text without lone surrogates.
            special: what to do with special tokens in the text: ``"encode"`` them, which is for
                data one owns; take them as ordinary text (``"none"``), for text from strangers; or
                refuse them (``"error"``).

        Raises:
            MalformedError: a lone surrogate, with its index.
            UsageError: a special token in the text with ``special="error"``.

        Examples:
            >>> tok = Tokenizer.train(texts=["low lower lowest"], vocab_size=259)
            >>> tok.encode("lower<|endoftext|>")
            [257, 68, 81, 258]
            >>> len(tok.encode("lower<|endoftext|>", special="none"))
            16
        """
        return self._native.encode(text, special)

    def encode_array(self, text: str, *, special: Special = "encode") -> "npt.NDArray[np.int32]":
        """Token ids of ``text`` as an int32 array of shape (n,); otherwise as :meth:`encode`."""
        return self._native.encode_array(text, special)

    def encode_batch(
        self,
        texts: Sequence[str],
        *,
        special: Special = "encode",
        num_threads: int | None = None,
    ) -> "tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]":
        """Token ids of many texts, on many threads, with the interpreter lock released.

        Args:
            texts: the texts.
            special: as for :meth:`encode`.
            num_threads: how many threads to use; None: one per core.

        Returns:
            ``(ids, offsets)``: int32 ids of all texts in a row, and int64 offsets of shape
            (len(texts) + 1,); text i has ``ids[offsets[i]:offsets[i + 1]]``.

        Raises:
            UsageError: ``texts`` is one text; its characters would be taken for texts.

        Examples:
            >>> tok = Tokenizer.train(texts=["low lower lowest"], vocab_size=259)
            >>> ids, offsets = tok.encode_batch(["low", "", "lower"])
            >>> ids.tolist(), offsets.tolist()
            ([257, 257, 68, 81], [0, 1, 1, 4])
        """
        _refuse_one_text(texts)
        return self._native.encode_batch(list(texts), special, num_threads)

    def encode_iterable(
        self, texts: Iterable[str], *, special: Special = "encode"
    ) -> Iterator[int]:
        """Token ids of the texts joined, one at a time.

        Equal to ``encode("".join(texts))`` wherever the text is cut, but never holds more than the
        stretch of text that no token boundary divides. Works on the calling thread, in memory that
        was taken when the tokenizer was made.

        Examples:
            >>> tok = Tokenizer.train(texts=["low lower lowest"], vocab_size=259)
            >>> list(tok.encode_iterable(["lo", "w", "er"])) == tok.encode("lower")
            True
        """
        return self._native.encode_iterable(iter(texts), special)

    def decode(self, ids: "Iterable[int] | npt.NDArray[np.integer[Any]]") -> str:
        """Text of ``ids``; bytes that are no UTF-8 become U+FFFD.

        Args:
            ids: a list or a one-dimensional integer array.

        Raises:
            MalformedError: an id that is not in the vocabulary, with its index.

        Examples:
            >>> tok = Tokenizer.train(texts=["low lower lowest"], vocab_size=259)
            >>> tok.decode([257, 68, 81])
            'lower'
        """
        return self._native.decode(ids)

    def decode_bytes(self, ids: "Iterable[int] | npt.NDArray[np.integer[Any]]") -> bytes:
        """The bytes of ``ids``, joined; otherwise as :meth:`decode`."""
        return self._native.decode_bytes(ids)

    def stream_decoder(self) -> _core.StreamDecoder:
        """A decoder for ids that come one by one; it holds back characters that are not whole.

        Examples:
            >>> tok = Tokenizer({byte: bytes([byte]) for byte in range(256)}, [])
            >>> decoder = tok.stream_decoder()
            >>> [decoder.push(token_id) for token_id in tok.encode("é!")] + [decoder.finish()]
            ['', 'é', '!', '']
        """
        return self._native.stream_decoder()

    @property
    def vocab(self) -> dict[int, bytes]:
        """Token id -> bytes, special tokens included, by rising id; made anew at each call."""
        return self._native.vocab()

    @property
    def merges(self) -> list[tuple[bytes, bytes]]:
        """The merges in order, as pairs of byte strings; empty for a rank file; made anew."""
        return self._native.merges()

    @property
    def special_tokens(self) -> dict[str, int]:
        """Special token -> id, by rising id."""
        return self._native.special_tokens()

    @property
    def vocab_size(self) -> int:
        """The largest id + 1: what a model's embedding needs."""
        return self._native.vocab_size

    @property
    def pattern(self) -> str:
        """The name of a known pattern, such as ``"gpt2"``, or a regular expression."""
        return self._native.pattern

    @property
    def regex(self) -> str:
        """The pattern as a regular expression, in the words of Rust's ``fancy-regex``.

        That is what tiktoken takes as ``pat_str``.
        """
        return self._native.regex

    @property
    def has_own_scanner(self) -> bool:
        """Whether the pattern is a known one; any other goes through a library and is slower."""
        return self._native.has_own_scanner

    @property
    def remarks(self) -> list[str]:
        """What the file it was loaded from held that decides about no ids and is not kept."""
        return self._native.remarks

    @property
    def normalizer(self) -> str | None:
        """``"NFC"`` where text is brought into Unicode's form C before it is split, else None.

        Then :meth:`decode` gives back that form of a text.
        """
        return self._native.normalizer

    @property
    def fingerprint(self) -> str:
        """The sha256 of pattern, tokens by id, merges and special tokens in canonical form."""
        return self._native.fingerprint

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Tokenizer):
            return NotImplemented
        return self.fingerprint == other.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __reduce__(self) -> "tuple[Any, tuple[str]]":
        return type(self).from_json, (self.to_json(),)

    def __copy__(self) -> "Tokenizer":
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> "Tokenizer":
        return self  # immutable

    def __repr__(self) -> str:
        first, rest = list(self.special_tokens)[:3], list(self.special_tokens)[3:]
        shown = ", ".join(map(repr, first)) + (", ..." if rest else "")
        return (
            f"Tokenizer(vocab_size={self.vocab_size}, pattern={self.pattern!r}, "
            f"special_tokens=[{shown}], fingerprint={self.fingerprint[:12]!r})"
        )

    def _repr_html_(self) -> str:
        """How a notebook shows it: its facts, and a sentence cut into tokens."""
        from lmkit.token_view import tokenizer_card

        return tokenizer_card(self)


def save_native(
    native: _core.Tokenizer,
    path: Path,
    format: Format,  # noqa: A002 - what users call it
    *,
    force: bool,
) -> str | None:
    """Do as `Tokenizer.save`; why there is no ``tokenizer.json``, where it was left out."""
    try:
        return native.save(os.fspath(path), format, force)
    except SystemRefusedError as error:
        import pathlib

        from lmkit.durable import name_as_final

        name_as_final(error, pathlib.Path(path))
        raise


def _named(
    special_tokens: Sequence[str] | Mapping[str, int | None] | None,
) -> list[tuple[str, int | None]] | None:
    """Special tokens that are asked for, with their ids where those are told."""
    if special_tokens is None:
        return None
    if isinstance(special_tokens, Mapping):
        return list(special_tokens.items())
    return [(token, None) for token in special_tokens]


def _paths(paths: Path | Sequence[Path]) -> list[str]:
    """One path or several, as text."""
    many = [paths] if isinstance(paths, str | os.PathLike) else paths
    return [os.fspath(path) for path in many]


def _refuse_one_text(texts: Iterable[str]) -> None:
    if isinstance(texts, str):
        raise UsageError("texts is one text; give a list or another iterable of texts")


def _check_sources(
    paths: Path | Sequence[Path] | None,
    texts: Iterable[str] | None,
    from_counts: list[str],
    errors: str,
    text_field: str | None,
) -> None:
    """Refuse text that is given in two ways, or in none."""
    if paths is not None and texts is not None:
        raise UsageError("give either paths or texts")
    if paths is None and texts is None and not from_counts:
        raise UsageError("give either paths or texts, or counts that were saved")
    if texts is not None:
        _refuse_one_text(texts)
    if paths is None and (errors != "strict" or text_field is not None):
        raise UsageError("errors and text_field are for paths; they do nothing to texts")
