"""`lmkit.Tokenizer` as people use it: construction, round trips, copies, threads, forks, memory."""

import base64
import copy
import json
import multiprocessing
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lmkit
from tokenizer_texts import DATA, END, EXAMPLES, TEXTS, TWICE, learned

BYTES = {byte: bytes([byte]) for byte in range(256)}


@pytest.fixture(scope="module")
def tok() -> lmkit.Tokenizer:
    return learned("gpt2")


# --- construction -------------------------------------------------------------------------------


def test_special_tokens_that_are_missing_come_after_the_largest_id():
    tok = lmkit.Tokenizer(BYTES | {700: b"he"}, [(b"h", b"e")], special_tokens=["<|a|>", "he"])
    assert tok.special_tokens == {"<|a|>": 701, "he": 700}
    assert tok.vocab_size == 702
    assert tok.encode("he<|a|>h") == [700, 701, ord("h")]
    assert lmkit.Tokenizer(tok.vocab, tok.merges).special_tokens == {}


@pytest.mark.parametrize(
    ("vocab", "merges", "specials", "pattern", "message"),
    [
        ({0: b"a"}, [], None, "gpt2", "no token for byte 0x00"),
        (BYTES | {300: b"a"}, [], None, "gpt2", "ids 97 and 300 are both"),
        (BYTES | {300: b""}, [], None, "gpt2", "token id 300 is empty"),
        (BYTES | {1 << 31: b"ab"}, [], None, "gpt2", "2147483648"),
        (BYTES | {-1: b"ab"}, [], None, "gpt2", "-1"),
        (BYTES, [(b"a", b"b")], None, "gpt2", 'merge 0 joins "a" and "b", but "ab" is not'),
        (BYTES, [], [""], "gpt2", "empty"),
        (BYTES, [], ["x", "x"], "gpt2", "given twice"),
        (BYTES, [], None, "(", "pattern"),
    ],
)
def test_what_makes_no_tokenizer_is_said(vocab, merges, specials, pattern, message):
    with pytest.raises(lmkit.LmkitError) as caught:
        lmkit.Tokenizer(vocab, merges, specials, pattern)
    assert message in str(caught.value)
    assert isinstance(caught.value, ValueError)


# --- files --------------------------------------------------------------------------------------


def test_any_names_and_only_a_first_line_is_a_header(tok, tmp_path):
    tok.save(tmp_path / "saved")
    vocab, merges = tmp_path / "v.vocab", tmp_path / "m.merges"
    vocab.write_bytes((tmp_path / "saved" / "vocab.json").read_bytes())
    lines = (tmp_path / "saved" / "merges.txt").read_text(encoding="utf-8").splitlines()
    merges.write_text("\n".join(lines[1:]), encoding="utf-8")
    again = lmkit.Tokenizer.from_files(vocab, merges)
    assert again == tok
    assert again.special_tokens == {END: tok.special_tokens[END]}
    joined = lmkit.Tokenizer(BYTES | {256: b"#version"[:2]}, [(b"#", b"v")])
    joined.save(tmp_path / "joined")
    assert lmkit.Tokenizer.load(tmp_path / "joined") == joined


@pytest.mark.parametrize("pattern", ["gpt2", "cl100k", "o200k", r"(?i)[a-z]+|."])
def test_save_and_load(pattern, tmp_path):
    tok = learned(pattern) if "|" not in pattern else lmkit.Tokenizer(BYTES, [], [END], pattern)
    tok.save(tmp_path / "t")
    assert lmkit.Tokenizer.load(tmp_path / "t") == tok
    assert (
        json.loads((tmp_path / "t" / "lmkit.json").read_bytes())["fingerprint"] == tok.fingerprint
    )
    with pytest.raises(lmkit.UsageError, match="already exists"):
        tok.save(tmp_path / "t")
    tok.save(tmp_path / "t", force=True)
    assert {file.name for file in tmp_path.iterdir()} == {"t"}


def test_a_pattern_hugging_face_reads_differently_is_saved_without_its_file(tmp_path):
    tok = lmkit.Tokenizer(BYTES, [], [], r"\b\w+|\W")
    with pytest.warns(UserWarning, match=r"no tokenizer\.json: its pattern has \\b"):
        tok.save(tmp_path / "t")
    assert not (tmp_path / "t" / "tokenizer.json").exists()
    assert lmkit.Tokenizer.load(tmp_path / "t") == tok


def test_bad_files_are_named_with_their_line(tok, tmp_path):
    tok.save(tmp_path / "t")
    vocab, merges = tmp_path / "t" / "vocab.json", tmp_path / "t" / "merges.txt"
    bad = tmp_path / "bad"
    lines = merges.read_text(encoding="utf-8").splitlines()

    def refused(vocab_path, merges_path, message, kind=lmkit.MalformedError):
        with pytest.raises(kind) as caught:
            lmkit.Tokenizer.from_files(vocab_path, merges_path)
        assert message in str(caught.value)

    refused(merges, vocab, "swapped")
    refused(tmp_path / "none", merges, "none", FileNotFoundError)
    for line, message in [
        ("zz qq", "line 11: joins"),
        ("a b c", "line 11"),
        ("#version: 0.2", "line 11"),
        ("a", "line 11"),
        ("a \u4e16", "line 11"),
    ]:
        bad.write_text("\n".join([*lines[:10], line, *lines[10:]]), encoding="utf-8")
        refused(vocab, bad, message)
    for text, message in [
        ('{"a": 1, "a": 2}', "twice"),
        ('{"a": 1.5}', "bad"),
        ('{"a": -1}', "0 to 2147483647"),
        ('{"a": 0}', "byte 0x00"),
        ("[1]", "not a JSON object"),
        ("{", "bad"),
    ]:
        bad.write_text(text, encoding="utf-8")
        refused(bad, merges, message)


# --- encoding and decoding ----------------------------------------------------------------------


@settings(max_examples=4 * EXAMPLES, deadline=None)
@given(st.text())
def test_round_trip(text):
    tok = learned("gpt2")
    ids = tok.encode(text)
    assert tok.decode(ids) == text
    array = tok.encode_array(text)
    assert array.dtype == np.int32
    assert array.tolist() == ids
    assert tok.decode_bytes(array) == text.encode()


@settings(max_examples=4 * EXAMPLES, deadline=None)
@given(st.lists(st.integers(0, 255)))
def test_bytes_that_are_no_utf8_decode_as_python_does(values):
    tok = lmkit.Tokenizer(BYTES, [])
    assert tok.decode(values) == bytes(values).decode(errors="replace")
    stream = tok.stream_decoder()
    assert "".join(map(stream.push, values)) + stream.finish() == tok.decode(values)


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.lists(st.sampled_from([*TEXTS.values(), "", "a", END, END[:5], END[5:]]), max_size=6))
def test_an_iterable_equals_the_joined_text(texts):
    tok = learned("gpt2")
    assert list(tok.encode_iterable(texts)) == tok.encode("".join(texts))


@pytest.mark.parametrize("num_threads", [None, 1, 2, 5])
def test_a_batch_is_flat_ids_and_offsets(tok, num_threads):
    texts = [*TEXTS.values()] * 20
    ids, offsets = tok.encode_batch(texts, num_threads=num_threads)
    assert (ids.dtype, offsets.dtype) == (np.int32, np.int64)
    for i, text in enumerate(texts):
        assert ids[offsets[i] : offsets[i + 1]].tolist() == tok.encode(text)
    ids, offsets = tok.encode_batch([])
    assert (ids.tolist(), offsets.tolist()) == ([], [0])


def test_one_text_is_not_taken_for_a_batch_of_its_characters(tok):
    with pytest.raises(lmkit.UsageError, match="texts is one text"):
        tok.encode_batch("abc")


def test_two_iterators_at_once(tok):
    pairs = zip(tok.encode_iterable("ab c"), tok.encode_iterable("ab c"), strict=True)
    assert [first for first, second in pairs if first == second] == tok.encode("ab c")


def test_special_tokens_as_asked(tok):
    text = f"a{END}b"
    assert tok.special_tokens[END] in tok.encode(text)
    assert tok.special_tokens[END] not in tok.encode(text, special="none")
    assert tok.decode(tok.encode(text, special="none")) == text
    with pytest.raises(lmkit.UsageError, match="at byte 1"):
        tok.encode(text, special="error")
    with pytest.raises(lmkit.UsageError, match="encode"):
        tok.encode(text, special="some")


def test_lone_surrogates_are_named_with_their_index(tok):
    for call in (tok.encode, tok.encode_array, lambda t: tok.encode_batch([t])):
        with pytest.raises(lmkit.MalformedError, match="3"):
            call("é世x\ud800")
    ids = tok.encode_iterable(["fine ", "\udfff"])
    with pytest.raises(lmkit.MalformedError):
        list(ids)
    assert list(ids) == []


@pytest.mark.parametrize("bad", [-1, 1 << 20, 1 << 40, 1 << 80, -(1 << 80)])
def test_unknown_ids_are_named_with_their_index(tok, bad):
    with pytest.raises(lmkit.MalformedError, match="at index 2 is not in the vocabulary"):
        tok.decode([1, 2, bad])
    if abs(bad) < 1 << 60:
        with pytest.raises(lmkit.MalformedError, match=f"token id {bad} at index 1 "):
            tok.decode_bytes(np.array([5, bad]))


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint16", "uint32", "int8"])
def test_ids_in_arrays_of_any_integer_dtype(tok, dtype):
    ids = np.arange(40, 100).astype(dtype)
    assert tok.decode(ids) == tok.decode(ids.tolist()) == tok.decode(iter(ids.tolist()))
    assert tok.decode(ids[::2]) == tok.decode(ids.tolist()[::2])
    with pytest.raises(TypeError):
        tok.decode([1.5])


# --- copies, threads, processes -----------------------------------------------------------------


def test_copies_are_equal(tok):
    text = TEXTS["languages"]
    for twin in (pickle.loads(pickle.dumps(tok)), copy.copy(tok), copy.deepcopy(tok)):
        assert twin == tok
        assert hash(twin) == hash(tok)
        assert twin.encode(text) == tok.encode(text)
        assert (twin.vocab, twin.merges, twin.pattern) == (tok.vocab, tok.merges, tok.pattern)
    assert lmkit.Tokenizer(tok.vocab, tok.merges, [END, TWICE]) != tok
    assert learned("cl100k") != tok


def test_many_threads(tok):
    texts = [text * 30 for text in TEXTS.values()]
    expected = [tok.encode(text) for text in texts]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            assert list(pool.map(tok.encode, texts)) == expected
            streams = pool.map(lambda text: list(tok.encode_iterable([text])), texts)
            assert list(streams) == expected


def encode_in_child(tok, texts, connection):
    ids, _ = tok.encode_batch(texts)
    connection.send((ids.tolist(), tok.encode(texts[0]), list(tok.encode_iterable(texts))))


@pytest.mark.skipif(sys.platform != "linux", reason="fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_can_encode(tok):
    texts = [text * 50 for text in TEXTS.values()]
    ids, _ = tok.encode_batch(texts)  # the threads of the parent are running
    ours, theirs = multiprocessing.get_context("fork").Pipe()
    child = multiprocessing.get_context("fork").Process(
        target=encode_in_child, args=(tok, texts, theirs)
    )
    child.start()
    assert ours.poll(60), "the child hangs"
    assert ours.recv()[:2] == (ids.tolist(), tok.encode(texts[0]))
    child.join()


MEMORY = """
import resource, sys
from pathlib import Path
import lmkit
tok = lmkit.Tokenizer.load(sys.argv[1])
with open(sys.argv[2], encoding="utf-8") as file:
    rss = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    unlimited = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (rss + 1_000_000, unlimited[1]))
    count = total = 0
    for token_id in tok.encode_iterable(file):
        count += 1
        total += token_id
    resource.setrlimit(resource.RLIMIT_AS, unlimited)
ids = tok.encode(open(sys.argv[2], encoding="utf-8").read())
assert (count, total) == (len(ids), sum(ids))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS")
def test_encode_iterable_takes_no_memory(tok, tmp_path):
    """As Stanford's CS336 asks: five megabytes of text in one megabyte of address space."""
    tok.save(tmp_path / "t")
    text = (DATA / "stories.txt").read_text(encoding="utf-8")
    (tmp_path / "text").write_text(text * (5_000_000 // len(text)), encoding="utf-8")
    command = [sys.executable, "-c", MEMORY, tmp_path / "t", tmp_path / "text"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_importing_lmkit_loads_nothing_heavy():
    code = "import sys, lmkit; print({'torch', 'numpy', 'click'} & set(sys.modules))"
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "set()\n"


def test_a_rank_vocabulary_is_saved_and_loaded_as_one(tmp_path: Path) -> None:
    tokens = [bytes([byte]) for byte in range(256)] + [b"ab", b"bc", b"abc", b"\xff\xfe"]
    ranks = tmp_path / "own.tiktoken"
    ranks.write_text(
        "".join(f"{base64.b64encode(t).decode()} {rank}\n" for rank, t in enumerate(tokens))
    )
    tok = lmkit.Tokenizer.load(ranks, special_tokens=["<|end|>"], pattern="cl100k")
    tok.save(tmp_path / "tok")
    names = sorted(path.name for path in (tmp_path / "tok").iterdir())
    assert names == ["lmkit.json", "merges.txt", "tokenizer.json", "vocab.json"]
    merges = (tmp_path / "tok" / "merges.txt").read_text(encoding="utf-8").splitlines()
    assert merges == ["#version: 0.2", "a b", "b c", "ab c", "ÿ þ"]
    again = lmkit.Tokenizer.load(tmp_path / "tok")
    assert again == tok
    assert again.merges == []
    assert again.encode("abc bc<|end|>") == tok.encode("abc bc<|end|>") == [258, 32, 257, 260]


def test_ranks_that_no_merges_explain_are_saved_without_merges(tmp_path: Path) -> None:
    tokens = [bytes([byte]) for byte in range(256)] + [b"ab", b"word"]
    ranks = tmp_path / "own.tiktoken"
    ranks.write_text(
        "".join(f"{base64.b64encode(t).decode()} {rank}\n" for rank, t in enumerate(tokens))
    )
    tok = lmkit.Tokenizer.load(ranks)
    tok.save(tmp_path / "tok")
    assert not (tmp_path / "tok" / "merges.txt").exists()
    model = json.loads((tmp_path / "tok" / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    assert model["ignore_merges"] is True
    for again in (tmp_path / "tok", tmp_path / "tok" / "tokenizer.json"):
        assert lmkit.Tokenizer.load(again).encode("word words ab") == tok.encode("word words ab")
