"""An error about a value names what set it: the flag, the variable, or the file and its key."""

from pathlib import Path

import click
import pytest

from lmkit.cli import call
from lmkit.config import TrainConfig
from lmkit.errors import LmkitError, UsageError
from tiny_run import make_inputs, one_thread, train


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A config file of this folder, which is named without one."""
    monkeypatch.chdir(tmp_path)
    return Path("run.toml")


def refused(*words: str) -> str:
    with pytest.raises((LmkitError, click.BadParameter)) as caught:
        call(list(words))
    error = caught.value
    return error.format_message() if isinstance(error, click.BadParameter) else str(error)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("n_heads = 0", "config file run.toml: n_heads must be at least 1, not 0"),
        ("[model]\nn-heads = 0", "config file run.toml: n_heads must be at least 1, not 0"),
        ("beta1 = 'low'", "config file run.toml: beta1 must be a number, not 'low'"),
        ("n_heads = 5", "config file run.toml: --d_model 768 is not divisible by n_heads 5"),
        (
            "vocab_path = 'v'\nmerges_path = 'm'\ntokenizer = 't'",
            "config file run.toml: tokenizer and vocab_path with merges_path exclude each other",
        ),
        ("min_lr = 1e-5", "config file run.toml: min_lr has no effect with --lr_schedule constant"),
        (
            "precision = 'half'",
            "Invalid value for precision in config file run.toml: 'half' is not one of "
            "'auto', 'float32', 'bfloat16'.",
        ),
    ],
)
def test_a_value_of_a_config_file_is_told_by_file_and_key(config: Path, content: str, said: str):
    config.write_text(content)
    assert refused("train", "--print_config", "--config", "run.toml") == said


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("N_HEADS", "two", "LMKIT_TRAIN_N_HEADS must be a whole number, not 'two'"),
        ("N_HEADS", "5", "--d_model 768 is not divisible by LMKIT_TRAIN_N_HEADS 5"),
        ("NPROC", "0", "Invalid value for LMKIT_TRAIN_NPROC: 0 is not in the range x>=1."),
    ],
)
def test_a_value_of_the_environment_is_told_by_its_variable(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, said: str
):
    monkeypatch.setenv(f"LMKIT_TRAIN_{variable}", value)
    assert refused("train", "--print_config") == said


def test_each_value_is_told_by_its_own_source(config: Path, monkeypatch: pytest.MonkeyPatch):
    config.write_text("max_seq_len = 64\nd_model = 100")
    monkeypatch.setenv("LMKIT_TRAIN_CONTEXT_LENGTH", "65")
    words = ["train", "--print_config", "--config", "run.toml"]
    assert refused(*words, "--d_model", "64", "--n_heads", "4") == (
        "config file run.toml: LMKIT_TRAIN_CONTEXT_LENGTH 65 is above max_seq_len 64"
    )
    assert refused(*words, "--n_heads", "3", "--context_length", "9") == (
        "config file run.toml: d_model 100 is not divisible by --n_heads 3"
    )


def test_what_was_typed_over_a_config_is_told_by_its_flag(
    config: Path, monkeypatch: pytest.MonkeyPatch
):
    config.write_text("n_heads = 2")
    monkeypatch.setenv("LMKIT_TRAIN_N_HEADS", "4")
    words = ["train", "--print_config", "--config", "run.toml", "--n_heads", "0"]
    assert refused(*words) == "--n_heads must be at least 1, not 0"


def test_a_parameter_called_otherwise_is_told_by_its_key(config: Path):
    config.write_text("tokenizer = 't'\nvocab_path = 'v'")
    Path("text.txt").write_text("some text")
    words = ["tokenize", "--config", "run.toml", "--data_path", "text.txt"]
    assert refused(*words, "--output_path", "t.npy", "--merges_path", "m") == (
        "config file run.toml: tokenizer and vocab_path with --merges_path exclude each other"
    )


def test_a_run_of_many_processes_tells_it_before_there_are_any(config: Path):
    config.write_text("nproc = 2\nn_heads = 5")
    assert refused("train", "--config", "run.toml") == (
        "config file run.toml: --d_model 768 is not divisible by n_heads 5"
    )


def test_a_checkpoint_of_another_shape_is_told_the_key(config: Path):
    with one_thread():
        train(make_inputs(Path()), Path("run"), max_iters=1)
    config.write_text("n_layers = 3")
    words = ["train", "--config", "run.toml", "--checkpoint_dir", "run"]
    assert refused(*words, "--load_checkpoint", "latest").endswith(
        " is of another model: n_layers 3 (the checkpoint has 2)"
    )


def test_python_is_told_the_name_as_ever():
    with pytest.raises(UsageError, match=r"^--batch_size must be at least 1, not 0$"):
        TrainConfig(batch_size=0)
