"""One text file to a learned vocabulary with each tool: ``learners.py TOOL TEXT SIZE OUT``.

OUT gets the merges, one ``left right`` a line in the GPT-2 alphabet, so that they can be compared
(of tools that tell no merges, the tokens).
Every tool is fed the documents (the text between separators) in the way it likes best.
"""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

SEPARATOR = "<|endoftext|>"
GPT2_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def documents(text: str) -> Iterator[str]:
    """The documents of the file, read 16 MB at a time."""
    rest = ""
    with Path(text).open(encoding="utf-8", newline="") as source:
        while piece := source.read(16 << 20):
            *whole, rest = (rest + piece).split(SEPARATOR)
            yield from whole
    if rest:
        yield rest


def huggingface(text: str, size: int, out: str) -> None:
    """Hugging Face's BpeTrainer, fed documents."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[SEPARATOR],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents(text), trainer)
    folder = Path(out).with_suffix(".hf")
    folder.mkdir(exist_ok=True)
    _, merges = tokenizer.model.save(str(folder))
    lines = Path(merges).read_text(encoding="utf-8").splitlines()
    write(out, [line for line in lines if not line.startswith("#version")])


def rustbpe(text: str, size: int, out: str) -> None:
    """Rustbpe, fed documents, with GPT-2's pattern."""
    import rustbpe as library

    tokenizer = library.Tokenizer()
    tokenizer.train_from_iterator(documents(text), size - 1, pattern=GPT2_PATTERN)
    write_tokens(out, tokenizer.get_mergeable_ranks())


def flashbpe(text: str, size: int, out: str) -> None:
    """Flashbpe, fed documents, with GPT-2's pattern."""
    import flashbpe as library

    tokenizer = library.Tokenizer()
    tokenizer.train_from_iterator(documents(text), size - 1, pattern=GPT2_PATTERN)
    write_tokens(out, tokenizer.get_mergeable_ranks())


def ffbpe(text: str, size: int, out: str) -> None:
    """Ffbpe, fed documents through its native counter."""
    import ffbpe as library

    counter = library.PreTokenizer([SEPARATOR]).word_counter()
    counter.add_source(documents(text))
    trainer = library.BpeTrainer([SEPARATOR])
    trainer.add_word_counter(counter)
    trainer.train(size)
    vocab = trainer.validate_model().vocab.items()
    learned = [(token, number) for token, number in vocab if token != SEPARATOR.encode()]
    write_tokens(out, learned)


def gigabpe(text: str, size: int, out: str) -> None:
    """Gigabpe, which reads the file itself, line by line."""
    import gigabpe as library

    # Its default splits at whitespace and learns characters, which is another task.
    _, merges = library.train_bpe(
        [text], size, special_tokens=[SEPARATOR], pretokenizer="bytelevel", threads=2
    )
    write(out, [f"{left} {right}" for left, right in merges])


def gigatoken(text: str, size: int, out: str) -> None:
    """Gigatoken's trainer, which reads the file itself."""
    import gigatoken as library

    source = library.TextFileSource([text], separator=SEPARATOR.encode())
    _, merges = library.train_bpe(source, size, [SEPARATOR])
    alphabet = gpt2_alphabet()
    write(out, [" ".join("".join(alphabet[b] for b in side) for side in pair) for pair in merges])


def gpt2_alphabet() -> list[str]:
    """The character that stands for each byte in GPT-2's files."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in kept]
    moved = {byte: chr(256 + place) for place, byte in enumerate(others)}
    return [moved.get(byte, chr(byte)) for byte in range(256)]


def write_tokens(out: str, ranks: Iterable[tuple[bytes, int]]) -> None:
    """Write the tokens that are no single bytes, by rising id, in the GPT-2 alphabet."""
    alphabet = gpt2_alphabet()
    ordered = sorted(ranks, key=lambda pair: pair[1])
    longer = [bytes(token) for token, _ in ordered if len(token) > 1]
    write(out, ["".join(alphabet[byte] for byte in token) for token in longer])


def write(out: str, lines: list[str]) -> None:
    """Write ``lines`` to ``out``."""
    Path(out).write_text("\n".join(lines) + "\n", encoding="utf-8")


TOOLS = {
    "huggingface": huggingface,
    "rustbpe": rustbpe,
    "flashbpe": flashbpe,
    "ffbpe": ffbpe,
    "gigabpe": gigabpe,
    "gigatoken": gigatoken,
}

if __name__ == "__main__":
    TOOLS[sys.argv[1]](sys.argv[2], int(sys.argv[3]), sys.argv[4])
