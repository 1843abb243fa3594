"""`lmkit inspect --text` shows a text cut in tokens: on the terminal, as JSON, as a page."""

import json
from pathlib import Path

import pytest

from browser import find_browser, look_at
from inspected import TEXT, TOK, make_files, refusal, said
from lmkit.cli import call
from lmkit.token_view import shown, tokenizer_card, view

END = "<|endoftext|>"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_files(tmp_path_factory.mktemp("files"))


def test_a_view_has_all_tokens() -> None:
    text = TEXT * 3 + END + "春"
    seen = view(TOK, text, 10_000)
    assert [token.id for token in seen.tokens] == TOK.encode(text)
    assert b"".join(token.bytes for token in seen.tokens) == text.encode()
    assert seen.tokens[-4].is_special
    assert (seen.count, seen.text_bytes) == (len(seen.tokens), len(text.encode()))
    assert sum(count for _, count in seen.commonest) == seen.count
    assert [count for _, count in seen.commonest] == sorted(
        (count for _, count in seen.commonest), reverse=True
    )
    assert len(view(TOK, text, 3).tokens) == 3
    assert view(TOK, "", 3).bytes_per_token == 0.0


def test_what_cannot_be_seen_is_shown() -> None:
    assert shown(b" a\n\t") == " a⏎⇥"
    assert shown("春".encode()[:2]) == "\\xe6\\x98"
    assert shown(b"\x1b[0m\0") == "\\x1b[0m\\x00"


def test_on_the_terminal(files: Path) -> None:
    done = said(files / "tok", "--text", "the [red]cat\x1b[0m")
    assert "\x1b" not in done.stdout
    assert f"[{shown(TOK.vocab[TOK.encode('the')[0]])}|" in done.stdout
    assert "bytes a token" in done.stdout
    coloured = said(files / "tok", "--text", "the cat", FORCE_COLOR="1", TERM="xterm-256color")
    assert "\x1b[" in coloured.stdout
    plain = said(files / "tok", "--text", "the cat", FORCE_COLOR="1", NO_COLOR="1")
    assert "\x1b" not in plain.stdout


def test_as_json_and_from_a_file(files: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(TEXT * 100)
    words = (files / "vocab.json", "--text_path", tmp_path / "a.txt", "--json", "--show", 4)
    told = json.loads(said(*words).stdout)
    assert told["tokens"] == len(TOK.encode(TEXT * 100))
    assert [token["id"] for token in told["first"]] == TOK.encode(TEXT)[:4]


def test_options_without_effect_are_refused(files: Path) -> None:
    assert "have no effect without --text" in refusal(files / "tok", "--show", 3, code=2)
    refusal(files / "tok", "--text", "a", "--text_path", "b", code=2)
    refusal(files / "tok", "--text", "a", "--no_verify", code=2)
    refusal(files / "tok", "--text_path", files / "missing", code=2)
    refusal(files / "tok", "--text_path", files / "train.npy", code=3)
    refusal(files / "missing", "--text", "a", code=2)


def test_the_page_stands_alone_and_is_not_overwritten(files: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    text = "the cat <script>alert(1)</script> & sat\n" * 20
    assert call(["inspect", str(files / "tok"), "--text", text, "--html", str(page)]) == 0
    content = page.read_text()
    assert "<script" not in content
    assert "http" not in content
    assert content.count('<span class="t ') == len(TOK.encode(text))
    assert "already exists" in refusal(files / "tok", "--text", "a", "--html", page, code=2)
    call(["inspect", str(files / "tok"), "--text", "a", "--html", str(page), "--force"])
    assert page.read_text() != content


@pytest.mark.parametrize("width", [360, 1280])
def test_the_page_fits_a_phone(files: Path, tmp_path: Path, width: int) -> None:
    find_browser()
    page = tmp_path / "page.html"
    text = TEXT * 20 + "x" * 500 + "春はあけぼの😀" + END
    assert call(["inspect", str(files / "tok"), "--text", text, "--html", str(page)]) == 0
    seen = look_at(page, "tokens", width)
    assert (seen.faults, seen.console) == ([], [])
    assert seen.found["width"] <= width
    assert seen.found["tokens"] == len(TOK.encode(text))
    assert seen.found["smallest"] >= 10


def test_a_tokenizer_shows_itself_in_a_notebook() -> None:
    told = TOK._repr_html_()
    assert told == tokenizer_card(TOK)
    assert TOK.fingerprint[:12] in told
    assert "&lt;|endoftext|&gt;" in told
    assert f"vocab_size={TOK.vocab_size}" in repr(TOK)


def test_half_characters_are_escaped_once(files: Path) -> None:
    printed = said(files / "tok", "--text", "é").stdout
    assert "'\\xc3' " in printed
    assert "\\\\x" not in printed
