"""Learning a vocabulary: equal to Hugging Face's trainer, the same however the text comes."""

import base64
import gzip
import heapq
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

import lmkit

EXAMPLES = int(os.environ.get("LMKIT_EXAMPLES", "60"))
END = "<|endoftext|>"
TEXTS = [
    "It's the end of the world as we know it, isn't it? I'll say: 'tis 1234567 times so!!\n\n" * 3,
    "def f(x):\n\treturn x ** 2  # squared\r\n\r\n\tprint(f(10000))\n" * 4,
    "naïve café — “déjà vu”… 春はあけぼの。やうやう白くなりゆく山ぎは、少しあかりて\n" * 3,
    "😀👩‍👩‍👧‍👦 e\u0301 \u00a0\u2003x\u0000y \x1c\n" * 3,
    "aaaa aaaaa aaaaaaaa ababab abababab aaab aaaabaaaab",
]
PATTERNS = {
    "gpt2": r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "cl100k": (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
    "o200k": (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+"
        r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
    r"[a-z]+|\d": r"[a-z]+|\d",
}


def huggingface(
    texts: list[str],
    vocab_size: int,
    specials: tuple[str, ...] = (END,),
    pattern: str = "gpt2",
    min_frequency: int = 0,
    max_token_length: int | None = None,
) -> tuple[dict[str, int], list[list[str]]]:
    """Vocabulary and merges of BpeTrainer, fed the text between special tokens."""
    tokenizer = Tokenizer(models.BPE())
    if pattern == "gpt2":
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(PATTERNS[pattern]), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(specials),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        min_frequency=min_frequency,
        show_progress=False,
        **({} if max_token_length is None else {"max_token_length": max_token_length}),
    )
    documents = [part for text in texts for part in text.split(END)]
    tokenizer.train_from_iterator(documents, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [list(merge) for merge in model["merges"]]


def saved(tok: lmkit.Tokenizer, folder: Path) -> tuple[dict[str, int], list[list[str]]]:
    """The same of a tokenizer of ours, from the files it writes."""
    tok.save(folder, force=True)
    model = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    merges = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
    return model["vocab"], merges


def assert_equal_to_huggingface(folder: Path, texts: list[str], size: int, **options: str) -> None:
    ours = lmkit.Tokenizer.train(
        texts=texts, vocab_size=size, tie_break="huggingface", num_threads=2, **options
    )
    vocab, merges = saved(ours, folder)
    their_vocab, their_merges = huggingface(texts, size, **options)
    assert merges == their_merges
    assert vocab == their_vocab


@pytest.mark.parametrize("pattern", PATTERNS)
def test_merges_and_ids_are_those_of_huggingface(tmp_path, pattern):
    assert_equal_to_huggingface(tmp_path / "tok", TEXTS, 600, pattern=pattern)


@given(
    texts=st.lists(
        st.one_of(
            st.text(alphabet="ab", max_size=60),
            st.text(alphabet="abc  é", max_size=80),
            st.text(max_size=40),
        ),
        max_size=8,
    ),
    extra=st.integers(0, 120),
)
@settings(max_examples=EXAMPLES, deadline=None)
def test_random_texts_give_the_merges_of_huggingface(tmp_path_factory, texts, extra):
    texts = [*texts, "x"]
    assert_equal_to_huggingface(tmp_path_factory.mktemp("tok") / "t", texts, 257 + extra)


@pytest.mark.shared
@pytest.mark.parametrize("corpus", ["books_200M", "code_80M", "zhja_40M"])
def test_heads_of_real_corpora_give_the_merges_of_huggingface(tmp_path, shared_dir, corpus):
    path = shared_dir / "corpora" / f"{corpus}.txt.zst"
    with path.open("rb") as file:
        head = zstandard.ZstdDecompressor().stream_reader(file).read(3 << 20)
    text = head.decode("utf-8", errors="ignore")
    assert_equal_to_huggingface(tmp_path / "tok", [text], 4000)


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("corpus", ["books_200M", "books_b_200M", "code_80M", "zhja_40M"])
def test_whole_corpora_give_the_merges_of_huggingface(tmp_path, shared_dir, corpus):
    packed = shared_dir / "corpora" / f"{corpus}.txt.zst"
    with packed.open("rb") as file:
        text = zstandard.ZstdDecompressor().stream_reader(file).read().decode("utf-8")
    first = lmkit.Tokenizer.train(packed, 32_000, tie_break="huggingface")
    assert saved(first, tmp_path / "tok") == huggingface([text], 32_000)
    plain = tmp_path / "plain.txt"
    plain.write_text(text, encoding="utf-8", newline="")
    for repeat in range(20):
        again = lmkit.Tokenizer.train(
            plain, 32_000, tie_break="huggingface", num_threads=repeat % 4 + 1
        )
        assert again == first


def merged(word: Sequence[bytes], pair: tuple[bytes, bytes]) -> list[bytes]:
    """The word with each occurrence of the pair, from the left, as one token."""
    new, at = [], 0
    while at < len(word):
        if tuple(word[at : at + 2]) == pair:
            new.append(pair[0] + pair[1])
            at += 2
        else:
            new.append(word[at])
            at += 1
    return new


def slow_merges(texts: list[str], count: int) -> list[tuple[bytes, bytes]]:
    """The course's rule as a student writes it: everything counted anew for each merge."""
    words = Counter()
    for text in texts:
        words.update(tuple(bytes([b]) for b in word.encode()) for word in text.split(" "))
    merges = []
    while len(merges) < count:
        pairs = Counter()
        for word, times in words.items():
            for pair in pairwise(word):
                pairs[pair] += times
        if not pairs:
            break
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        again = Counter()
        for word, times in words.items():
            again[tuple(merged(word, best))] += times
        words = again
    return merges


def indexed_merges(  # noqa: C901 - a reference on one page
    words: Counter[bytes], count: int
) -> list[tuple[bytes, bytes]]:
    """The same rule for larger texts: pairs are counted once and kept up to date by word."""
    spelled = [[bytes([b]) for b in word] for word in words]
    times = list(words.values())
    pairs, places, by_count = Counter(), defaultdict(set), defaultdict(set)
    tops: list[int] = []

    def enter(index: int, sign: int, changed: Counter[tuple[bytes, bytes]]) -> None:
        for pair in pairwise(spelled[index]):
            changed[pair] += sign * times[index]
            if sign > 0:
                places[pair].add(index)

    def settle(changed: Counter[tuple[bytes, bytes]]) -> None:
        for pair, by in changed.items():
            if by:
                by_count[pairs[pair]].discard(pair)
                pairs[pair] += by
                by_count[pairs[pair]].add(pair)
                heapq.heappush(tops, -pairs[pair])

    changed = Counter()
    for index in range(len(spelled)):
        enter(index, 1, changed)
    settle(changed)
    merges = []
    while len(merges) < count:
        while not by_count[-tops[0]]:
            heapq.heappop(tops)
        best = max(by_count[-tops[0]])
        changed = Counter()
        merges.append(best)
        for index in places.pop(best):
            enter(index, -1, changed)
            spelled[index] = merged(spelled[index], best)
            enter(index, 1, changed)
        settle(changed)
    return merges


@pytest.mark.shared
@pytest.mark.parametrize(
    ("corpus", "size", "merges"),
    [
        ("books_200M", 2 << 20, 3743),
        ("zhja_40M", 1 << 18, 3743),
        pytest.param("books_200M", 3 << 20, 3743, marks=pytest.mark.slow),
        pytest.param("code_80M", 3 << 20, 3743, marks=pytest.mark.slow),
        pytest.param("zhja_40M", 3 << 20, 3743, marks=pytest.mark.slow),
    ],
)
def test_heads_of_real_corpora_follow_the_rule_of_the_course(shared_dir, corpus, size, merges):
    with (shared_dir / "corpora" / f"{corpus}.txt.zst").open("rb") as file:
        text = zstandard.ZstdDecompressor().stream_reader(file).read(size).decode(errors="ignore")
    pattern = r" ?[^\s]+|\s"
    words = Counter(word.encode() for part in text.split(END) for word in re.findall(pattern, part))
    expected = indexed_merges(words, merges)
    for threads in (1, 3):
        tok = lmkit.Tokenizer.train(
            texts=[text], vocab_size=257 + merges, pattern=pattern, num_threads=threads
        )
        assert tok.merges == expected


def test_lexicographic_is_the_rule_of_the_course():
    texts = ["low low low low low lower lower widest widest widest newest newest newest", *TEXTS]
    tok = lmkit.Tokenizer.train(texts=texts, vocab_size=357, pattern=" |[^ ]+")
    assert tok.merges == slow_merges(texts, 100)
    assert tok.vocab[0] == b"!"
    assert tok.vocab[188] == b"\x00"
    assert tok.vocab[256] == b"".join(tok.merges[0])
    assert tok.vocab[356] == END.encode()


def test_however_the_text_comes_the_tokenizer_is_the_same(tmp_path):
    text = "".join(TEXTS) + END + "more text" + END
    plain, packed, pressed = tmp_path / "a.txt", tmp_path / "a.gz", tmp_path / "a.zst"
    plain.write_text(text, encoding="utf-8", newline="")
    packed.write_bytes(gzip.compress(text.encode()))
    pressed.write_bytes(zstandard.compress(text.encode()))
    lines = tmp_path / "a.jsonl"
    lines.write_text("".join(json.dumps({"text": part}) + "\n" for part in text.split(END)))
    expected = lmkit.Tokenizer.train(texts=text.split(END), vocab_size=500)
    assert lmkit.Tokenizer.train(texts=iter([text]), vocab_size=500) == expected
    for path in (plain, packed, pressed, lines):
        for threads in (1, 2, 5):
            assert lmkit.Tokenizer.train(path, 500, num_threads=threads) == expected, path
    assert b"endoftext" not in expected.vocab.values()


def test_a_large_text_in_memory_is_cut_like_a_file(tmp_path):
    text = "".join(TEXTS) * 3000
    path = tmp_path / "large.txt"
    path.write_text(text, encoding="utf-8", newline="")
    assert lmkit.Tokenizer.train(texts=[text], vocab_size=700) == lmkit.Tokenizer.train(path, 700)


def test_a_tokenizer_is_extended(tmp_path):
    whole = lmkit.Tokenizer.train(texts=TEXTS, vocab_size=500, special_ids="first")
    base = lmkit.Tokenizer.train(texts=TEXTS, vocab_size=380, special_ids="first")
    base.save(tmp_path / "base")
    for first in (base, tmp_path / "base", tmp_path / "base" / "tokenizer.json"):
        assert lmkit.Tokenizer.train(texts=TEXTS, vocab_size=500, extend=first) == whole
    other = lmkit.Tokenizer.train(
        texts=["zebra zoo " * 9 + "<new>"], vocab_size=385, extend=base, special_tokens=["<new>"]
    )
    assert list(other.vocab.items())[:380] == list(base.vocab.items())
    assert other.merges[: len(base.merges)] == base.merges
    assert other.special_tokens == base.special_tokens | {"<new>": 384}
    with pytest.raises(lmkit.MismatchError, match="--pattern splits text by cl100k"):
        lmkit.Tokenizer.train(texts=TEXTS, vocab_size=500, extend=base, pattern="cl100k")
    ranks = tmp_path / "ranks.tiktoken"
    ranks.write_text(
        "".join(f"{base64.b64encode(bytes([byte])).decode()} {byte}\n" for byte in range(256))
    )
    with pytest.raises(lmkit.UsageError, match="ranks has no merges to go on from"):
        lmkit.Tokenizer.train(texts=TEXTS, vocab_size=500, extend=ranks)


def test_extending_by_huggingface_ties_goes_by_the_ids_of_the_whole():
    options = {"texts": TEXTS, "tie_break": "huggingface"}
    whole = lmkit.Tokenizer.train(vocab_size=500, **options)
    base = lmkit.Tokenizer.train(vocab_size=400, **options)
    assert lmkit.Tokenizer.train(vocab_size=500, extend=base, **options) == whole


def test_tokens_are_as_long_as_huggingface_would_have_them(tmp_path):
    # BpeTrainer takes tokens shorter than its max_token_length, lmkit up to it.
    ours = lmkit.Tokenizer.train(
        texts=TEXTS, vocab_size=500, tie_break="huggingface", max_token_length=5
    )
    assert max(len(token) for token in ours.vocab.values() if token != END.encode()) == 5
    assert saved(ours, tmp_path / "t") == huggingface(TEXTS, 500, max_token_length=6)


def test_min_frequency_ends_the_learning():
    tok = lmkit.Tokenizer.train(texts=["abab ab cd"], vocab_size=400, min_frequency=2)
    assert tok.merges == [(b"a", b"b")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"vocab_size": 256}, "--vocab_size 256 is too small for 256 bytes and 1 special token"),
        ({"vocab_size": -1}, "--vocab_size must be from 0 to 9223372036854775807, not -1"),
        ({"special_tokens": ["<a>", "<a>"]}, "given twice"),
        ({"special_tokens": [""]}, "at least one byte"),
        ({"tie_break": "random"}, "none of lexicographic, huggingface"),
        ({"pattern": "("}, "pattern"),
        ({"num_threads": 0}, "--num_threads"),
        ({"texts": "a text"}, "texts is one text"),
        ({"paths": "x"}, "either paths or texts"),
        ({"text_field": "t"}, "do nothing to texts"),
        ({"max_token_length": 1}, "--max_token_length must be at least 2"),
        ({"special_ids": "middle"}, "none of first, last"),
        ({"initial_alphabet": "letters"}, "--initial_alphabet must be bytes"),
        ({"memory_limit": "1M"}, "too small; give at least 128M"),
        ({"memory_limit": "some"}, "such as 4G or 500M, not 'some'"),
        ({"allow_pruning": True}, "no effect without --memory_limit"),
        ({"held_out": "x"}, "no effect without report"),
        ({"seed": -1}, "--seed must be from 0"),
        ({"vocab_size": 1 << 70}, "--vocab_size must be from 0 to 9223372036854775807"),
        ({"min_frequency": -1}, "--min_frequency must be from 0"),
        ({"max_token_length": 1 << 70}, "--max_token_length must be from 0"),
        ({"memory_limit": 1 << 70}, "--memory_limit must be from 0"),
        ({"num_threads": -1}, "--num_threads must be from 0"),
    ],
)
def test_what_cannot_be_learned_is_refused(arguments, message):
    with pytest.raises(lmkit.UsageError, match=message):
        lmkit.Tokenizer.train(**{"texts": ["text"], **arguments})


def test_bad_input_is_named(tmp_path):
    bad = tmp_path / "bad.txt"
    bad.write_bytes(b"fine\nnot \xff fine")
    with pytest.raises(lmkit.MalformedError, match="line 2, byte offset 9"):
        lmkit.Tokenizer.train(bad, 300)
    assert lmkit.Tokenizer.train(bad, 300, errors="bytes").vocab_size > 257
    with pytest.raises(lmkit.MissingFileError):
        lmkit.Tokenizer.train(tmp_path / "none.txt", 300)
    for texts in ([], ["", ""]):
        with pytest.raises(lmkit.MalformedError, match="no text to learn from"):
            lmkit.Tokenizer.train(texts=texts, vocab_size=300)
    with pytest.raises(lmkit.MalformedError, match="surrogate"):
        lmkit.Tokenizer.train(texts=["a\ud800"], vocab_size=300)


def test_progress_tells_both_phases(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("some words of text, some more words", encoding="utf-8")
    seen = []
    tok = lmkit.Tokenizer.train(path, 270, progress=lambda *state: seen.append(state))
    assert seen[-1] == (1, len(tok.merges), 13)
    with pytest.raises(RuntimeError, match="stop"):
        lmkit.Tokenizer.train(path, 270, progress=stop)


def stop(*_state: int) -> None:
    raise RuntimeError("stop")


def test_an_iterator_that_raises_ends_the_call():
    def texts():
        yield "some text"
        stop()

    with pytest.raises(RuntimeError, match="stop"):
        lmkit.Tokenizer.train(texts=texts(), vocab_size=300)


def test_works_from_many_threads_and_in_a_forked_child():
    expected = lmkit.Tokenizer.train(texts=TEXTS, vocab_size=400)
    results: list[lmkit.Tokenizer] = []
    threads = [
        threading.Thread(
            target=lambda: results.append(lmkit.Tokenizer.train(texts=TEXTS, vocab_size=400))
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [expected] * 4
    script = (
        "import os, lmkit\n"
        "texts = ['some text to learn from'] * 9\n"
        "tok = lmkit.Tokenizer.train(texts=texts, vocab_size=270)\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    same = lmkit.Tokenizer.train(texts=texts, vocab_size=270) == tok\n"
        "    os._exit(0 if same else 1)\n"
        "assert os.waitpid(child, 0)[1] == 0\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_ctrl_c_is_answered_at_once(tmp_path):
    """Long before it has read what would take it the better part of an hour."""
    path = tmp_path / "a.txt"
    path.write_text("".join(TEXTS) * 5_000, encoding="utf-8")
    script = (
        "import lmkit, signal\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "try:\n"
        f"    lmkit.Tokenizer.train([{str(path)!r}] * 30_000, 2000, pattern=r'[a-z]+',\n"
        "        num_threads=1, progress=lambda *_: print('go', flush=True))\n"
        "except KeyboardInterrupt:\n"
        "    print('stopped', flush=True)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "go\n"
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=60)
        assert said.endswith("stopped\n")


@pytest.mark.skipif(sys.platform != "linux", reason="limits its memory as Linux does")
def test_no_memory_left_is_an_exception():
    script = (
        "import lmkit, pathlib, resource\n"
        "pages = int(pathlib.Path('/proc/self/statm').read_text().split()[0])\n"
        "limit = pages * resource.getpagesize() + (300 << 20)\n"
        "resource.setrlimit(resource.RLIMIT_AS, (limit, limit))\n"
        "texts = (' '.join(f'{i:x}and{j:x}withmore' for j in range(20_000)) for i in range(400))\n"
        "try:\n"
        "    lmkit.Tokenizer.train(texts=texts, vocab_size=999, pattern='[^ ]+', num_threads=2)\n"
        "except MemoryError as error:\n"
        "    print(error)\n"
    )
    output = subprocess.run(
        [sys.executable, "-c", script], check=True, timeout=60, capture_output=True, text=True
    ).stdout
    assert output.startswith("out of memory: ")
