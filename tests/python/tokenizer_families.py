"""Tokenizers as other tools make them, a file of each family, and those tools to ask for their ids.

Each is trained or built by the tool itself from the tests' small corpora: lmkit has no part in it.
"""

import base64
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import tiktoken
from tiktoken.load import load_tiktoken_bpe
from tokenizers import (
    AddedToken,
    Regex,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from tokenizers import Tokenizer as HuggingFace

from tokenizer_texts import PATTERNS, corpus, spelt

# As the models' own files spell them.
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
O200K = PATTERNS["o200k"]
OWN = r"\p{L}+|\p{N}|[^\p{L}\p{N}]"

Encode = Callable[[str], list[int]]


def _split(regex: str, behavior: str = "isolated", *, invert: bool = False):
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(regex), behavior, invert=invert), bytes_only]
    )


def _trained(pre_tokenizer, specials: list[str], normalizer=None, words=()) -> HuggingFace:
    """A byte-level BPE tokenizer that Hugging Face learned; special tokens come last.

    ``words`` are tokens that no merge makes, which count only as whole words: Llama 3 has some.
    """
    tokenizer = HuggingFace(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    trainer = trainers.BpeTrainer(
        vocab_size=1200,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([corpus()], trainer)
    if words:
        content = json.loads(tokenizer.to_str())
        vocab = content["model"]["vocab"]
        vocab |= {spelt(word.encode()): len(vocab) + n for n, word in enumerate(words)}
        content["model"]["ignore_merges"] = True
        tokenizer = HuggingFace.from_str(json.dumps(content))
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in specials])
    return tokenizer


def _llama3() -> HuggingFace:
    specials = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"]
    words = [" lighthouse", "世界您好", "zqxj"]
    tokenizer = _trained(_split(LLAMA3), specials, words=words)
    begin = ("<|begin_of_text|>", tokenizer.token_to_id("<|begin_of_text|>"))
    template = processors.TemplateProcessing(single="<|begin_of_text|> $A", special_tokens=[begin])
    tokenizer.post_processor = processors.Sequence(
        [processors.ByteLevel(trim_offsets=False), template]
    )
    return tokenizer


def _qwen3() -> HuggingFace:
    """As Qwen 2's, with a token that is added but not special."""
    tokenizer = HuggingFace.from_str(hugging_face("qwen2").to_str())
    tokenizer.add_tokens([AddedToken("<think>", normalized=False, special=False)])
    return tokenizer


END = "<|endoftext|>"
FAMILIES: dict[str, Callable[[], HuggingFace]] = {
    "gpt2": lambda: _trained(pre_tokenizers.ByteLevel(add_prefix_space=False), [END]),
    # As it was converted for the web, with the text between matches removed.
    "gpt4": lambda: _trained(_split(LLAMA3, "removed", invert=True), [END]),
    "gpt4o": lambda: _trained(_split(O200K), [END, "<|endofprompt|>"]),
    "llama3": _llama3,
    "qwen2": lambda: _trained(
        _split(QWEN2), [END, "<|im_start|>", "<|im_end|>"], normalizers.NFC()
    ),
    "qwen3": _qwen3,
    "own": lambda: _trained(_split(OWN), ["<s>", "</s>"]),
}


@cache
def hugging_face(family: str) -> HuggingFace:
    """A tokenizer as the models of this family have it."""
    return FAMILIES[family]()


# The rank files' patterns and special tokens are told beside them.
RANK_FILES = {
    "cl100k": (PATTERNS["cl100k"], "gpt4", {"<|endoftext|>": 1201, "<|endofprompt|>": 1220}),
    "o200k": (O200K, "gpt4o", {"<|endoftext|>": 1299}),
    "words": (PATTERNS["cl100k"], "llama3", {"<|endoftext|>": 1300}),
}


@cache
def rank_file(name: str) -> tuple[bytes, dict[bytes, int]]:
    """A rank file, and what it holds; that of ``words`` has tokens that no merges make."""
    trained = json.loads(hugging_face(RANK_FILES[name][1]).to_str())
    alphabet = {spelt(bytes([byte])): byte for byte in range(256)}
    added = {token["id"] for token in trained["added_tokens"]}
    ranks = {
        bytes(alphabet[character] for character in token): number
        for token, number in trained["model"]["vocab"].items()
        if number not in added
    }
    lines = [base64.b64encode(token) + b" %d" % rank for token, rank in ranks.items()]
    return b"\n".join(lines) + b"\n", ranks


def write(folder: Path, source: str) -> Path:
    """The file (or folder) of ``huggingface/NAME``, ``tiktoken/NAME`` or ``gpt2/NAME``."""
    tool, name = source.split("/")
    path = (
        folder / {"huggingface": "tokenizer.json", "tiktoken": "x.tiktoken", "gpt2": "pair"}[tool]
    )
    match tool:
        case "huggingface":
            hugging_face(name).save(str(path))
        case "tiktoken":
            path.write_bytes(rank_file(name)[0])
        case "gpt2":
            path.mkdir()
            hugging_face(name).model.save(str(path))
            vocab = json.loads((path / "vocab.json").read_text(encoding="utf-8"))
            added = hugging_face(name).get_added_tokens_decoder()
            vocab |= {token.content: number for number, token in added.items()}
            (path / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    return path


def ids_of_hugging_face(path: Path) -> Encode:
    """What Hugging Face tokenizers make of a text by this file."""
    tokenizer = HuggingFace.from_file(str(path))
    return lambda text: tokenizer.encode(text, add_special_tokens=False).ids


def ids_of_tiktoken(path: Path, regex: str, specials: dict[str, int]) -> Encode:
    """What tiktoken makes of a text by this file."""
    ranks = load_tiktoken_bpe(str(path))
    encoding = tiktoken.Encoding("x", pat_str=regex, mergeable_ranks=ranks, special_tokens=specials)
    return lambda text: encoding.encode(text, allowed_special="all")


def ids_of_pair(path: Path, pre_tokenizer, specials: list[str]) -> Encode:
    """What Hugging Face tokenizers make of a text by these two files."""
    model = models.BPE.from_file(str(path / "vocab.json"), str(path / "merges.txt"))
    tokenizer = HuggingFace(model)
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.add_special_tokens(specials)
    return lambda text: tokenizer.encode(text).ids


def source_ids(source: str, path: Path) -> Encode:
    """The ids by the tool that made the file."""
    tool, name = source.split("/")
    if tool == "tiktoken":
        return ids_of_tiktoken(path, RANK_FILES[name][0], RANK_FILES[name][2])
    if tool == "huggingface":
        return ids_of_hugging_face(path)
    trained = hugging_face(name)
    specials = [token.content for token in trained.get_added_tokens_decoder().values()]
    return ids_of_pair(path, trained.pre_tokenizer, specials)


def told(source: str) -> dict[str, object]:
    """What must be told to read the file: arguments of ``Tokenizer.load``."""
    tool, name = source.split("/")
    if tool == "tiktoken":
        return {"pattern": RANK_FILES[name][0], "special_tokens": RANK_FILES[name][2]}
    if source == "gpt2/gpt4o":
        return {"pattern": O200K}
    return {}


SOURCES = [
    *(f"huggingface/{name}" for name in FAMILIES),
    *(f"tiktoken/{name}" for name in RANK_FILES),
    "gpt2/gpt2",
    "gpt2/gpt4o",
]
