"""`lmkit convert tokenizer`: from each format to each, with the ids of the tools themselves."""

import itertools
import json
from functools import cache
from pathlib import Path

import pytest
import zstandard
from click.testing import CliRunner
from tokenizers import Regex, pre_tokenizers
from transformers import AutoTokenizer, GPT2Tokenizer, PreTrainedTokenizerFast

from lmkit import Tokenizer
from lmkit.cli import main
from tokenizer_families import (
    FAMILIES,
    RANK_FILES,
    SOURCES,
    hugging_face,
    ids_of_hugging_face,
    ids_of_pair,
    ids_of_tiktoken,
    source_ids,
    told,
    write,
)
from tokenizer_texts import PATTERNS, RUBY, TEXTS, learned

TARGETS = ("lmkit", "huggingface", "tiktoken", "gpt2")
NAMES = {"lmkit": "ours", "huggingface": "tokenizer.json", "tiktoken": "x.tiktoken", "gpt2": "pair"}
EXTRA = {
    "words": " lighthouse lighthouses 世界您好 世界您好! zqxj zqxjz zqxj",
    "decomposed": (
        "e\u0301a\u0300 \u212b \u1100\u1161\u11a8 <|im_start|>e\u0301<|im_end|>\u0301=\u0338"
    ),
    "specials": (
        "<|begin_of_text|>a<|eot_id|>\n<|im_start|>b<|im_end|><think>\nc</s><s> <|endofprompt|>"
    ),
}
ALL_TEXTS = TEXTS | EXTRA

# What cannot be, and why. Everything else must work.
NORMALIZED = "text is normalized (NFC) before it is split"
WHOLE = "whole tokens that no merges make"
REFUSED = {
    ("huggingface/qwen2", "tiktoken"): NORMALIZED,
    ("huggingface/qwen2", "gpt2"): NORMALIZED,
    ("huggingface/qwen3", "tiktoken"): NORMALIZED,
    ("huggingface/qwen3", "gpt2"): NORMALIZED,
    ("huggingface/llama3", "gpt2"): WHOLE,
    ("tiktoken/words", "gpt2"): WHOLE,
}


def convert(*words):
    return CliRunner().invoke(main, ["convert", "tokenizer", *map(str, words)])


def typed(source: str) -> list[str]:
    """What must be typed for a source that cannot tell all."""
    words = []
    if "pattern" in told(source):
        words += ["--pattern", told(source)["pattern"]]
    for token, number in told(source).get("special_tokens", {}).items():
        words += ["--special_token", f"{token}={number}"]
    return words


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> dict[str, Path]:
    return {source: write(tmp_path_factory.mktemp("source"), source) for source in SOURCES}


@pytest.fixture(scope="module")
def expected(sources):
    """The ids of all texts by the tool that made the file."""

    @cache
    def ids(source: str) -> dict[str, list[int]]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TIKTOKEN_CACHE_DIR", "")
            encode = source_ids(source, sources[source])
        return {name: encode(text) for name, text in ALL_TEXTS.items()}

    return ids


def pre_tokenizer_of(source: str):
    """How a pair of this source's is split: no file of it says."""
    tool, name = source.split("/")
    if tool != "tiktoken":
        return hugging_face(name).pre_tokenizer
    regex = RANK_FILES[name][0]
    ruby = RUBY.get(next(known for known in PATTERNS if PATTERNS[known] == regex), regex)
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    split = pre_tokenizers.Split(Regex(ruby), "isolated")
    return pre_tokenizers.Sequence([split, bytes_only])


def target_ids(target: str, path: Path, facts: dict, source: str):
    """The ids by the tool that the file is for."""
    match target:
        case "huggingface":
            return ids_of_hugging_face(path)
        case "tiktoken":
            return ids_of_tiktoken(path, facts["regex"], facts["special_tokens"])
        case "gpt2":
            return ids_of_pair(path, pre_tokenizer_of(source), list(facts["special_tokens"]))
    return Tokenizer.load(path).encode


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("source", SOURCES)
def test_ids_are_the_same_before_and_after(
    source, target, sources, expected, tmp_path, monkeypatch
):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "")
    path = tmp_path / NAMES[target]
    done = convert(sources[source], path, "--to", target, "--json", *typed(source))
    if (source, target) in REFUSED:
        assert done.exit_code == 1
        assert REFUSED[source, target] in str(done.exception)
        assert done.exception.exit_code == 2
        assert not path.exists()
        return
    assert done.exit_code == 0, done.exception
    encode = target_ids(target, path, json.loads(done.stdout), source)
    for name, text in ALL_TEXTS.items():
        assert encode(text) == expected(source)[name], name


@pytest.mark.parametrize("source", SOURCES)
def test_lmkit_reads_it_as_it_is(source, sources, expected):
    tok = Tokenizer.load(sources[source], **told(source))
    assert tok.has_own_scanner == ("own" not in source)
    for name, text in ALL_TEXTS.items():
        assert tok.encode(text) == expected(source)[name], name
        assert list(tok.encode_iterable(text)) == expected(source)[name], name
    ids, offsets = tok.encode_batch(list(ALL_TEXTS.values()))
    for (start, end), name in zip(itertools.pairwise(offsets), ALL_TEXTS, strict=True):
        assert ids[start:end].tolist() == expected(source)[name]


@pytest.mark.parametrize("source", SOURCES)
def test_a_folder_goes_on_to_the_others(source, sources, expected, tmp_path, monkeypatch):
    """Nothing is lost on the way through lmkit, and its folder loads in transformers as it is."""
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "")
    assert convert(sources[source], tmp_path / "ours", "--quiet", *typed(source)).exit_code == 0
    saved = Tokenizer.load(tmp_path / "ours")
    assert saved == Tokenizer.load(sources[source], **told(source))
    auto = AutoTokenizer.from_pretrained(str(tmp_path / "ours"))
    for target in ("huggingface", "tiktoken"):
        path = tmp_path / NAMES[target]
        done = convert(tmp_path / "ours", path, "--json")
        if (source, target) in REFUSED:
            assert REFUSED[source, target] in str(done.exception)
            continue
        facts = json.loads(done.stdout)
        assert facts["fingerprint"] == saved.fingerprint
        encode = target_ids(target, path, facts, source)
        for name, text in ALL_TEXTS.items():
            assert encode(text) == expected(source)[name], name
    for name in ("english", "languages", "special tokens", *EXTRA):
        assert auto.encode(ALL_TEXTS[name]) == expected(source)[name], name


@pytest.mark.parametrize("family", FAMILIES)
def test_hugging_faces_file_comes_back_as_it_went(family, sources, tmp_path):
    source, back = sources[f"huggingface/{family}"], tmp_path / "back.json"
    assert convert(source, back).exit_code == 0
    ours, theirs = (json.loads(path.read_text(encoding="utf-8")) for path in (back, source))
    for part in ("normalizer", "pre_tokenizer"):
        if family != "gpt4":  # which removes what lies between, and nothing does
            assert ours[part] == theirs[part]
    merges = [tuple(merge) for merge in theirs["model"]["merges"]]
    assert [tuple(merge) for merge in ours["model"]["merges"]] == merges
    assert ours["model"]["ignore_merges"] == theirs["model"]["ignore_merges"]
    numbers = {token["content"]: token["id"] for token in theirs["added_tokens"]}
    assert ours["model"]["vocab"] == theirs["model"]["vocab"] | numbers
    assert Tokenizer.load(back) == Tokenizer.load(source)


def test_transformers_own_classes_read_what_is_written(tmp_path):
    tok = learned("gpt2")
    tok.save(tmp_path / "pair", format="gpt2")
    tok.save(tmp_path / "one.json", format="huggingface")
    pair = GPT2Tokenizer(
        str(tmp_path / "pair" / "vocab.json"), str(tmp_path / "pair" / "merges.txt")
    )
    one = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "one.json"))
    for text in TEXTS.values():
        assert pair.encode(text) == one.encode(text) == tok.encode(text)


# --- what is said ------------------------------------------------------------------------------


def test_what_is_not_kept_is_said(sources, tmp_path):
    done = convert(sources["huggingface/qwen3"], tmp_path / "ours")
    assert 'added token "<think>": not marked as special there' in done.stderr
    done = convert(sources["huggingface/llama3"], tmp_path / "too")
    assert "left out: its post-processor (TemplateProcessing)" in done.stderr
    done = convert(sources["huggingface/llama3"], tmp_path / "three", "--quiet")
    assert done.stderr == done.stdout == ""


def test_a_pattern_without_a_scanner_is_slower_and_says_so(sources, tmp_path):
    done = convert(sources["huggingface/own"], tmp_path / "ours")
    assert "note: the pattern is none that lmkit has a scanner for" in done.stderr
    text = tmp_path / "text.txt"
    text.write_text("some text")
    words = ["--data_path", str(text), "--output_path", str(tmp_path / "x.npy")]
    for name, slow in (("ours", True), ("gpt2", False)):
        if not slow:
            convert(sources["huggingface/gpt2"], tmp_path / name)
        done = CliRunner().invoke(
            main, ["tokenize", *words, "--tokenizer", str(tmp_path / name), "--force"]
        )
        assert done.exit_code == 0
        assert ("a library splits text, which is slower" in done.stderr) == slow


def test_what_a_rank_file_cannot_tell_is_told(sources, tmp_path):
    done = convert(sources["huggingface/gpt4o"], tmp_path / "x.tiktoken")
    said = "must be told --pattern o200k --special_token '<|endoftext|>=1200'"
    assert said in done.stderr
    read = Tokenizer.load(
        tmp_path / "x.tiktoken", {"<|endoftext|>": 1200, "<|endofprompt|>": 1201}, "o200k"
    )
    assert read.encode(TEXTS["code"]) == hugging_face("gpt4o").encode(TEXTS["code"]).ids
    # A pair of GPT-2's own kind tells all.
    done = convert(sources["huggingface/gpt2"], tmp_path / "pair", "--to", "gpt2")
    assert done.exit_code == 0
    assert done.stderr == ""


def test_a_missing_pattern_is_said(sources, tmp_path):
    done = convert(sources["gpt2/gpt2"], tmp_path / "ours")
    assert "nothing there tells the pattern: GPT-2's is taken" in done.stderr
    done = convert(sources["gpt2/gpt2"], tmp_path / "too", "--pattern", "gpt2")
    assert done.stderr == ""


def test_a_pair_under_any_names(sources, tmp_path):
    pair = sources["gpt2/gpt2"]
    vocab, merges = tmp_path / "a.vocab", tmp_path / "b.merges"
    vocab.write_bytes((pair / "vocab.json").read_bytes())
    merges.write_bytes((pair / "merges.txt").read_bytes())
    done = convert(vocab, tmp_path / "ours", "--merges_path", merges, "--json")
    assert json.loads(done.stdout)["fingerprint"] == Tokenizer.load(pair).fingerprint
    alone = convert(vocab, tmp_path / "too")
    assert "a vocabulary without its merges" in str(alone.exception)
    assert alone.exception.exit_code == 3
    folder = tmp_path / "first"
    folder.mkdir()
    vocab.rename(folder / "encoder.json")
    merges.rename(folder / "vocab.bpe")
    assert Tokenizer.load(folder) == Tokenizer.load(pair)


def test_special_tokens_must_be_known_or_come_with_an_id(sources, tmp_path):
    ranks = sources["tiktoken/cl100k"]
    done = convert(ranks, tmp_path / "ours", "--special_token", "<|x|>")
    assert "'<|x|>' is not in the vocabulary" in str(done.exception)
    assert done.exception.hint == "tell its id: --special_token '<|x|>=ID'"
    done = convert(ranks, tmp_path / "ours", "--special_token", "<|x|>=7")
    assert "token id 7 is given to both" in str(done.exception)
    folder = sources["huggingface/gpt2"]
    done = convert(folder, tmp_path / "ours", "--special_token", "<|endoftext|>=7")
    assert "the vocabulary has it as id 1200, not 7" in str(done.exception)
    done = convert(folder, tmp_path / "ours", "--special_token", "a=b=1300", "--json")
    assert json.loads(done.stdout)["special_tokens"] == {"a=b": 1300}


def test_an_output_that_exists_is_replaced_by_force_alone(sources, tmp_path):
    source = sources["huggingface/gpt2"]
    for name in ("tokenizer.json", "x.tiktoken", "ours"):
        for words in ([], ["--force"]):
            assert convert(source, tmp_path / name, *words).exit_code == 0
        done = convert(source, tmp_path / name)
        assert "already exists" in str(done.exception)
        assert done.exception.exit_code == 2
    pair = ("--to", "gpt2")
    for words in (pair, (*pair, "--force")):
        assert convert(source, tmp_path / "pair", *words).exit_code == 0
    # What is no tokenizer is never replaced.
    (tmp_path / "ours" / "lmkit.json").rename(tmp_path / "ours" / "thesis.txt")
    (tmp_path / "folder.json").mkdir()
    for name in ("ours", "folder.json"):
        done = convert(source, tmp_path / name, "--to", "lmkit", "--force")
        kept = name == "ours"
        assert (done.exit_code != 0) == kept
    assert (tmp_path / "ours" / "thesis.txt").is_file()
    assert not list(tmp_path.glob(".*"))


def test_missing_and_wrong_inputs(tmp_path):
    done = convert(tmp_path / "none", tmp_path / "ours")
    assert "no such file or folder" in str(done.exception)
    assert done.exception.exit_code == 2
    (tmp_path / "x.model").write_bytes(b"\n\x0e\n\x05<unk>\x15\0\0\0\0\x18\x02")
    done = convert(tmp_path / "x.model", tmp_path / "ours")
    assert "a SentencePiece model is no byte-level BPE" in str(done.exception)
    assert done.exception.exit_code == 3
    done = convert(tmp_path, tmp_path / "ours")
    assert "it has neither lmkit.json nor tokenizer.json, nor vocab.json and" in str(done.exception)


# --- on the shared corpora ---------------------------------------------------------------------

CORPORA = ["books_200M", "books_b_200M", "code_80M", "zhja_40M"]


def corpus_text(shared_dir: Path, name: str, size: int = -1) -> str:
    with (shared_dir / "corpora" / f"{name}.txt.zst").open("rb") as file:
        return zstandard.ZstdDecompressor().stream_reader(file).read(size).decode(errors="ignore")


@pytest.mark.shared
@pytest.mark.parametrize("source", SOURCES)
def test_heads_of_the_shared_corpora(source, sources, shared_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "")
    encode = source_ids(source, sources[source])
    ours = {"source": Tokenizer.load(sources[source], **told(source)).encode}
    for target in TARGETS:
        if (source, target) in REFUSED:
            continue
        path = tmp_path / NAMES[target]
        done = convert(sources[source], path, "--to", target, "--json", *typed(source))
        ours[target] = target_ids(target, path, json.loads(done.stdout), source)
    for name in CORPORA:
        text = corpus_text(shared_dir, name, 400_000)
        ids = encode(text)
        for way, converted in ours.items():
            assert converted(text) == ids, (name, way)


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", CORPORA)
def test_the_shared_corpora_whole_with_gpt2s_vocabulary(name, shared_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "")
    ways = {}
    for target in TARGETS:
        done = convert(shared_dir / "gpt2", tmp_path / NAMES[target], "--to", target, "--json")
        facts = json.loads(done.stdout)
        if target != "huggingface":
            path = tmp_path / NAMES[target]
            ways[target] = target_ids(target, path, facts, "gpt2/gpt2")
    text = corpus_text(shared_dir, name)
    theirs = ids_of_hugging_face(tmp_path / "tokenizer.json")
    tok = Tokenizer.load(shared_dir / "gpt2")
    step = 10_000_000
    for start in range(0, len(text), step):
        part = text[start : start + step]
        ids = tok.encode_array(part).tolist()
        assert ways["tiktoken"](part) == ids
        assert ways["lmkit"](part) == ids
        if start < 2 * step:
            assert theirs(part) == ids
            assert ways["gpt2"](part) == ids
