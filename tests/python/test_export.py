"""`lmkit export`: what transformers makes of the folder is the model, number for number."""

import json
import math
import os
import re
import shutil
import stat
import warnings

import pytest
import torch
from click.testing import CliRunner
from safetensors import safe_open

from full_disk import files_up_to
from lmkit.cli import main
from lmkit.durable import sweep_dead, write_durably
from lmkit.errors import LmkitError, MismatchError, SystemRefusedError, UsageError
from lmkit.lm import export as export_module
from lmkit.lm import generate, load_model
from lmkit.lm.export import export_model
from lmkit.lm.huggingface_config import _SAID
from lmkit.model_config import ModelConfig
from lmkit.setting import own_settings
from lmkit.tokenizer import Tokenizer
from tiny_models import (
    ENDOFTEXT,
    KINDS,
    checkpoint_of,
    random_model,
    shape,
    small_tokenizer,
    some_ids,
)
from tiny_run import make_inputs, one_thread, records, train
from tokenizer_texts import TEXTS, learned


@pytest.fixture(autouse=True, scope="module")
def alone():
    """No network, and no second thread for what takes a millisecond."""
    with pytest.MonkeyPatch.context() as patch, one_thread():
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return small_tokenizer()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of twenty steps with an average, whose best is not its last."""
    folder = tmp_path_factory.mktemp("run")
    given = make_inputs(folder)
    train(given, folder / "run", max_iters=20, eval_interval=10, ema_decay=0.5)
    return folder / "run"


def theirs(folder, **options):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, **options).eval()


@torch.no_grad()
def assert_same_logits(ours, other, prompts):
    for ids in prompts:
        torch.testing.assert_close(ours(ids), other(ids).logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_transformers_computes_the_same_logits(kind, tokenizer, tmp_path):
    model = random_model(shape(kind))
    path = checkpoint_of(model, tokenizer, tmp_path / "run" / "checkpoint_7.pt")
    result = export_model(path, tmp_path / "out")
    other = theirs(tmp_path / "out")
    assert result.architecture == KINDS[kind][1] == other.config.model_type
    assert result.parameters == model.parameter_count() == other.num_parameters()
    real = [torch.tensor([tokenizer.encode(TEXTS[name])[:48]]) for name in ("english", "languages")]
    assert_same_logits(model, other, [*real, *map(some_ids, (1, 2, 17, 48))])
    spread = model(some_ids(48)).detach().std()
    assert spread > 0.5, "logits that are all alike would hide a difference"


@pytest.mark.parametrize("pattern", ["gpt2", "cl100k", "o200k"])
def test_autotokenizer_gives_the_same_ids(pattern, tmp_path):
    from transformers import AutoTokenizer

    tokenizer = learned(pattern)
    model = random_model(shape("plain", vocab_size=tokenizer.vocab_size))
    export_model(checkpoint_of(model, tokenizer, tmp_path / "checkpoint_7.pt"), tmp_path / "out")
    other = AutoTokenizer.from_pretrained(tmp_path / "out")
    for name, text in TEXTS.items():
        ids = other(text, verbose=False)["input_ids"]
        assert ids == tokenizer.encode(text), name
        assert other.decode(ids) == text, name


def test_the_end_of_text_is_known(tokenizer, tmp_path):
    from transformers import AutoTokenizer

    path = checkpoint_of(random_model(shape("plain")), tokenizer, tmp_path / "checkpoint_7.pt")
    export_model(path, tmp_path / "out")
    other = AutoTokenizer.from_pretrained(tmp_path / "out")
    end = tokenizer.special_tokens[ENDOFTEXT]
    assert (other.eos_token, other.eos_token_id) == (other.bos_token, end) == (ENDOFTEXT, end)
    assert other.decode([end, *tokenizer.encode("cat<|other|>")], skip_special_tokens=True) == "cat"
    assert other.model_max_length == 24
    model = theirs(tmp_path / "out")
    assert model.generation_config.eos_token_id == end
    assert (model.config.bos_token_id, model.config.eos_token_id) == (end, end)


def test_both_write_the_same_text(tokenizer, tmp_path):
    from transformers import AutoTokenizer

    # No spare ids, which lmkit never writes.
    model = random_model(shape("grouped", vocab_size=tokenizer.vocab_size))
    path = checkpoint_of(model, tokenizer, tmp_path / "checkpoint_7.pt")
    export_model(path, tmp_path / "out")
    ours = "".join(generate(*load_model(path), "the cat", max_new_tokens=12, temperature=0))
    prompt = AutoTokenizer.from_pretrained(tmp_path / "out")("the cat", return_tensors="pt")
    said = theirs(tmp_path / "out").generate(
        prompt["input_ids"],
        attention_mask=prompt["attention_mask"],
        max_new_tokens=12,
        do_sample=False,
    )
    new = said[0, prompt["input_ids"].shape[1] :].tolist()
    assert tokenizer.decode(new).removesuffix(ENDOFTEXT) == ours


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_numbers_of_16_bits(dtype, tokenizer, tmp_path):
    model = random_model(shape("grouped"))
    path = checkpoint_of(model, tokenizer, tmp_path / "checkpoint_7.pt")
    export_model(path, tmp_path / "out", dtype=dtype)
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
        kinds = {file.get_tensor(name).dtype for name in file.keys()}  # noqa: SIM118
        head = file.get_tensor("lm_head.weight")
    assert kinds == {getattr(torch, dtype)}
    assert torch.equal(head, model.lm_head.weight.to(head.dtype))
    assert theirs(tmp_path / "out", torch_dtype="auto").dtype == head.dtype


def test_shards_have_an_index_and_load(tokenizer, tmp_path):
    model = random_model(shape("tied"))
    path = checkpoint_of(model, tokenizer, tmp_path / "checkpoint_7.pt")
    result = export_model(path, tmp_path / "out", max_shard_size=30_000)
    shards = sorted((tmp_path / "out").glob("model-*.safetensors"))
    count = len(shards)
    assert count > 2
    assert shards[0].name == f"model-00001-of-{count:05}.safetensors"
    assert {file.name for file in (tmp_path / "out").iterdir()} == set(result.files)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 4 * model.parameter_count()
    assert set(index["weight_map"].values()) == {file.name for file in shards}
    assert "lm_head.weight" not in index["weight_map"]
    assert_same_logits(model, theirs(tmp_path / "out"), [some_ids(30)])


def test_the_best_checkpoint_is_taken_unless_another_is_named(run, tmp_path):
    def made_of(**options):
        return export_model(run, tmp_path / "out", force=True, **options).checkpoint

    assert made_of() == f"{run}/best.pt" == made_of(checkpoint="best")
    assert made_of(checkpoint="latest") == f"{run}/checkpoint_20.pt"
    assert made_of(checkpoint="checkpoint_10.pt") == f"{run}/checkpoint_10.pt"
    assert made_of(checkpoint=str(run / "checkpoint_10.pt")) == f"{run}/checkpoint_10.pt"
    with pytest.raises(UsageError, match="--checkpoint latest has no effect"):
        export_model(run / "best.pt", tmp_path / "other", checkpoint="latest")
    with pytest.raises(LmkitError, match=r"no checkpoint at .*checkpoint_3\.pt"):
        made_of(checkpoint="checkpoint_3.pt")


def test_a_damaged_best_is_passed_over_and_said(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "best.pt").write_bytes(b"torn")
    said = []
    result = export_model(tmp_path / "run", tmp_path / "out", notice=said.append)
    assert result.iteration == 20
    assert "passed over best.pt" in said[0]


def test_averaged_or_raw_weights(run, tmp_path):
    state = torch.load(run / "checkpoint_20.pt", weights_only=True)
    for weights, expected in ((None, "average"), ("average", "average"), ("raw", "raw")):
        result = export_model(
            run, tmp_path / "out", checkpoint="latest", weights=weights, force=True
        )
        assert result.weights == expected
        part = "model" if expected == "raw" else "average"
        with safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
            gate = file.get_tensor("model.layers.1.mlp.gate_proj.weight")
        assert torch.equal(gate, state[part]["layers.1.ffn.w1.weight"])
    assert not torch.equal(state["model"]["lm_head.weight"], state["average"]["lm_head.weight"])


def test_an_average_that_is_not_there_is_refused(tokenizer, tmp_path):
    path = checkpoint_of(random_model(shape("plain")), tokenizer, tmp_path / "checkpoint_7.pt")
    with pytest.raises(UsageError, match="holds no average") as caught:
        export_model(path, tmp_path / "out", weights="average")
    assert "--ema_decay" in caught.value.hint


def test_the_card_has_the_figures_of_the_run(run, tmp_path):
    export_model(run, tmp_path / "my-model", checkpoint="latest")
    card = (tmp_path / "my-model" / "README.md").read_text()
    (loss,) = [r["val_loss"] for r in records(run) if "val_loss" in r and r["iter"] == 20]
    assert card.startswith("---\nlibrary_name: transformers\n")
    assert f"| validation loss at step 20 | {loss:.4f} nats a token |" in card
    assert f"| validation perplexity | {math.exp(loss):,.2f} |" in card
    assert "| training steps | 20 |" in card
    assert f"| tokens seen | {20 * 4 * 16:,} |" in card
    assert "| bits per byte of validation text | " in card
    assert "| weights | moving average |" in card
    assert 'from_pretrained("my-model")' in card
    assert "sequences of 16 tokens" in card
    assert str(tmp_path) not in card


def test_bare_weights_say_all_but_the_tokenizer(tokenizer, tmp_path):
    model = random_model(shape("tied"))
    path = checkpoint_of(model, tokenizer, tmp_path / "checkpoint_7.pt")
    result = export_model(path, tmp_path / "m.safetensors", format="safetensors")
    assert (result.architecture, result.files) == (None, ("m.safetensors",))
    with safe_open(tmp_path / "m.safetensors", "pt") as file:
        metadata = file.metadata()
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert set(weights) == {name for name, _ in model.named_parameters()}
    assert all(torch.equal(weights[name], p) for name, p in model.named_parameters())
    assert metadata["tokenizer"] == tokenizer.fingerprint
    config = json.loads(metadata["config"])
    assert config.pop("context_length") == 24
    assert ModelConfig(**config) == model.config
    mode = stat.S_IMODE((tmp_path / "m.safetensors").stat().st_mode)
    assert mode == stat.S_IMODE(path.stat().st_mode)


def test_what_exists_is_replaced_only_by_force_and_only_an_export(tokenizer, tmp_path):
    path = checkpoint_of(random_model(shape("plain")), tokenizer, tmp_path / "checkpoint_7.pt")
    export_model(path, tmp_path / "out")
    before = (tmp_path / "out" / "model.safetensors").read_bytes()
    with pytest.raises(UsageError, match="out: already exists") as caught:
        export_model(path, tmp_path / "out")
    assert "--force" in caught.value.hint
    export_model(path, tmp_path / "out", dtype="bfloat16", force=True)
    assert (tmp_path / "out" / "model.safetensors").read_bytes() != before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    for format in ("huggingface", "safetensors"):  # noqa: A001
        with pytest.raises(UsageError, match="mine is "):
            export_model(path, tmp_path / "mine", format=format, force=True)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"
    with pytest.raises(LmkitError, match=r"no folder .*nowhere"):
        export_model(path, tmp_path / "nowhere" / "out")


def test_a_failure_leaves_what_was_there_and_nothing_else(tokenizer, tmp_path, monkeypatch):
    path = checkpoint_of(random_model(shape("plain")), tokenizer, tmp_path / "a" / "c.pt")
    export_model(path, tmp_path / "out")
    before = {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    dead = tmp_path / ".out.999999999.lmkit-tmp"
    dead.mkdir()

    def full(*_arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export_module, "write_shards", full)
    for name in ("out", "new"):
        with pytest.raises(SystemRefusedError, match=f"cannot write .*{name}: No space left"):
            export_model(path, tmp_path / name, force=True)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a", "out"]
    assert {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()} == before


@pytest.mark.parametrize(
    ("kind", "size", "named"),
    [
        ("huggingface", 1000, "out/tokenizer.json"),
        ("huggingface", 20_000, "out/model.safetensors"),
        ("safetensors", 1000, "out"),
    ],
)
def test_a_full_disk_is_told_by_the_name_that_was_wanted(
    tokenizer, tmp_path, monkeypatch, kind, size, named
):
    checkpoint_of(random_model(shape("plain")), tokenizer, tmp_path / "a" / "c.pt")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemRefusedError) as refused, files_up_to(size):
        export_model("a/c.pt", "out", format=kind)
    assert f" {named}: File too large" in f" {refused.value}"
    assert [one.name for one in tmp_path.iterdir()] == ["a"]


def test_what_a_killed_writer_of_one_file_left_is_removed(tmp_path):
    (tmp_path / ".out.999999999.tmp").write_bytes(b"torn")
    alive = tmp_path / f".out.{os.getppid()}.tmp"
    alive.write_bytes(b"someone else's")
    write_durably(tmp_path / "out", b"whole")
    assert sorted(file.name for file in tmp_path.iterdir()) == [alive.name, "out"]


def test_a_folder_that_a_kill_left_under_its_other_name_comes_back(tokenizer, tmp_path):
    path = checkpoint_of(random_model(shape("plain")), tokenizer, tmp_path / "checkpoint_7.pt")
    export_model(path, tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / ".out.999999999.old.lmkit-tmp")
    sweep_dead(tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_a_tokenizer_that_transformers_reads_otherwise_is_refused(tmp_path):
    odd = Tokenizer({b: bytes([b]) for b in range(256)}, [], pattern=r"\h+|\w+|.|\n")
    path = checkpoint_of(random_model(shape("plain")), odd, tmp_path / "checkpoint_7.pt")
    with pytest.raises(UsageError, match="transformers cannot have this model's tok") as caught:
        export_model(path, tmp_path / "out")
    assert "its pattern has \\h" in str(caught.value)
    assert str(tmp_path) not in str(caught.value)
    assert not (tmp_path / "out").exists()
    export_model(path, tmp_path / "out.safetensors", format="safetensors")


def test_a_tokenizer_of_ranks_goes_out_with_merges_that_give_the_same_ids(tmp_path):
    from transformers import AutoTokenizer

    learned("cl100k").save(tmp_path / "t.tiktoken", format="tiktoken")
    ranks = Tokenizer.load(tmp_path / "t.tiktoken", [ENDOFTEXT], "cl100k")
    assert not ranks.merges
    model = random_model(shape("plain", vocab_size=ranks.vocab_size))
    path = checkpoint_of(model, ranks, tmp_path / "checkpoint_7.pt")
    export_model(path, tmp_path / "out")
    other = AutoTokenizer.from_pretrained(tmp_path / "out")
    for name, text in TEXTS.items():
        assert other(text, verbose=False)["input_ids"] == ranks.encode(text), name


def test_numbers_that_are_none_or_do_not_fit_are_refused(tokenizer, tmp_path):
    model = random_model(shape("plain"))
    with torch.no_grad():
        model.layers[1].ffn.w2.weight[3, 4] = 1e5
    path = checkpoint_of(model, tokenizer, tmp_path / "checkpoint_7.pt")
    with pytest.raises(UsageError, match=re.escape("float16 cannot hold layers.1.ffn.w2.weight")):
        export_model(path, tmp_path / "out", dtype="float16")
    export_model(path, tmp_path / "out", dtype="bfloat16")
    with torch.no_grad():
        model.ln_final.weight[0] = math.nan
    path = checkpoint_of(model, tokenizer, tmp_path / "checkpoint_8.pt")
    with pytest.raises(MismatchError, match=r"ln_final\.weight is not all numbers"):
        export_model(path, tmp_path / "other")


def test_a_checkpoint_that_is_no_run_says_what_makes_it_one(tmp_path):
    model = random_model(shape("plain"))
    torch.save({"model": model.state_dict(), "iteration": 3}, tmp_path / "c.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(MismatchError, match="no config and no tokenizer") as caught:
            export_model(tmp_path / "c.pt", tmp_path / "out")
    assert "lmkit import" in caught.value.hint


def test_a_tokenizer_without_an_end_is_said(tmp_path):
    bare = Tokenizer({b: bytes([b]) for b in range(256)}, [])
    path = checkpoint_of(random_model(shape("plain")), bare, tmp_path / "checkpoint_7.pt")
    said = []
    export_model(path, tmp_path / "out", notice=said.append)
    assert "no token that ends a text" in said[0]
    assert theirs(tmp_path / "out").config.eos_token_id is None


def test_every_setting_of_the_model_is_thought_of():
    assert set(own_settings(ModelConfig)) == set(_SAID)


def test_the_command_tells_what_it_wrote(run, tmp_path):
    words = ["export", str(run), str(tmp_path / "out")]
    result = CliRunner().invoke(main, words, catch_exceptions=False)
    assert result.stdout == (
        f"Exported {run}/best.pt (12,656 parameters after 20 steps, averaged weights) to "
        f"{tmp_path / 'out'} as llama, float32\n"
    )
    words = ["export", str(run), str(tmp_path / "o.safetensors"), "--format", "safetensors"]
    said = CliRunner().invoke(main, [*words, "--json"], catch_exceptions=False).stdout
    assert json.loads(said)["files"] == ["o.safetensors"]
