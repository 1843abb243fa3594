"""Tokenizers of other tools: the same ids on hostile text, or a refusal that names the reason."""

import itertools
import json
import unicodedata
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, models, normalizers
from tokenizers import Tokenizer as HuggingFace

import lmkit
from lmkit.errors import MalformedError, UsageError
from tokenizer_families import (
    LLAMA3,
    OWN,
    QWEN2,
    SOURCES,
    hugging_face,
    source_ids,
    told,
    write,
)
from tokenizer_texts import EXAMPLES, TEXTS, corpus


def loaded(content: dict, tmp_path, **options) -> lmkit.Tokenizer:
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return lmkit.Tokenizer.load(path, **options)


def content_of(family: str) -> dict:
    return json.loads(hugging_face(family).to_str())


# --- hostile text ------------------------------------------------------------------------------

# Python's Unicode tables and those of the libraries differ in the newest characters.
ASSIGNED = st.characters(exclude_categories=["Cs", "Cn", "Co"])
PIECES = st.sampled_from(
    [" ", "  ", " " * 5, " " * 11, "\n", "\r\n", "\t", " \n ", "'s", "'LL", "'\u017f", "'Re", "'",
     "a", "the", " the", "Word", "1", "12", "1234", "١٢٣", "½", "É", "e\u0301", "\u0301",
     "\u0323\u0301", "\u212a", "\u212b", "\u037e", "=\u0338", "ǅ", "ʰ", "世界", "か\u3099",
     "\u1100\u1161\u11a8", "각", "\uf900", "\U0001d15e", "🦀", "\u200d", "...", "/", "!\n/",
     "\u00a0", "\u2003", "\u3000", "\u0085", "\0", " lighthouse", "zqxj", "<|endoftext|>",
     "<|im_start|>", "<|im_end|>", "<|begin_of_text|>", "<think>", "<thi", "|>", "<s>", "</s>"]
)  # fmt: skip
TEXT = st.lists(st.one_of(PIECES, st.text(ASSIGNED, max_size=6)), max_size=24).map("".join)


@cache
def neox() -> HuggingFace:
    """As GPT-NeoX has it: form C, and runs of spaces that are added tokens but not special."""
    tokenizer = HuggingFace.from_str(hugging_face("gpt2").to_str())
    tokenizer.normalizer = normalizers.NFC()
    learned = tokenizer.get_vocab()
    spaces = [" " * n for n in range(24, 1, -1) if "Ġ" * n not in learned]
    tokenizer.add_tokens([AddedToken(one, normalized=True, special=False) for one in spaces])
    return tokenizer


@pytest.mark.parametrize("source", [*SOURCES, "neox"])
def test_hostile_text(source, tmp_path, monkeypatch):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "")
    if source == "neox":
        neox().save(str(tmp_path / "tokenizer.json"))
        tok, expected = lmkit.Tokenizer.load(tmp_path), lambda text: neox().encode(text).ids
    else:
        path = write(tmp_path, source)
        tok, expected = lmkit.Tokenizer.load(path, **told(source)), source_ids(source, path)

    @settings(max_examples=2 * EXAMPLES, deadline=None)
    @given(TEXT, st.lists(st.integers(0, 200), max_size=4))
    def check(text, cuts):
        ids = expected(text)
        assert tok.encode(text) == ids
        places = sorted({0, *(cut for cut in cuts if cut < len(text)), len(text)})
        parts = [text[one:other] for one, other in itertools.pairwise(places)]
        assert list(tok.encode_iterable(parts)) == ids

    check()


def test_every_assigned_character(qwen):
    """Between letters, before a mark and after one, so that it may compose and be split."""
    tok = lmkit.Tokenizer.load(qwen)
    skipped = {"Cs", "Cn", "Co"}
    points = [chr(c) for c in range(0x110000) if unicodedata.category(chr(c)) not in skipped]
    common = [c for c in points if not 0x4E00 <= ord(c) < 0x9F00 and ord(c) < 0x20000]
    for start in range(0, len(common), 4096):
        text = "".join(f"x{c}\u0301{c}1 e{c} {c}y" for c in common[start : start + 4096])
        assert tok.encode(text) == hugging_face("qwen2").encode(text).ids, start


# --- form C ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    folder = tmp_path_factory.mktemp("qwen")
    hugging_face("qwen2").save(str(folder / "tokenizer.json"))
    return folder


@cache
def decomposed() -> tuple[str, list[int]]:
    """A text that is not in form C, with long stretches without a cut, and its ids."""
    text = unicodedata.normalize("NFD", corpus())
    marks = "e" + "\u0301\u0323" * 3000
    text = text * 30 + "é" * 50_000 + "e\u0301" * 50_000 + marks + "<|im_end|>\u0301" + text
    return text * 2, hugging_face("qwen2").encode(text * 2).ids


@pytest.mark.parametrize("method", ["streaming", "in-memory"])
def test_files_are_normalized_wherever_they_are_cut(method, qwen, tmp_path):
    text, expected = decomposed()
    assert len(text.encode()) > 3 << 19  # some slices, and with three threads smaller ones
    (tmp_path / "text.txt").write_text(text, encoding="utf-8")
    tok = lmkit.Tokenizer.load(qwen)
    lmkit.tokenize(tmp_path / "text.txt", tmp_path / "x.npy", tok, method=method, num_threads=3)
    ids = lmkit.open_tokens(tmp_path / "x.npy")
    assert ids.tolist() == tok.encode(text) == expected
    assert tok.decode(ids) == unicodedata.normalize("NFC", text)


def test_bytes_that_are_no_text_part_what_is_normalized(qwen, tmp_path):
    data = b"e\xff" + "\u0301a\u0301".encode()
    (tmp_path / "text.txt").write_bytes(data)
    tok = lmkit.Tokenizer.load(qwen)
    lmkit.tokenize(tmp_path / "text.txt", tmp_path / "x.npy", tok, errors="bytes")
    ids = lmkit.open_tokens(tmp_path / "x.npy").tolist()
    assert ids == [*tok.encode("e"), *tok.encode(""), tok_byte(tok, 0xFF), *tok.encode("\u0301á")]


def tok_byte(tok: lmkit.Tokenizer, byte: int) -> int:
    return next(number for number, token in tok.vocab.items() if token == bytes([byte]))


def test_a_normalizer_is_kept_everywhere(qwen, tmp_path):
    tok = lmkit.Tokenizer.load(qwen)
    assert tok.normalizer == "NFC"
    tok.save(tmp_path / "ours")
    again = lmkit.Tokenizer.load(tmp_path / "ours")
    carried = lmkit.Tokenizer.from_json(tok.to_json())
    plain = lmkit.Tokenizer(tok.vocab, tok.merges, list(tok.special_tokens), tok.pattern)
    for same in (again, carried):
        assert same == tok
        assert same.normalizer == "NFC"
        assert same.encode("e\u0301") == tok.encode("é") != plain.encode("e\u0301")
    assert plain != tok
    assert plain.normalizer is None


@pytest.mark.parametrize(
    ("family", "reason"), [("qwen2", "text that it normalizes"), ("llama3", "ignore_merges")]
)
def test_what_learning_does_not_do_is_not_extended(family, reason, tmp_path):
    hugging_face(family).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UsageError, match=reason):
        lmkit.Tokenizer.train(texts=["abc"], vocab_size=2000, extend=tmp_path)


# --- details of tokenizer.json -----------------------------------------------------------------


def test_whole_tokens_count_though_no_merge_makes_them(tmp_path):
    hugging_face("llama3").save(str(tmp_path / "tokenizer.json"))
    tok = lmkit.Tokenizer.load(tmp_path)
    assert len(tok.encode(" lighthouse")) == 1
    assert len(tok.encode(" lighthouses")) > 1
    carried = lmkit.Tokenizer.from_json(tok.to_json())
    tok.save(tmp_path / "ours")
    plain = lmkit.Tokenizer(tok.vocab, tok.merges, list(tok.special_tokens), tok.pattern)
    assert carried == tok == lmkit.Tokenizer.load(tmp_path / "ours") != plain
    assert carried.encode(" lighthouse") == tok.encode(" lighthouse")


def split(regex: str, behavior: str = "Isolated", *, invert: bool = False) -> dict:
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": behavior, "invert": invert}


def byte_level(*, splits: bool = False, space: bool = False) -> dict:
    return {
        "type": "ByteLevel",
        "add_prefix_space": space,
        "trim_offsets": True,
        "use_regex": splits,
    }


def sequence(*steps: dict) -> dict:
    return {"type": "Sequence", "pretokenizers": list(steps)}


POSSESSIVE = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)


@pytest.mark.parametrize(
    ("pre_tokenizer", "is_fast"),
    [
        (byte_level(splits=True), True),
        (sequence(byte_level(splits=True)), True),
        (sequence(split(LLAMA3), byte_level()), True),
        (sequence(split(LLAMA3, invert=True), byte_level()), True),
        (sequence(split(LLAMA3, "Removed", invert=True), byte_level()), True),
        (sequence(split(POSSESSIVE), byte_level()), True),
        (sequence(sequence(split(QWEN2)), byte_level()), True),
        (sequence(split(r"(?:'s|'t)| ?\p{L}+| ?\p{N}+|\s+|."), byte_level()), False),
        (sequence(split(OWN), byte_level()), False),
        (byte_level(), False),  # which does not split at all
    ],
    ids=str,
)
def test_every_way_to_split_that_is_read(pre_tokenizer, is_fast, tmp_path):
    content = content_of("gpt2") | {"pre_tokenizer": pre_tokenizer}
    theirs = HuggingFace.from_str(json.dumps(content))
    tok = loaded(content, tmp_path)
    assert tok.has_own_scanner == is_fast
    tok.save(tmp_path / "ours")
    again = HuggingFace.from_file(str(tmp_path / "ours" / "tokenizer.json"))
    for text in TEXTS.values():
        assert tok.encode(text) == theirs.encode(text).ids == again.encode(text).ids


def test_what_changes_no_ids_is_taken(tmp_path):
    content = content_of("gpt2")
    content["model"] |= {"unk_token": "<|endoftext|>", "dropout": 0.0, "fuse_unk": True}
    content["truncation"] = {
        "direction": "Right", "max_length": 1 << 20, "strategy": "LongestFirst", "stride": 0,
    }  # fmt: skip
    theirs = HuggingFace.from_str(json.dumps(content))
    tok = loaded(content, tmp_path)
    for text in TEXTS.values():
        assert tok.encode(text) == theirs.encode(text).ids
    assert tok.remarks == ["left out: its truncation"]


def changed(family: str, **parts) -> dict:
    """A file of the family with some of its parts, or of its model's, changed."""
    content = content_of(family)
    for part, value in parts.items():
        (content if part in content else content["model"])[part] = value
    return content


def added(text: str, **flags) -> list[dict]:
    usual = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False}
    return [{"id": 1500, "content": text, "special": True, **usual, **flags}]


LOWER = {"type": "Lowercase"}
REFUSED = {
    "lowercase": (changed("gpt2", normalizer=LOWER), "normalizes text by Lowercase"),
    "compatibility": (changed("gpt2", normalizer={"type": "NFKC"}), "of normalizers it has NFC"),
    "two normalizers": (
        changed("gpt2", normalizer={"type": "Sequence", "normalizers": [{"type": "NFC"}, LOWER]}),
        "normalizes text by NFC, Lowercase",
    ),
    "dropout": (changed("gpt2", dropout=0.1), "merges with dropout"),
    "prefix": (changed("gpt2", continuing_subword_prefix="##"), "continuing_subword_prefix"),
    "suffix": (changed("gpt2", end_of_word_suffix="</w>"), "end_of_word_suffix"),
    "fallback": (changed("gpt2", byte_fallback=True), "byte_fallback"),
    "lstrip": (changed("gpt2", added_tokens=added("<m>", lstrip=True)), '"<m>" takes whitespace'),
    "rstrip": (changed("gpt2", added_tokens=added("<m>", rstrip=True)), "(rstrip)"),
    "single word": (changed("gpt2", added_tokens=added("<m>", single_word=True)), "whole words"),
    "late token": (
        changed("qwen2", added_tokens=added("<think>", normalized=True)),
        'added token "<think>" is "normalized": it is searched for after NFC',
    ),
    "overlap": (
        changed("gpt2", added_tokens=added("<m><m>") + added("<m>", id=1501, normalized=True)),
        "may overlap",
    ),
    "no pre-tokenizer": (changed("gpt2", pre_tokenizer=None), "it has no pre-tokenizer"),
    "metaspace": (
        changed(
            "gpt2",
            pre_tokenizer={
                "type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True,
            },
        ),
        "its pre-tokenizer (Metaspace) is not ByteLevel",
    ),
    "whitespace": (changed("gpt2", pre_tokenizer={"type": "Whitespace"}), "(Whitespace) is not"),
    "space first": (
        changed("gpt2", pre_tokenizer=byte_level(splits=True, space=True)),
        "add_prefix_space",
    ),
    "steps": (
        changed(
            "gpt2",
            pre_tokenizer=sequence(
                {"type": "Digits", "individual_digits": True}, byte_level(splits=True)
            ),
        ),
        "it splits in several steps (Digits, ByteLevel)",
    ),
    "string": (
        changed(
            "gpt2",
            pre_tokenizer=sequence(split("") | {"pattern": {"String": " "}}, byte_level()),
        ),
        "it splits by a string",
    ),
    "merged pieces": (
        changed("gpt2", pre_tokenizer=sequence(split(LLAMA3, "MergedWithNext"), byte_level())),
        "its pieces are MergedWithNext",
    ),
    "removed pieces": (
        changed(
            "gpt2", pre_tokenizer=sequence(split(OWN, "Removed", invert=True), byte_level())
        ),
        "its pieces are Removed",
    ),
    "another dialect": (
        changed("gpt2", pre_tokenizer=sequence(split(r"\p{N}{1,3}+|\s+$|\S+"), byte_level())),
        "Hugging Face and lmkit read differently",
    ),
    "unreachable": (
        changed("llama3", vocab=content_of("llama3")["model"]["vocab"] | {"世": 1700}),
        'token "世" is not in GPT-2\'s byte alphabet',
    ),
    "missing byte": (
        changed("gpt2", vocab={"a": 0}, merges=[]),
        "no token for byte 0x00",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_change_ids_is_refused_by_name(name, tmp_path):
    content, reason = REFUSED[name]
    with pytest.raises(MalformedError) as refused:
        loaded(content, tmp_path)
    assert reason in str(refused.value)
    assert str(refused.value).startswith(f"{tmp_path / 'tokenizer.json'}: ")


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (models.Unigram([("a", 0.0)], 0), "a Unigram model; lmkit has byte-level BPE only"),
        (models.WordPiece({"a": 0, "[UNK]": 1}), "a WordPiece model"),
        (models.WordLevel({"a": 0}, "a"), "a WordLevel model"),
        (models.BPE({"▁": 0, "a": 1, "▁a": 2}, [("▁", "a")], byte_fallback=True), "byte_fallback"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_other_models_are_refused_by_name(model, reason, tmp_path):
    with pytest.raises(MalformedError, match=reason):
        loaded(json.loads(HuggingFace(model).to_str()), tmp_path)
