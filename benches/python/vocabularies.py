"""The tokenizers that the benchmarks encode with, as folders that lmkit wrote.

GPT-2's vocabulary comes from two files beside the corpora; the others are learned here, once, from
the books, and kept in ``benches/.cache``. Beside each lies a rank file, for tools that read cl100k
and o200k from nothing else.
"""

import base64
from pathlib import Path

import corpora
import lmkit

GPT2_VOCAB = corpora.SHARED / "gpt2" / "vocab.json"
GPT2_MERGES = corpora.SHARED / "gpt2" / "merges.txt"

# Name -> pattern and size.
LEARNED = {
    "books-10000": ("gpt2", 10_000),
    "cl100k-32000": ("cl100k", 32_000),
    "o200k-32000": ("o200k", 32_000),
}
GPT2 = "gpt2"


def folder(name: str) -> Path:
    """The tokenizer folder called ``name``."""
    path = corpora.CACHE / "vocabularies" / name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        made = tokenizer(name)
        write_ranks(made, path.with_suffix(".tiktoken"))
        made.save(path)
    return path


def write_ranks(tokenizer: lmkit.Tokenizer, path: Path) -> None:
    """Write all but the special tokens as a rank file; ids are ranks here."""
    special = set(tokenizer.special_tokens.values())
    path.write_text(
        "".join(
            f"{base64.b64encode(token).decode()} {number}\n"
            for number, token in tokenizer.vocab.items()
            if number not in special
        )
    )


def tokenizer(name: str) -> lmkit.Tokenizer:
    """The tokenizer called ``name``, read or learned anew."""
    if name == GPT2:
        return lmkit.Tokenizer.from_files(GPT2_VOCAB, GPT2_MERGES)
    pattern, size = LEARNED[name]
    return lmkit.Tokenizer.train(corpora.text("english"), size, pattern=pattern)
