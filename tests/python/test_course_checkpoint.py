"""Checkpoints of the course's script: tensors, an optimizer's state, and no configuration."""

import warnings

import pytest
import torch
from torch import nn

from lmkit.errors import LmkitError, MismatchError, UsageError
from lmkit.lm import load_model
from lmkit.lm.foreign_model import import_model
from lmkit.lm.model import Transformer
from lmkit.lm.trainer import Trainer
from lmkit.model_config import ModelConfig
from tiny_run import SHAPE, make_inputs, one_thread

STEPS = 5


@pytest.fixture(autouse=True, scope="module")
def alone():
    with one_thread():
        yield


@pytest.fixture(autouse=True)
def no_warning_of_a_missing_sidecar():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".* has no sidecar")
        yield


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> dict[str, str]:
    return make_inputs(tmp_path_factory.mktemp("inputs"))


class TheirAdamW(torch.optim.Optimizer):
    """The course's own, after its text: moments m and v, steps t, one group."""

    def __init__(self, parameters):
        super().__init__(parameters, {"lr": 1e-3})

    def step(self):
        for parameter in self.param_groups[0]["params"]:
            state = self.state[parameter]
            m, v = (state.get(name, torch.zeros_like(parameter)) for name in "mv")
            gradient = parameter.grad
            state["m"], state["v"] = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
            state["t"] = state.get("t", 0) + 1


def course_run(path, make_optimizer, prefix="", **shape):
    """What the script leaves after some steps; the model and the optimizer."""
    torch.manual_seed(0)
    model = Transformer(ModelConfig(**{**SHAPE, "max_seq_len": 16, **shape}))
    optimizer = make_optimizer(list(model.parameters()))
    for _ in range(STEPS):
        optimizer.zero_grad()
        ids = torch.randint(257, (2, 9))
        model(ids[:, :-1], ids[:, 1:]).backward()
        optimizer.step()
    weights = {prefix + name: weight for name, weight in model.state_dict().items()}
    state = {"model": weights, "optimizer": optimizer.state_dict(), "iteration": STEPS}
    torch.save(state, path)
    return model, optimizer


def adamw(parameters):
    return torch.optim.AdamW(parameters, lr=1e-3)


def tokenizer_folder(inputs, folder):
    from lmkit import Tokenizer

    Tokenizer.from_files(inputs["vocab_path"], inputs["merges_path"]).save(folder)
    return folder


@pytest.mark.parametrize("make_optimizer", [adamw, TheirAdamW])
@pytest.mark.parametrize("prefix", ["", "_orig_mod.", "module."])
def test_shapes_give_the_model_and_adamw_goes_on(make_optimizer, prefix, inputs, tmp_path):
    model, optimizer = course_run(tmp_path / "c.pt", make_optimizer, prefix)
    result = import_model(
        tmp_path / "c.pt",
        tmp_path / "run",
        tokenizer=tokenizer_folder(inputs, tmp_path / "t"),
        n_heads=2,
        max_seq_len=16,
    )
    assert (result.kind, result.iteration) == ("course", STEPS)
    assert result.checkpoint == f"{tmp_path}/run/checkpoint_{STEPS}.pt"
    assert result.config == model.config
    ours, _ = load_model(result.checkpoint)
    for name, weight in model.state_dict().items():
        assert torch.equal(ours.state_dict()[name], weight)
    trainer = Trainer(
        {
            "load_checkpoint": result.checkpoint,
            "max_iters": STEPS,
            "train_data": inputs["train_data"],
        }
    )
    trainer.train()
    theirs = dict(model.named_parameters())
    for name, parameter in trainer.model.named_parameters():
        before, now = optimizer.state[theirs[name]], trainer.optimizer.state[parameter]
        assert torch.equal(now["exp_avg"], before.get("exp_avg", before.get("m")))
        assert torch.equal(now["exp_avg_sq"], before.get("exp_avg_sq", before.get("v")))
        assert float(now["step"]) == STEPS


def test_the_scripts_command_goes_on_from_its_checkpoint(inputs, tmp_path, capsys):
    course_run(tmp_path / "checkpoint_5.pt", adamw)
    given = {
        **{name: inputs[name] for name in ("vocab_path", "merges_path", "train_data")},
        "load_checkpoint": str(tmp_path / "checkpoint_5.pt"),
        "max_iters": 8,
        "batch_size": 2,
        "context_length": 16,
        "device": "cpu",
    }
    with pytest.raises(MismatchError, match="do not say how many heads") as caught:
        Trainer(given).train()
    assert "--n_heads" in caught.value.hint
    history = Trainer({**given, "n_heads": 2}).train()
    assert [record["iter"] for record in history if "loss" in record] == [6, 7, 8]
    assert "taking --rope_theta 10000 and --max_seq_len 1024" in capsys.readouterr().err
    state = torch.load(tmp_path / "checkpoint_8.pt", weights_only=True)
    assert {name: state["config"][name] for name in SHAPE} == SHAPE
    Trainer({"load_checkpoint": str(tmp_path / "checkpoint_8.pt"), "max_iters": 9}).train()


def test_what_is_given_must_be_what_the_tensors_are(inputs, tmp_path):
    course_run(tmp_path / "c.pt", adamw)
    given = {"load_checkpoint": str(tmp_path / "c.pt"), "train_data": inputs["train_data"]}
    for more, said in (
        ({"n_heads": 2, "d_model": 32}, "--d_model 32 .its tensors have 16"),
        ({"n_heads": 2, "n_layers": 3}, "--n_layers 3 .its tensors have 2"),
        ({"n_heads": 3}, "--n_heads 3 does not divide"),
    ):
        with pytest.raises(MismatchError, match=said) as caught:
            Trainer({**given, **more}).train()
        assert caught.value.exit_code == 5


@pytest.mark.parametrize(
    "shape",
    [
        {"n_heads": 4, "n_kv_heads": 2, "qk_norm": True},
        {"tie_embeddings": True, "head_dim": 6},
    ],
)
def test_what_the_tensors_tell_beyond_the_course(shape, inputs, tmp_path):
    model, _ = course_run(tmp_path / "c.pt", adamw, **shape)
    folder = tokenizer_folder(inputs, tmp_path / "t")
    heads = shape.get("n_heads", 2)
    result = import_model(
        tmp_path / "c.pt", tmp_path / "run", tokenizer=folder, n_heads=heads, max_seq_len=16
    )
    assert result.config == model.config


def test_an_optimizer_of_another_kind_begins_anew_and_is_said(inputs, tmp_path):
    course_run(tmp_path / "c.pt", lambda parameters: torch.optim.SGD(parameters, momentum=0.9))
    said = []
    result = import_model(
        tmp_path / "c.pt",
        tmp_path / "run",
        tokenizer=tokenizer_folder(inputs, tmp_path / "t"),
        n_heads=2,
        notice=said.append,
    )
    assert any("optimizer's state" in sentence and "anew" in sentence for sentence in said)
    assert "optimizer" not in torch.load(result.checkpoint, weights_only=True)


def test_other_models_are_refused(inputs, tmp_path):
    folder = tokenizer_folder(inputs, tmp_path / "t")
    torch.save({"model": nn.Linear(2, 3).state_dict(), "iteration": 1}, tmp_path / "c.pt")
    with pytest.raises(MismatchError, match=r"it has no token_embeddings\.weight"):
        import_model(tmp_path / "c.pt", tmp_path / "run", tokenizer=folder, n_heads=2)
    model, _ = course_run(tmp_path / "d.pt", adamw)
    weights = model.state_dict() | {"layers.1.attn.q_proj.bias": torch.zeros(16)}
    torch.save({"model": weights, "iteration": 1}, tmp_path / "d.pt")
    with pytest.raises(MismatchError, match=r"the model has no layers\.1\.attn\.q_proj\.bias"):
        import_model(tmp_path / "d.pt", tmp_path / "run", tokenizer=folder, n_heads=2)
    with pytest.raises(UsageError, match="holds no tokenizer"):
        import_model(tmp_path / "d.pt", tmp_path / "run", n_heads=2)
    (tmp_path / "e.pt").write_bytes(b"nothing")
    with pytest.raises(LmkitError, match="not a whole archive"):
        import_model(tmp_path / "e.pt", tmp_path / "run", tokenizer=folder, n_heads=2)
    assert not (tmp_path / "run").exists()
