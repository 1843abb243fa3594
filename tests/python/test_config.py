"""Settings are checked where they enter, named as they are typed, and survive TOML."""

import pytest

from lmkit.config import TrainConfig, from_dict, settings, to_dict, train_config
from lmkit.config_file import from_toml, read_toml, to_toml
from lmkit.errors import MissingFileError, UsageError
from lmkit.model_config import ModelConfig
from lmkit.presets import PRESETS


def test_the_defaults_are_those_of_the_original_script():
    expected = {
        "vocab_size": 10_000,
        "d_model": 768,
        "n_layers": 12,
        "n_heads": 12,
        "max_seq_len": 1024,
        "rope_theta": 10_000.0,
        "d_ff": 3072,
        "batch_size": 32,
        "context_length": 512,
        "learning_rate": 3e-4,
        "weight_decay": 0.01,
        "beta1": 0.9,
        "beta2": 0.999,
        "max_grad_norm": 1.0,
        "max_iters": 100_000,
        "checkpoint_dir": "./checkpoints",
        "log_interval": 100,
        "eval_interval": 1000,
        "save_interval": 5000,
        "num_eval_batches": 100,
        "device": "auto",
        "seed": 0,
        "lr_schedule": "constant",
    }
    assert expected.items() <= to_dict(TrainConfig()).items()


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_is_beneath_what_is_given(preset):
    config = train_config({"preset": preset, "n_layers": 3})
    assert to_dict(config) == to_dict(TrainConfig()) | PRESETS[preset] | {"n_layers": 3}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"n_heads": 0}, "--n_heads must be at least 1, not 0"),
        ({"n_heads": 5}, "--d_model 768 is not divisible by --n_heads 5"),
        ({"n_heads": 768}, "makes heads 1 wide; rotary positions need an even width"),
        ({"batch_size": "many"}, "--batch_size must be a whole number, not 'many'"),
        ({"batch_size": True}, "--batch_size must be a whole number, not True"),
        ({"learning_rate": float("nan")}, "--learning_rate must be a finite number, not nan"),
        ({"learning_rate": 0}, "--learning_rate must be above 0, not 0.0"),
        ({"beta2": 1}, "--beta2 must be at least 0 and below 1, not 1.0"),
        ({"lr_schedule": "step"}, "--lr_schedule must be constant, cosine or wsd, not 'step'"),
        ({"context_length": 2000}, "--context_length 2000 is above --max_seq_len 1024"),
        ({"vocab_path": "v"}, "--merges_path is missing"),
        ({"merges_path": "m"}, "--vocab_path is missing"),
        ({"tokenizer": "t", "vocab_path": "v", "merges_path": "m"}, "exclude each other"),
        ({"min_lr": 1e-5}, "--min_lr has no effect with --lr_schedule constant"),
        ({"min_lr": 1.0, "lr_schedule": "cosine"}, "--min_lr 1.0 is above --learning_rate"),
        ({"lr_schedule": "wsd", "warmup_iters": 5, "max_iters": 4}, "--warmup_iters 5 is above"),
        (
            {"preset": "tiny"},
            "--preset must be small, medium, large or cs336-tinystories, not 'tiny'",
        ),
        ({"learnin_rate": 1}, "unknown setting learnin_rate"),
        ({"d_model": None}, "--d_model cannot be none"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_flag_as_typed(given, message):
    with pytest.raises(UsageError) as caught:
        train_config(given)
    assert message in str(caught.value)


def test_a_misspelt_setting_is_told_its_neighbour():
    with pytest.raises(UsageError) as caught:
        train_config({"learnin_rate": 1})
    assert caught.value.hint == "did you mean learning_rate?"


def test_toml_gives_back_an_equal_config():
    config = train_config(
        {"preset": "small", "max_grad_norm": None, "vocab_path": "a", "merges_path": "b\n'\""}
    )
    assert from_toml(TrainConfig, to_toml(config)) == config
    assert from_toml(ModelConfig, to_toml(config.model)) == config.model


def test_a_flat_dict_gives_back_an_equal_config():
    config = train_config({"preset": "medium", "lr_decay_iters": 7, "rope_theta": 5})
    assert from_dict(TrainConfig, to_dict(config)) == config
    assert isinstance(config.model.rope_theta, float)


def test_toml_may_be_flat_and_dashed_but_not_say_a_thing_twice():
    assert from_toml(TrainConfig, "batch-size = 4\n[model]\nd-ff = 8\n").model.d_ff == 8
    with pytest.raises(UsageError, match="batch_size is set twice"):
        from_toml(TrainConfig, "batch_size = 4\n[training]\nbatch-size = 8\n")


def test_a_config_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(MissingFileError, match=r"config file .*no\.toml does not exist"):
        read_toml(tmp_path / "no.toml")
    torn = tmp_path / "torn.toml"
    torn.write_text("batch_size = ")
    with pytest.raises(UsageError, match=r"torn\.toml is not TOML"):
        read_toml(torn)


def test_a_new_run_needs_a_tokenizer_and_data():
    with pytest.raises(UsageError, match="no tokenizer given"):
        TrainConfig().check_inputs()
    with pytest.raises(UsageError, match="no data given"):
        TrainConfig(tokenizer="t").check_inputs()


def test_every_setting_has_its_sentence():
    for one in settings(TrainConfig).values():
        assert one.sentence[0].isupper()
        assert "." in one.sentence


@pytest.mark.parametrize(
    ("typed", "seconds"),
    [("3h50m", 13_800), ("1d", 86_400), ("90s", 90), ("90", 90), ("1h 30min", 5_400), (1.5, 1.5)],
)
def test_a_time_may_be_typed_in_its_units(typed, seconds):
    config = TrainConfig(max_time=typed)
    assert config.max_time == seconds
    assert from_toml(TrainConfig, to_toml(config)) == config


@pytest.mark.parametrize("typed", ["", "soon", "3x", "50m3h", "-5", "0s"])
def test_what_is_no_time_is_said(typed):
    with pytest.raises(UsageError, match="--max_time must be"):
        TrainConfig(max_time=typed)
