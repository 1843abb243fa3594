"""`lmkit train --print_config`: every setting as it is resolved, in a form that --config takes."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from lmkit.cli import call
from lmkit.config import GROUPS, TrainConfig, to_dict, train_config
from lmkit.config import settings as known_settings
from lmkit.config_file import flatten
from lmkit.errors import UsageError
from tiny_run import make_inputs, one_thread, settings, train


def printed(*words: str | Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert call(["train", "--print_config", *map(str, words)]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def test_what_is_printed_is_the_run_it_came_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """From the command line, the environment, a file and a preset; read again it is the same."""
    monkeypatch.setenv("LMKIT_TRAIN_WARMUP_ITERS", "7")
    (tmp_path / "few.toml").write_text("seed = 3\n")
    words = ["--config", tmp_path / "few.toml", "--preset", "small", "--max_iters", "1e3"]
    words += ["--max_grad_norm", "none", "--lr_schedule", "cosine", "--qk_norm", "--nproc", "2"]
    text = printed(*words, capsys=capsys)
    found = flatten(tomllib.loads(text), GROUPS)
    assert found.pop("nproc") == 2
    given = {"preset": "small", "max_iters": 1000, "seed": 3, "warmup_iters": 7,
             "lr_schedule": "cosine", "qk_norm": True, "max_grad_norm": None}  # fmt: skip
    assert to_dict(train_config(found)) == to_dict(train_config(given))
    monkeypatch.delenv("LMKIT_TRAIN_WARMUP_ITERS")
    (tmp_path / "all.toml").write_text(text)
    assert printed("--config", tmp_path / "all.toml", capsys=capsys) == text


def test_every_setting_stands_under_its_sentence(capsys: pytest.CaptureFixture[str]):
    text = printed(capsys=capsys)
    for name, one in known_settings(TrainConfig).items():
        assert f"\n{name} = " in text or f"\n# {name} =\n" in text, name
        assert " ".join(one.sentence.split()[:3]) in text
    assert max(map(len, text.splitlines())) <= 100
    assert text.startswith("[model]\n")


def test_json_prints_an_object_of_the_same(capsys: pytest.CaptureFixture[str]):
    found = json.loads(printed("--json", "--d_model", "128", "--n_heads", "4", capsys=capsys))
    assert found == to_dict(train_config({"d_model": 128, "n_heads": 4}))


def test_a_word_that_the_run_settles_stays_a_word(capsys: pytest.CaptureFixture[str]):
    assert 'batch_size = "auto"' in printed("--batch_size", "auto", capsys=capsys)


def test_what_does_not_fit_is_refused_as_by_a_run():
    with pytest.raises(UsageError, match="--d_model 100 is not divisible by --n_heads 3"):
        call(["train", "--print_config", "--d_model", "100", "--n_heads", "3"])


def test_a_resumed_run_has_its_checkpoints_settings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    inputs, run = make_inputs(tmp_path), tmp_path / "run"
    with one_thread():
        train(inputs, run, max_iters=2)
    capsys.readouterr()
    before = sorted(run.iterdir())
    text = printed("--load_checkpoint", run / "checkpoint_2.pt", "--max_iters", "9", "--quiet",
                   capsys=capsys)  # fmt: skip
    found = flatten(tomllib.loads(text), GROUPS)
    wanted = settings(inputs, run, max_iters=9)
    assert {name: found[name] for name in wanted} == wanted
    assert sorted(run.iterdir()) == before


def test_printing_loads_no_torch():
    code = (
        "import sys\nfrom lmkit.cli import call\n"
        "assert call(['train', '--print_config', '--preset', 'small']) == 0\n"
        "print('heavy:', *{'torch', 'numpy', 'rich'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "heavy:"
