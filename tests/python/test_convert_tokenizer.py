"""`lmkit convert tokenizer`: from each format to each, with the same ids."""

import json

from click.testing import CliRunner

from lmkit import Tokenizer
from lmkit.cli import main
from tokenizer_texts import TEXTS, learned


def convert(*words):
    return CliRunner().invoke(main, ["convert", "tokenizer", *map(str, words)])


def test_a_tokenizer_json_becomes_a_folder(tmp_path):
    tok = learned("cl100k")
    tok.save(tmp_path / "saved")
    done = convert(tmp_path / "saved" / "tokenizer.json", tmp_path / "ours", "--json")
    assert done.exit_code == 0, done.output
    ours = Tokenizer.load(tmp_path / "ours")
    assert ours == tok
    assert ours.encode(TEXTS["code"]) == tok.encode(TEXTS["code"])
    assert json.loads(done.stdout) == {
        "output_path": str(tmp_path / "ours"),
        "vocab_size": tok.vocab_size,
        "fingerprint": tok.fingerprint,
    }
