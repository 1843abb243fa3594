"""Examples in docstrings run, each public name has one, and what objects say of themselves informs.

They run in a folder with ``raw_text.txt``, ``tokenizer/``, ``train.npy``, a run of a few steps in
``checkpoints/`` and its export ``my_model/``, which is what their texts speak of.
"""

import doctest
import importlib
import inspect
import os
from pathlib import Path

import pytest
import torch

import lmkit
import lmkit.lm
from lmkit.config import TrainConfig
from lmkit.lm.batches import Mixture, TokenBatches
from lmkit.lm.export import export_model
from lmkit.lm.model import Transformer
from lmkit.lm.report import Silence
from lmkit.lm.trainer import Trainer
from lmkit.model_config import ModelConfig
from lmkit.sampling_config import SamplingConfig
from lmkit.token_file import TokenReader
from tiny_run import one_thread

# Whose docstrings are run, all of them, whether public names of theirs or not.
MODULES = [
    "lmkit",
    "lmkit.byte_size",
    "lmkit.config",
    "lmkit.model_config",
    "lmkit.rope_scaling",
    "lmkit.token_file",
    "lmkit.tokenize_files",
    "lmkit.tokenizer",
    "lmkit.tokens",
    "lmkit.train_tokenizer",
    "lmkit.lm.checkpoint",
    "lmkit.lm.export",
    "lmkit.lm.foreign_model",
    "lmkit.lm.generate",
    "lmkit.lm.huggingface_weights",
    "lmkit.lm.model",
    "lmkit.lm.trainer",
]
PUBLIC = [
    getattr(package, name)
    for package in (lmkit, lmkit.lm)
    for name in package.__all__
    if name != "__version__"
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """What the examples find."""
    folder = tmp_path_factory.mktemp("docstrings")
    text = (Path(__file__).parents[1] / "data" / "stories.txt").read_text(encoding="utf-8")
    (folder / "raw_text.txt").write_text(text, encoding="utf-8")
    tokenizer = lmkit.Tokenizer.train(texts=[text], vocab_size=300)
    tokenizer.save(folder / "tokenizer")
    lmkit.tokenize(folder / "raw_text.txt", folder / "train.npy", tokenizer)
    shape = ModelConfig(vocab_size=300, d_model=16, n_layers=1, n_heads=2, d_ff=24, max_seq_len=64)
    config = TrainConfig(
        model=shape,
        tokenizer=str(folder / "tokenizer"),
        train_data=str(folder / "train.npy"),
        checkpoint_dir=str(folder / "checkpoints"),
        context_length=32,
        batch_size=2,
        max_iters=3,
        device="cpu",
    )
    with one_thread():
        Trainer(config, report=Silence()).train()
    export_model(folder / "checkpoints", folder / "my_model")
    return folder


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name, folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "80")
    module = importlib.import_module(name)
    tests = [test for test in doctest.DocTestFinder().find(module, name) if test.examples]
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    said: list[str] = []
    with one_thread():
        for test in tests:
            runner.run(test, out=said.append)
    assert runner.failures == 0, "".join(said)
    assert os.environ["COLUMNS"] == "80"


@pytest.mark.parametrize("thing", PUBLIC, ids=lambda thing: thing.__name__)
def test_public_names_are_documented_with_an_example(thing):
    assert thing.__doc__
    if inspect.isclass(thing) and issubclass(thing, Exception):
        return
    assert ">>> " in thing.__doc__
    assert thing.__module__ in MODULES, "its example is not run"


def test_what_a_tokenizer_does_has_examples():
    doing = ("load", "train", "save", "encode", "encode_batch", "encode_iterable", "decode")
    for name in (*doing, "stream_decoder"):
        assert ">>> " in getattr(lmkit.Tokenizer, name).__doc__, name


def test_a_configuration_shows_what_makes_it_again():
    shape = ModelConfig(vocab_size=1000, d_model=64, n_heads=4, qk_norm=True)
    assert repr(shape) == (
        "ModelConfig(vocab_size=1000, d_model=64, n_layers=12, n_heads=4, max_seq_len=1024, "
        "rope_theta=10000.0, d_ff=3072, qk_norm=True)"
    )
    config = TrainConfig(model=shape, batch_size=16, ema_decay=0.9)
    assert repr(config) == f"TrainConfig(model={shape!r}, batch_size=16, ema_decay=0.9)"
    assert eval(repr(config)) == config
    assert repr(SamplingConfig(top_k=5)) == "SamplingConfig(top_k=5)"


def test_a_trainer_shows_where_it_stands():
    assert repr(Trainer({"checkpoint_dir": "a"})) == "Trainer(checkpoint_dir='a', not begun)"
    assert repr(Trainer({})) == "Trainer(checkpoint_dir='./checkpoints', not begun)"


def test_what_holds_tokens_tells_how_many(folder):
    with TokenReader(folder / "train.npy") as reader:
        count = len(reader)
        assert repr(reader).endswith(f"train.npy', tokens={count}, dtype=int32)")
        batches = TokenBatches(reader, batch_size=4, context_length=8, grad_accum_steps=2)
        assert repr(batches) == (
            f"TokenBatches(tokens={count}, batch_size=4, context_length=8, grad_accum_steps=2, "
            "sampling='random', device='cpu')"
        )
        mixture = Mixture([reader, reader], [3, 1])
        assert repr(mixture) == f"Mixture(tokens={2 * count}, parts=2, shares=[0.75, 0.25])"


def test_a_model_shows_its_shape_and_size():
    shape = ModelConfig(vocab_size=50, d_model=16, n_layers=3, n_heads=2, d_ff=24)
    text = repr(Transformer(shape))
    assert f"{shape!r}, " in text
    assert f"{Transformer(shape).parameter_count():,} parameters" in text
    assert "(0-2): 3 x Block(" in text
    assert torch.nn.Module.__repr__ is Transformer.__repr__
