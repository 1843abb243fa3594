"""What "auto" becomes, and what a machine does not have."""

import pytest
import torch

from lmkit.config import TrainConfig, train_config
from lmkit.errors import UsageError
from lmkit.lm import cross_entropy, device, preparation
from lmkit.lm.device import Device, compile_model, find_device, resolve
from lmkit.lm.estimate import compiling_pays
from lmkit.lm.model import Transformer
from lmkit.model_config import ModelConfig
from lmkit.presets import PRESETS


@pytest.fixture
def cpu_only(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.mark.usefixtures("cpu_only")
def test_a_machine_without_accelerator_computes_in_float32(monkeypatch):
    monkeypatch.setattr(device, "_missing_compiler", lambda _: None)
    cpu = torch.device("cpu")
    assert resolve(TrainConfig()) == Device(cpu, torch.float32, compile=True)
    assert resolve(TrainConfig(), compiling_pays=False) == Device(cpu, torch.float32, compile=False)
    assert resolve(TrainConfig(compile="on"), compiling_pays=False).compile
    assert not resolve(TrainConfig(compile="off")).compile


def test_compiling_pays_for_the_presets_and_not_for_a_trial():
    assert all(compiling_pays(train_config({"preset": preset})) for preset in PRESETS)
    assert compiling_pays(TrainConfig())
    assert not compiling_pays(train_config({"preset": "small", "max_iters": 200}))


def test_a_resumed_run_compiles_as_it_did(monkeypatch):
    monkeypatch.setattr(device, "_missing_compiler", lambda _: None)
    for compiled in (True, False):
        for config in (TrainConfig(device="cpu"), TrainConfig(device="cpu", max_iters=1)):
            settings = {"device": "cpu", "compile": compiled}
            start = preparation._Start(config, True, False, "some.pt", {"settings": settings})
            assert preparation._device(start).compile == compiled
    old = preparation._Start(TrainConfig(device="cpu"), True, False, "some.pt", {})
    assert preparation._device(old).compile


def test_only_calls_of_the_first_shape_are_compiled(monkeypatch):
    compiled = []

    def noting(function, **_options):
        def call(x):
            compiled.append(tuple(x.shape))
            return function(x)

        return call

    monkeypatch.setattr(torch, "compile", noting)
    model = torch.nn.Linear(2, 2)
    compile_model(model, pytest.fail)
    for rows in (3, 3, 1, 3):
        assert model(torch.ones(rows, 2)).shape == (rows, 2)
    assert compiled == [(3, 2)] * 3


@pytest.mark.usefixtures("cpu_only")
@pytest.mark.parametrize("name", ["cuda", "cuda:0", "mps", "cpu:1"])
def test_a_device_that_is_not_there_is_named(name):
    with pytest.raises(UsageError, match=f"device '{name}' is not on this machine, which has"):
        find_device(name)


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "cuda:-1", "", "meta", "CPU"])
def test_an_unknown_device_is_named(name):
    with pytest.raises(UsageError, match=f"unknown device '{name}'"):
        find_device(name)


def test_auto_prefers_cuda_then_mps(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert find_device("auto").type == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert find_device("auto").type == "mps"


def test_bfloat16_is_used_when_asked_for_with_a_word_on_slow_cpus(monkeypatch):
    monkeypatch.setattr(device, "cpu_has_bfloat16", lambda: False)
    found = resolve(TrainConfig(device="cpu", precision="bfloat16"))
    assert found.dtype == torch.bfloat16
    assert "no bfloat16 units" in found.notices[0]
    with found.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    with resolve(TrainConfig(device="cpu")).autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_without_a_compiler_one_line_says_so(monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(device.shutil, "which", lambda _: None)
    found = resolve(TrainConfig(device="cpu", compile="on"))
    assert not found.compile
    assert found.notices == ("not compiling the model: no C++ compiler found",)


def test_a_compiler_that_fails_leaves_the_model_as_it_was(monkeypatch):
    def broken(*_args, **_options):
        def call(*_args, **_options):
            raise torch._dynamo.exc.TorchDynamoException("cc1plus: killed\nmore")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    model, said = torch.nn.Linear(2, 2), []
    x = torch.ones(1, 2)
    expected = model(x)
    compile_model(model, said.append)
    for _ in range(2):
        assert torch.equal(model(x), expected)
    assert len(said) == 1
    assert said[0].startswith("torch.compile failed, going on without: ")
    assert "\n" not in said[0]
    assert set(model.state_dict()) == {"weight", "bias"}


@pytest.mark.slow
def test_a_compiled_model_learns_the_same(monkeypatch):
    if device._missing_compiler(torch.device("cpu")):
        pytest.skip("no C++ compiler on this machine")
    monkeypatch.setattr(cross_entropy, "CHUNKED_FROM_LOGITS", 1)
    monkeypatch.setattr(cross_entropy, "CHUNK_LOGITS", 600)
    config = ModelConfig(vocab_size=60, d_model=32, n_layers=2, n_heads=2, max_seq_len=16, d_ff=48)
    ids = torch.randint(60, (2, 17), generator=torch.Generator().manual_seed(0))
    results = []
    for compiled in (False, True):
        model = Transformer(config, torch.Generator().manual_seed(0))
        if compiled:
            compile_model(model, pytest.fail)
        loss = model(ids[:, :-1], ids[:, 1:])
        loss.backward()
        with torch.no_grad():
            again = model(ids[:, :-1], ids[:, 1:])
        torch.testing.assert_close(loss, again)
        results.append((loss, {name: p.grad for name, p in model.named_parameters()}))
    torch.testing.assert_close(results[0], results[1])


def test_an_error_of_the_model_is_no_error_of_the_compiler(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    model = torch.nn.Linear(2, 2)
    compile_model(model, lambda _: pytest.fail("must not fall back"))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        model(torch.ones(1, 3))


def test_the_peak_of_an_unknown_device_is_unknown(monkeypatch):
    assert Device(torch.device("cpu")).peak_flops() is None
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H200")
    assert Device(torch.device("cuda")).peak_flops() == 989.4e12
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H200 MIG 1g.18gb")
    assert Device(torch.device("cuda")).peak_flops() is None
