"""The same ids as tiktoken and Hugging Face tokenizers, from the same vocabulary."""

import hashlib
import json
import random
import unicodedata
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as HuggingFace
from transformers import AutoTokenizer, PreTrainedTokenizerFast

import lmkit
from tokenizer_texts import (
    DATA,
    END,
    EXAMPLES,
    PATTERNS,
    TEXTS,
    TWICE,
    WORDS,
    hugging_face_of,
    learned,
    tiktoken_of,
)

ALL = [*PATTERNS, WORDS]
LONG = 1_000_000


@pytest.mark.parametrize("pattern", ALL)
@pytest.mark.parametrize("name", TEXTS)
def test_ids_equal_tiktoken(pattern, name):
    tok = learned(pattern)
    oracle = tiktoken_of(tok)
    text = TEXTS[name]
    assert tok.encode(text) == oracle.encode(text, allowed_special="all")
    assert tok.encode(text, special="none") == oracle.encode_ordinary(text)


@pytest.mark.parametrize("pattern", ALL)
@pytest.mark.parametrize("name", TEXTS)
def test_ids_equal_hugging_face(pattern, name):
    tok = learned(pattern)
    ids = tok.encode(TEXTS[name])
    assert ids == hugging_face_of(tok).encode(TEXTS[name]).ids
    assert tok.decode(ids) == TEXTS[name]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    saved = {}
    for number, pattern in enumerate(ALL):
        saved[pattern] = tmp_path_factory.mktemp("saved") / str(number)
        learned(pattern).save(saved[pattern])
    return saved


@pytest.mark.parametrize("pattern", ALL)
def test_a_saved_tokenizer_gives_the_same_ids_in_hugging_face(pattern, folders):
    tok = learned(pattern)
    file = folders[pattern] / "tokenizer.json"
    ours = lmkit.Tokenizer.load(file)
    assert pattern == WORDS or ours.pattern == tok.pattern
    oracle = HuggingFace.from_file(str(file))
    fast = PreTrainedTokenizerFast(tokenizer_file=str(file))
    for text in TEXTS.values():
        ids = tok.encode(text)
        assert oracle.encode(text).ids == ids
        assert oracle.decode(ids, skip_special_tokens=False) == text
        assert fast.encode(text) == ids
        assert ours.encode(text) == ids


def test_auto_tokenizer_loads_a_saved_folder(folders):
    auto = AutoTokenizer.from_pretrained(str(folders["gpt2"]))
    text = TEXTS["english"] + END + TEXTS["code"]
    assert auto.encode(text) == learned("gpt2").encode(text)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("character", ["a", " ", "\n", "é", "世", "1", "!", "\0", "\u3000"])
def test_a_million_equal_characters(pattern, character):
    tok = learned(pattern)
    text = character * LONG
    ids = tok.encode(text)
    assert ids == hugging_face_of(tok).encode(text).ids
    assert tok.encode_array(text).tolist() == ids


def test_a_megabyte_of_letters_without_a_break():
    letters = random.Random(0).choices("etaoinshrdlu", k=LONG)
    text = "".join(letters)
    tok = learned("gpt2")
    assert tok.encode(text) == hugging_face_of(tok).encode(text).ids


def test_overlapping_special_tokens_longest_first():
    tok = learned("gpt2")
    both = lmkit.Tokenizer(tok.vocab, tok.merges, special_tokens=[END, TWICE])
    oracle = hugging_face_of(both)
    for text in (TWICE, TWICE + END, f"a {TWICE} {END}b{END}{TWICE}"):
        assert both.encode(text) == oracle.encode(text).ids
    assert both.encode(TWICE) == [both.special_tokens[TWICE]]


# Python's Unicode tables and those of the three libraries differ in the newest characters.
ASSIGNED = st.characters(exclude_categories=["Cs", "Cn", "Co"])
PIECES = st.sampled_from(
    [" ", "  ", "\n", "\r\n", "\t", "'s", "'LL", "'", END, END[:5], "|>", "a", "the", " the", "1",
     "1234", "É", "é", "ǅ", "ʰ", "世界", "́", "🦀", "...", "/", "\u00a0", "\u2003", "\u0085", "\0"]
)  # fmt: skip
TEXT = st.lists(st.one_of(PIECES, st.text(ASSIGNED, max_size=8))).map("".join)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_random_text(pattern):
    tok = learned(pattern)
    oracles = tiktoken_of(tok), hugging_face_of(tok)

    @settings(max_examples=4 * EXAMPLES, deadline=None)
    @given(TEXT)
    def check(text):
        ids = tok.encode(text)
        assert ids == oracles[0].encode(text, allowed_special="all")
        assert ids == oracles[1].encode(text).ids
        assert tok.decode(ids) == text
        assert list(tok.encode_iterable(text)) == ids

    check()


@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_assigned_character(pattern):
    tok = learned(pattern)
    oracle = tiktoken_of(tok)
    skipped = {"Cs", "Cn", "Co"}
    points = [chr(c) for c in range(0x110000) if unicodedata.category(chr(c)) not in skipped]
    text = "".join(f"x{c}{c} {c}1" for c in points)
    for start in range(0, len(text), LONG):
        part = text[start : start + LONG]
        assert tok.encode(part) == oracle.encode_ordinary(part)


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.integers(0), TEXT)
def test_any_merge_list_equals_hugging_face(seed, text):
    """Ids in no order and with gaps, merges in no order, twice, or missing."""
    rnd = random.Random(seed)
    base = learned("gpt2")
    tokens = [token for token in base.vocab.values() if token != END.encode()]
    merges = base.merges
    kept = [merge for merge in merges if rnd.random() < 0.9]
    kept += rnd.sample(kept, 50)
    if rnd.random() < 0.7:
        rnd.shuffle(kept)
    ids = rnd.sample(range(5000), len(tokens))
    tok = lmkit.Tokenizer(dict(zip(ids, tokens, strict=True)), kept)
    oracle = hugging_face_of(tok)
    text += TEXTS["english"]
    assert tok.encode(text) == oracle.encode(text).ids


def test_rank_files_follow_tiktoken(tmp_path):
    """Also ranks that no merges explain: a word that is a token though its parts never join."""
    import base64

    base = learned("cl100k")
    tokens = [token for token in base.vocab.values() if token != END.encode()]
    tokens += [b" lighthouse", "世界您好".encode(), b"zqxj", b"\n\n\n\n\n\n\n\n\n"]
    path = tmp_path / "x.tiktoken"
    lines = [base64.b64encode(token) + b" %d" % rank for rank, token in enumerate(tokens)]
    path.write_bytes(b"\n".join(lines) + b"\n")
    tok = lmkit.Tokenizer.load(path, special_tokens=[END], pattern="cl100k")
    assert tok.special_tokens == {END: len(tokens)}
    oracle = tiktoken_of(tok)
    for text in [
        *TEXTS.values(),
        " lighthouse lighthouses 世界您好 世界您好! zqxj zqxjz\n" + "\n" * 20,
    ]:
        assert tok.encode(text) == oracle.encode(text, allowed_special="all")


def test_ids_are_those_of_yesterday():
    """A change of results shows here even if an oracle changes along."""
    known = json.loads((DATA.parent / "golden" / "ids.json").read_text(encoding="utf-8"))
    for pattern in PATTERNS:
        ids = [learned(pattern).encode_array(text).tobytes() for text in TEXTS.values()]
        assert hashlib.sha256(b"|".join(ids)).hexdigest() == known[pattern]


@pytest.mark.shared
@pytest.mark.parametrize("name", ["books_200M", "books_b_200M", "code_80M", "zhja_40M"])
def test_heads_of_the_shared_corpora_with_gpt2s_vocabulary(name, shared_dir):
    folder = shared_dir / "gpt2"
    tok = lmkit.Tokenizer.from_files(folder / "vocab.json", folder / "merges.txt")
    with (shared_dir / "corpora" / f"{name}.txt.zst").open("rb") as file:
        head = zstandard.ZstdDecompressor().stream_reader(file).read(4_000_000)
    text = head.decode("utf-8", errors="ignore")
    ids = tok.encode(text)
    assert ids == tiktoken_of(tok).encode(text, allowed_special="all")
    assert ids == hugging_face_of(tok).encode(text).ids
    assert tok.decode(ids) == text
