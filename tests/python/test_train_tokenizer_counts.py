"""Counts of text: sampled, saved, added up, and kept within a limit of memory."""

import json
import random
import subprocess
import sys

import pytest

import lmkit

END = "<|endoftext|>"
DOCUMENTS = [
    f"Document {number} tells of {word} {number * 7919 % 1000} times, {word}ing.\n"
    * (number % 4 + 1)
    for number, word in enumerate(["river", "mountain", "forest", "ocean", "desert"] * 40)
]


def train(*paths, size=400, **options):
    return lmkit.Tokenizer.train(list(paths) or None, size, **options)


def test_counts_of_parts_add_up_to_counts_of_the_whole(tmp_path):
    whole, parts = tmp_path / "whole.txt", []
    whole.write_text(END.join(DOCUMENTS), encoding="utf-8")
    for number in range(3):
        part, counts = tmp_path / f"{number}.txt", tmp_path / f"{number}.counts"
        part.write_text(END.join(DOCUMENTS[number::3]), encoding="utf-8")
        train(part, save_counts=counts, num_threads=number + 1)
        parts.append(counts)
    for tie_break in ("lexicographic", "huggingface"):
        expected = train(whole, tie_break=tie_break)
        assert train(from_counts=parts, tie_break=tie_break) == expected
        first = train(tmp_path / "0.txt", from_counts=parts[1:], tie_break=tie_break)
        assert first == expected
    texts = lmkit.Tokenizer.train(texts=DOCUMENTS[0::3], vocab_size=400, from_counts=parts[1:])
    assert texts == train(whole)


def test_saved_counts_are_the_same_bytes_however_they_were_counted(tmp_path):
    whole = tmp_path / "whole.txt"
    whole.write_text(END.join(DOCUMENTS) * 20, encoding="utf-8")
    saved = set()
    for threads in (1, 2, 5):
        train(whole, save_counts=tmp_path / "counts", num_threads=threads, force=True)
        saved.add((tmp_path / "counts").read_bytes())
    lmkit.Tokenizer.train(texts=DOCUMENTS * 20, save_counts=tmp_path / "counts", force=True)
    saved.add((tmp_path / "counts").read_bytes())
    # A document that ends where the text goes on is not one that ends before a separator.
    assert len(saved) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["counts", "whole.txt"]


def test_counts_know_how_their_text_was_cut(tmp_path):
    counts = tmp_path / "counts"
    options = {"special_tokens": ["<a>", "<b>"], "pattern": "cl100k"}
    tok = lmkit.Tokenizer.train(texts=DOCUMENTS, vocab_size=400, save_counts=counts, **options)
    assert train(from_counts=counts) == tok
    assert train(from_counts=counts, special_tokens=["<b>", "<a>"]).special_tokens == {
        "<b>": 398,
        "<a>": 399,
    }
    with pytest.raises(lmkit.MismatchError, match="--pattern splits text by gpt2, but"):
        train(from_counts=counts, pattern="gpt2")
    with pytest.raises(lmkit.MismatchError, match="special tokens"):
        train(from_counts=counts, special_tokens=["<a>"])
    lmkit.Tokenizer.train(texts=DOCUMENTS, save_counts=tmp_path / "other")
    with pytest.raises(lmkit.MismatchError, match=r"splits text by cl100k, but .*other by gpt2"):
        train(from_counts=[counts, tmp_path / "other"])


def test_damaged_counts_are_named(tmp_path):
    counts = tmp_path / "counts"
    lmkit.Tokenizer.train(texts=DOCUMENTS, save_counts=counts)
    with pytest.raises(lmkit.UsageError, match="already exists"):
        lmkit.Tokenizer.train(texts=DOCUMENTS, save_counts=counts)
    whole = counts.read_bytes()
    counts.write_bytes(whole[:-20])
    with pytest.raises(lmkit.MalformedError, match=r"counts: at byte .*cut off"):
        train(from_counts=counts)
    counts.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(lmkit.MalformedError, match="checksum does not match"):
        train(from_counts=counts)
    with pytest.raises(lmkit.MissingFileError):
        train(from_counts=tmp_path / "none")


def test_a_sample_is_the_same_documents_however_they_come(tmp_path):
    text, lines, folder = tmp_path / "a.txt", tmp_path / "a.jsonl", tmp_path / "files"
    text.write_text(END.join(DOCUMENTS), encoding="utf-8", newline="")
    lines.write_text("".join(json.dumps({"text": document}) + "\n" for document in DOCUMENTS))
    folder.mkdir()
    for number, document in enumerate(DOCUMENTS):
        (folder / f"{number}.txt").write_text(document, encoding="utf-8", newline="")
    for seed in (0, 7):
        expected = lmkit.Tokenizer.train(texts=DOCUMENTS, vocab_size=400, sample=0.3, seed=seed)
        for path in (text, lines, folder):
            for threads in (1, 3):
                tok = train(path, sample=0.3, seed=seed, num_threads=threads)
                assert tok == expected, path
    assert train(text, sample=0.3, seed=0) != train(text, sample=0.3, seed=7)
    assert train(text, sample=1.0) == train(text)
    with pytest.raises(lmkit.UsageError, match=r"--sample 0\.0001 chose no text"):
        train(text, sample=0.0001)
    for bad in (0, -1, 1.5, float("nan")):
        with pytest.raises(lmkit.UsageError, match="--sample must be above 0 and at most 1"):
            train(text, sample=bad)


def test_what_is_not_sampled_is_held_out(tmp_path):
    text = tmp_path / "a.txt"
    text.write_text(END.join(DOCUMENTS), encoding="utf-8", newline="")
    reports = []
    tok = train(text, sample=0.5, report=reports.append)
    assert tok == train(text, sample=0.5)
    whole = sum(len(document.encode()) for document in DOCUMENTS)
    assert 0.3 < reports[0]["text_bytes"] / whole < 0.7
    growth = [row["bytes_per_token"] for row in reports[0]["growth"]]
    assert growth == sorted(growth)
    # Without a sample, one document in a hundred is set aside.
    train(text, report=reports.append, seed=3)
    assert 0 < reports[1]["text_bytes"] / whole < 0.1


def many_words(count: int) -> str:
    chance = random.Random(5)
    rare = [f" w{chance.randrange(10**9):09d}q" for _ in range(count)]
    return "".join(rare) + " the cat sat on the mat" * (count // 20)


@pytest.fixture(scope="module")
def too_much(tmp_path_factory):
    path = tmp_path_factory.mktemp("much") / "words.txt"
    path.write_text(many_words(600_000), encoding="utf-8")
    return path


def test_text_that_does_not_fit_is_refused(too_much):
    with pytest.raises(lmkit.UsageError, match="do not fit into --memory_limit 128M") as error:
        train(too_much, memory_limit="128M")
    assert "--allow_pruning" in str(error.value.hint)


def test_a_record_too_long_for_the_limit_names_the_flag_that_is_there(tmp_path):
    path = tmp_path / "one.txt"
    path.write_text("a" * (9 << 20), encoding="utf-8")
    with pytest.raises(lmkit.MalformedError, match="a larger --memory_limit allows more"):
        train(path, memory_limit="128M", pattern="(?s).+")


def test_pruning_is_told_and_the_same_for_any_number_of_threads(too_much):
    toks = set()
    for threads in (1, 2, 5):
        with pytest.warns(UserWarning, match=r"did not fit into --memory_limit: \d+\.\d+% of"):
            toks.add(train(too_much, memory_limit="128M", allow_pruning=True, num_threads=threads))
    (tok,) = toks
    assert tok.encode(" the cat sat on the mat") == tok.encode(" the cat sat on the mat")
    assert len(tok.encode(" the cat sat on the mat")) == 6, "what is frequent stays"


def test_a_limit_that_suffices_changes_nothing(tmp_path):
    text = tmp_path / "a.txt"
    text.write_text(END.join(DOCUMENTS) * 300, encoding="utf-8", newline="")
    for threads in (1, 3):
        assert train(text, memory_limit="128M", num_threads=threads) == train(text)
    texts = lmkit.Tokenizer.train(texts=DOCUMENTS, vocab_size=400, memory_limit=128 << 20)
    assert texts == lmkit.Tokenizer.train(texts=DOCUMENTS, vocab_size=400)


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for the peak")
@pytest.mark.parametrize("longest", [1, 40])
def test_the_limit_holds(tmp_path, longest):
    chance = random.Random(1)
    text = tmp_path / "a.txt"
    with text.open("w") as out:
        for _ in range(600_000 // longest):
            out.write(f"{chance.randrange(10**12):x} {'word' * (longest - 1)}")
            out.write("".join(chance.choices("abcdefgh", k=chance.randrange(3, 4 + 6 * longest))))
            out.write("\n")
    script = (
        "import lmkit, pathlib, re, warnings\n"
        "warnings.simplefilter('ignore')\n"
        f"lmkit.Tokenizer.train({str(text)!r}, 2000, memory_limit='128M', allow_pruning=True)\n"
        "status = pathlib.Path('/proc/self/status').read_text()\n"
        "print(int(re.search(r'VmHWM:\\s+(\\d+) kB', status)[1]) >> 10)\n"
    )
    out = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=120
    ).stdout
    assert int(out) < 128
