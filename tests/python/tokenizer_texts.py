"""Texts and vocabularies on which tokenizers are compared, and the two oracles they answer to."""

import os
from functools import cache
from pathlib import Path

import tiktoken
from tokenizers import Regex, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as HuggingFace

import lmkit

DATA = Path(__file__).resolve().parents[1] / "data"
EXAMPLES = int(os.environ.get("LMKIT_EXAMPLES", "60"))
END = "<|endoftext|>"
TWICE = END + END

# As tiktoken 0.14 publishes them.
PATTERNS = {
    "gpt2": r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s",
    "cl100k": (
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+"
        r"| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
    ),
    "o200k": (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+"
        r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
}
# The same in Ruby's dialect, which Hugging Face speaks: `{1,3}+` repeats there, `$` ends any line.
RUBY = {
    "cl100k": (
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}"
        r"| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++\z|\s*[\r\n]|\s+(?!\S)|\s"
    ),
    "o200k": PATTERNS["o200k"],
    r"\p{L}+|[^\p{L}\s]+|\s+$|\s": r"\p{L}+|[^\p{L}\s]+|\s+\z|\s",
}
WORDS = r"\p{L}+|[^\p{L}\s]+|\s+$|\s"  # a user's own


def data(name: str) -> str:
    return (DATA / name).read_text(encoding="utf-8")


@cache
def corpus() -> str:
    names = ("english", "languages", "code", "emoji", "stories")
    return "".join(data(f"{name}.txt") for name in names)


@cache
def learned(pattern: str) -> lmkit.Tokenizer:
    return lmkit.Tokenizer.train(texts=[corpus()], vocab_size=1500, pattern=pattern)


def whitespace() -> str:
    """Every character that some standard calls whitespace, between letters and side by side."""
    spaces = [chr(c) for c in range(0x3001) if chr(c).isspace()] + ["\u200b", "\ufeff", "\u180e"]
    single = "".join(f"a{space}b {space}c{space} d{space}\n" for space in spaces)
    pairs = "".join(f"x{one}{two}y" for one in spaces for two in spaces)
    return single + pairs + "".join(spaces)


TEXTS = {
    "empty": "",
    "english": data("english.txt"),
    "languages": data("languages.txt"),
    "code": data("code.txt"),
    "emoji and combining marks": data("emoji.txt"),
    "stories": data("stories.txt"),
    "crlf": data("english.txt").replace("\n", "\r\n") + "\r\r\n\n\r \r\n \n\r\t\r\n",
    "nul": "\0a\0\0b \0 c\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0d\0",
    "whitespace": whitespace(),
    "half a special token": f"<|endoftex <|endoftext <|endoftext| {END[1:]} <<{END}>> {END[:-1]}",
    "special tokens": f"{END}{END} a{END}\n\n{END} b {TWICE}{END}{END[:7]}{END}  {END}",
    "whitespace around a special token": f"a  {END}  b \n{END}\n c\t{END}\t",
    "contractions": (
        "'s 'S 'll'LL 've'Ve'RE're'd'D'm'M't'T''s'''ll 'speech '\u017f it's'x\n's \n'speech"
    ),
    "digits": "1 12 123 1234 12345 \uff11\uff12\uff13\uff14\uff15 ١٢٣٤٥ ½¾ Ⅷ x1y22z333",
    "long words": "a" * 97 + " " + "ab" * 100 + " " + "é" * 120 + " " + "世" * 90,
    "every ASCII pair": "".join(chr(a) + chr(b) for a in range(128) for b in range(128)),
}


def tiktoken_of(tokenizer: lmkit.Tokenizer, regex: str | None = None) -> tiktoken.Encoding:
    """tiktoken with the same vocabulary."""
    special = tokenizer.special_tokens
    ranks = {v: k for k, v in tokenizer.vocab.items() if k not in special.values()}
    regex = regex or PATTERNS.get(tokenizer.pattern, tokenizer.pattern)
    return tiktoken.Encoding("x", pat_str=regex, mergeable_ranks=ranks, special_tokens=special)


@cache
def byte_characters() -> dict[int, str]:
    """GPT-2's byte alphabet, written from its definition."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in kept]
    return {byte: chr(byte) for byte in kept} | {b: chr(256 + i) for i, b in enumerate(rest)}


def spelt(token: bytes) -> str:
    alphabet = byte_characters()
    return "".join(alphabet[byte] for byte in token)


@cache
def hugging_face_of(tokenizer: lmkit.Tokenizer) -> HuggingFace:
    """Hugging Face tokenizers with the same vocabulary, without lmkit's own tokenizer.json."""
    special = tokenizer.special_tokens
    names = {v: k for k, v in special.items()}
    vocab = {names.get(i) or spelt(token): i for i, token in tokenizer.vocab.items()}
    merges = [(spelt(left), spelt(right)) for left, right in tokenizer.merges]
    oracle = HuggingFace(models.BPE(vocab, merges))
    if tokenizer.pattern == "gpt2":
        oracle.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        regex = Regex(RUBY.get(tokenizer.pattern, tokenizer.pattern))
        split = pre_tokenizers.Split(regex, behavior="isolated")
        bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        oracle.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_only])
    oracle.decoder = decoders.ByteLevel()
    oracle.add_special_tokens(list(special))
    return oracle
