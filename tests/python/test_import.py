"""`lmkit import`: models that transformers wrote, and our own exports, become checkpoints."""

import json
import os
import pickle
import shutil

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from lmkit.cli import main
from lmkit.config import to_dict
from lmkit.errors import LmkitError, MalformedError, MismatchError, MissingFileError, UsageError
from lmkit.lm import load_model
from lmkit.lm.export import export_model
from lmkit.lm.foreign_model import import_model
from lmkit.lm.huggingface_config import from_huggingface_config
from lmkit.lm.model import Transformer
from lmkit.lm.trainer import Trainer
from lmkit.tokenizer import Tokenizer
from tiny_models import BASE, KINDS, checkpoint_of, random_model, shape, small_tokenizer, some_ids
from tiny_run import SHAPE, make_inputs, one_thread, train

COMMON = {
    "vocab_size": BASE["vocab_size"],
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 40,
}


LLAMA3 = {
    "factor": 4.0,
    "low_freq_factor": 1.5,
    "high_freq_factor": 3.7,
    "original_max_position_embeddings": 12,
}


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
def llama(tmp_path_factory, tokenizer):
    """The folder of a Llama that transformers made, with a tokenizer, and the model."""
    folder = tmp_path_factory.mktemp("llama")
    return folder, their_model(folder, tokenizer, num_key_value_heads=2, rms_norm_eps=1e-5)


@pytest.fixture
def copy(llama, tmp_path):
    """A copy of that folder to break."""
    return shutil.copytree(llama[0], tmp_path / "copy")


def their_model(folder, tokenizer, kind="Llama", dtype=torch.float32, shard="5GB", **settings):
    import transformers

    config = getattr(transformers, f"{kind}Config")(**COMMON, **settings)
    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}ForCausalLM")(config).to(dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder, max_shard_size=shard)
    tokenizer.save(folder / "tokenizer")
    shutil.copy(folder / "tokenizer" / "tokenizer.json", folder)
    shutil.rmtree(folder / "tokenizer")
    return model


def edit(folder, **changes):
    """Change fields of config.json; "absent" removes one."""
    path = folder / "config.json"
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: v for name, v in content.items() if v != "absent"}))


@torch.no_grad()
def assert_same_logits(checkpoint, other, tokenizer):
    ours, found = load_model(checkpoint)
    assert found.fingerprint == tokenizer.fingerprint
    for length in (1, 13, 40):
        expected = other(some_ids(length)).logits
        torch.testing.assert_close(ours(some_ids(length)), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("Llama", {}),
        ("Llama", {"num_key_value_heads": 1, "tie_word_embeddings": True}),
        ("Llama", {"dtype": torch.bfloat16, "shard": "20KB"}),
        ("Llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}),
        ("Llama", {"head_dim": 16, "rms_norm_eps": 1e-4}),
        ("Llama", {"rope_parameters": {"rope_type": "llama3", "rope_theta": 300.0, **LLAMA3}}),
        ("Qwen3", {"head_dim": 16, "num_key_value_heads": 2, "tie_word_embeddings": True}),
        ("Mistral", {"sliding_window": None, "num_key_value_heads": 2}),
        ("Mistral", {"sliding_window": 40, "num_key_value_heads": 4}),
    ],
)
def test_what_transformers_wrote_computes_the_same(kind, settings, tokenizer, tmp_path):
    from transformers import AutoModelForCausalLM

    their_model(tmp_path / "theirs", tokenizer, kind, **settings)
    # As read, in float32: the cast to 16 bits and back would have rounded its angles too.
    edit(tmp_path / "theirs", dtype="absent", torch_dtype="float32")
    other = AutoModelForCausalLM.from_pretrained(tmp_path / "theirs").eval()
    if "shard" in settings:
        assert len(list((tmp_path / "theirs").glob("model-*.safetensors"))) > 2
    result = import_model(tmp_path / "theirs", tmp_path / "run")
    assert result.checkpoint == f"{tmp_path}/run/checkpoint_0.pt"
    assert (result.kind, result.iteration) == (kind.lower(), 0)
    assert result.parameters == other.num_parameters()
    assert_same_logits(result.checkpoint, other, tokenizer)


def test_the_rotary_base_is_read_in_the_old_spelling_and_the_new(copy, tmp_path):
    spellings = [
        {"rope_parameters": "absent", "rope_theta": 123.0, "rope_scaling": None},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 123.0}, "rope_theta": "absent"},
        {"rope_parameters": "absent", "rope_theta": "absent"},
    ]
    found = []
    for number, spelling in enumerate(spellings):
        edit(copy, **spelling)
        found.append(import_model(copy, tmp_path / str(number)).config.rope_theta)
    assert found == [123.0, 123.0, 10_000.0]


# What config.json of well-known models says, but for fields that lmkit need not look at.
WELL_KNOWN = {
    "Llama-3.2-1B": (
        '{"model_type":"llama","attention_bias":false,"mlp_bias":false,"head_dim":64,'
        '"hidden_act":"silu","hidden_size":2048,"intermediate_size":8192,'
        '"max_position_embeddings":131072,"num_attention_heads":32,"num_hidden_layers":16,'
        '"num_key_value_heads":8,"pretraining_tp":1,"rms_norm_eps":1e-05,"rope_scaling":{'
        '"factor":32.0,"high_freq_factor":4.0,"low_freq_factor":1.0,'
        '"original_max_position_embeddings":8192,"rope_type":"llama3"},"rope_theta":500000.0,'
        '"tie_word_embeddings":true,"vocab_size":128256}',
        {"rope_scaling": "32,1,4,8192", "n_kv_heads": 8, "tie_embeddings": True, "d_ff": 8192},
        1_235_814_400,
    ),
    "Qwen3-0.6B": (
        '{"model_type":"qwen3","attention_bias":false,"head_dim":128,"hidden_act":"silu",'
        '"hidden_size":1024,"intermediate_size":3072,"max_position_embeddings":40960,'
        '"max_window_layers":28,"num_attention_heads":16,"num_hidden_layers":28,'
        '"num_key_value_heads":8,"rms_norm_eps":1e-06,"rope_scaling":null,"rope_theta":1000000,'
        '"sliding_window":null,"tie_word_embeddings":true,"use_sliding_window":false,'
        '"vocab_size":151936}',
        {"head_dim": 128, "qk_norm": True, "norm_eps": 1e-6, "rope_theta": 1e6},
        596_049_920,
    ),
    "SmolLM2-135M": (
        '{"model_type":"llama","attention_bias":false,"hidden_act":"silu","hidden_size":576,'
        '"intermediate_size":1536,"is_llama_config":true,"max_position_embeddings":8192,'
        '"num_attention_heads":9,"num_hidden_layers":30,"num_key_value_heads":3,'
        '"pretraining_tp":1,"rms_norm_eps":1e-05,"rope_interleaved":false,"rope_scaling":null,'
        '"rope_theta":100000,"tie_word_embeddings":true,"vocab_size":49152}',
        {"n_kv_heads": 3, "head_dim": None, "norm_eps": 1e-5, "rope_scaling": None},
        134_515_008,
    ),
}


@pytest.mark.parametrize("name", WELL_KNOWN)
def test_shapes_of_well_known_models(name):
    text, expected, parameters = WELL_KNOWN[name]
    config = from_huggingface_config(json.loads(text), "config.json")
    assert {field: getattr(config, field) for field in expected} == expected
    with torch.device("meta"):
        assert Transformer(config).parameter_count() == parameters


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_out_and_in_and_out_changes_no_bit(kind, dtype, tokenizer, tmp_path):
    path = checkpoint_of(random_model(shape(kind)), tokenizer, tmp_path / "a" / "checkpoint_7.pt")
    export_model(path, tmp_path / "out", dtype=dtype, max_shard_size=40_000)
    result = import_model(tmp_path / "out", tmp_path / "run")
    assert result.config == shape(kind)
    assert result.context_length == 24
    assert result.tokenizer == tokenizer.fingerprint
    export_model(tmp_path / "run", tmp_path / "again", dtype=dtype, max_shard_size=40_000)
    files = sorted(file.name for file in (tmp_path / "out").iterdir())
    assert files == sorted(file.name for file in (tmp_path / "again").iterdir())
    for name in files:
        one, other = ((tmp_path / folder / name).read_bytes() for folder in ("out", "again"))
        assert one == other or name == "README.md", name


def test_bare_weights_come_back_with_their_tokenizer(tokenizer, tmp_path):
    model = random_model(shape("grouped_and_tied"))
    path = checkpoint_of(model, tokenizer, tmp_path / "a" / "checkpoint_7.pt")
    export_model(path, tmp_path / "m.safetensors", format="safetensors")
    tokenizer.save(tmp_path / "tokenizer")
    result = import_model(
        tmp_path / "m.safetensors", tmp_path / "run", tokenizer=tmp_path / "tokenizer"
    )
    assert (result.kind, result.context_length, result.config) == ("safetensors", 24, model.config)
    ours, _ = load_model(result.checkpoint)
    assert all(
        torch.equal(*pair) for pair in zip(ours.parameters(), model.parameters(), strict=True)
    )
    with pytest.raises(UsageError, match="names its tokenizer and does not hold it"):
        import_model(tmp_path / "m.safetensors", tmp_path / "other")
    Tokenizer.train(texts=["abc abc"], vocab_size=258).save(tmp_path / "alien")
    with pytest.raises(MismatchError, match=r"not the one that .*m\.safetensors was exported with"):
        import_model(tmp_path / "m.safetensors", tmp_path / "x", tokenizer=tmp_path / "alien")
    metadata = {"config": json.dumps(to_dict(model.config)), "tokenizer": "of no length"}
    for told in (None, metadata):
        save_file({"a": torch.zeros(2)}, tmp_path / "alien.safetensors", told)
        with pytest.raises(MalformedError, match="not written by lmkit export"):
            import_model(
                tmp_path / "alien.safetensors", tmp_path / "x", tokenizer=tmp_path / "alien"
            )
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_type": "gpt2"}, "model_type is 'gpt2'"),
        ({"model_type": ["llama"]}, "model_type is ['llama']"),
        ({"head_dim": {"all": 16}}, "head_dim is {'all': 16}, which is no whole number"),
        ({"sliding_window": "4096"}, "sliding_window is '4096', which is no whole number"),
        ({"hidden_size": 10**400}, "hidden_size must be at most 9223372036854775807"),
        ({"rms_norm_eps": 10**400}, "rms_norm_eps must be at most"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"attention_bias": True}, "attention_bias is true"),
        ({"mlp_bias": True}, "mlp_bias is true"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        (
            {"rope_scaling": {"type": "linear", "factor": 2.0}},
            "rope_scaling has rope_type 'linear'",
        ),
        ({"rope_scaling": {"rope_type": "llama3"}}, "rope_scaling has no number factor"),
        (
            {"rope_scaling": {"rope_type": "llama3", **LLAMA3, "factor": 0.5}},
            "rope_scaling must be four numbers",
        ),
        (
            {"rope_parameters": {"full_attention": {"rope_theta": 1e4}}},
            "rope_parameters is not one",
        ),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
        ({"sliding_window": 16}, "sliding_window is 16"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
        ({"hidden_size": "absent"}, "has no hidden_size"),
        ({"hidden_size": -4}, "hidden_size must be at least 2"),
        (
            {"num_attention_heads": 6, "head_dim": None},
            "hidden_size 32 is not divisible by num_att",
        ),
    ],
)
def test_what_our_model_cannot_do_is_refused_by_its_field(copy, tmp_path, changes, said):
    edit(copy, **changes)
    with pytest.raises(MalformedError, match=r"config\.json") as caught:
        import_model(copy, tmp_path / "run")
    assert said in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_window_that_no_sequence_is_longer_than_hides_nothing(copy, tmp_path):
    edit(copy, sliding_window=16)
    result = import_model(copy, tmp_path / "run", max_seq_len=16)
    assert (result.config.max_seq_len, result.context_length) == (16, 16)


def test_pickles_are_never_opened(copy, tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "exploded"),)

    (copy / "model.safetensors").unlink()
    (copy / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(MissingFileError, match=r"pytorch_model\.bin, a pickle") as caught:
        import_model(copy, tmp_path / "run")
    assert "save_pretrained" in caught.value.hint
    torch.save({"model": Bomb(), "iteration": 1}, tmp_path / "c.pt")
    with pytest.raises(MismatchError, match="more than plain data"):
        import_model(tmp_path / "c.pt", tmp_path / "run", tokenizer=copy, n_heads=2)
    assert not (tmp_path / "exploded").exists()


def test_weights_that_do_not_fit_are_named(copy, tmp_path):
    def refused(match, change):
        weights = load_file(copy / "model.safetensors")
        kept = {name: weight.clone() for name, weight in weights.items()}
        change(weights)
        save_file(weights, copy / "model.safetensors")
        with pytest.raises(LmkitError, match=match) as caught:
            import_model(copy, tmp_path / "run")
        save_file(kept, copy / "model.safetensors")
        assert not (tmp_path / "run").exists()
        return caught.value.exit_code

    key, bias = "model.layers.1.self_attn.k_proj.weight", "model.layers.0.self_attn.q_proj.bias"
    assert refused(f"has no {key}", lambda w: w.pop(key)) == 5
    assert refused(f"no place for {bias}", lambda w: w.update({bias: torch.zeros(32)})) == 3
    assert refused(r"k_proj.weight is \(4, 32\)", lambda w: w.update({key: w[key][:4]})) == 5
    assert refused("holds int8", lambda w: w.update({key: w[key].to(torch.int8)})) == 3
    edit(copy, tie_word_embeddings=True)
    assert refused("lm_head.weight is not model.embed_tokens", lambda _: None) == 5


def test_tables_of_angles_that_old_models_hold_are_passed_over(copy, tmp_path):
    weights = load_file(copy / "model.safetensors")
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    save_file(weights, copy / "model.safetensors")
    import_model(copy, tmp_path / "run")


def test_damaged_files_are_refused(copy, tmp_path):
    path = copy / "model.safetensors"
    whole = path.read_bytes()
    for damaged in (b"", whole[:-7], whole[:40], b"\xff" * 100):
        path.write_bytes(damaged)
        with pytest.raises(MalformedError, match="not a whole safetensors file"):
            import_model(copy, tmp_path / "run")
    path.unlink()
    index = copy / "model.safetensors.index.json"
    for content, said in (
        ({"weight_map": {"a": "../model.safetensors"}}, "outside its folder"),
        ({"weight_map": {"a": "model-1.safetensors"}}, "there is no .*model-1.safetensors"),
        ([], "no index"),
    ):
        index.write_text(json.dumps(content))
        with pytest.raises(LmkitError, match=said):
            import_model(copy, tmp_path / "run")
    (copy / "config.json").write_text("{")
    with pytest.raises(MalformedError, match=r"config\.json is not JSON"):
        import_model(copy, tmp_path / "run")


def test_a_tokenizer_that_is_none_of_ours_is_refused(copy, tmp_path):
    from tokenizers import Tokenizer as HuggingFace
    from tokenizers.models import Unigram

    HuggingFace(Unigram([("a", 0.0), ("b", -1.0)], 0)).save(str(copy / "tokenizer.json"))
    with pytest.raises(MalformedError, match=r"tokenizer\.json"):
        import_model(copy, tmp_path / "run")
    (copy / "tokenizer.json").unlink()
    with pytest.raises(MissingFileError, match=r"has no tokenizer\.json") as caught:
        import_model(copy, tmp_path / "run")
    assert "--tokenizer" in caught.value.hint
    Tokenizer.train(texts=["ab cd ef gh ij" * 9], vocab_size=258).save(tmp_path / "t")
    import_model(copy, tmp_path / "run", tokenizer=tmp_path / "t")


def test_what_is_not_kept_of_a_tokenizer_is_said(copy, tmp_path):
    path = copy / "tokenizer.json"
    content = json.loads(path.read_text())
    begin = {"id": "<|other|>", "ids": [287], "tokens": ["<|other|>"]}
    content["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": "<|other|>", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
        ],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<|other|>": begin},
    }
    path.write_text(json.dumps(content))
    said = []
    import_model(copy, tmp_path / "run", notice=said.append)
    assert any("post" in sentence for sentence in said), said


def test_a_tokenizer_larger_than_the_model_is_refused(llama, tmp_path):
    tokens = {b: bytes([b]) for b in range(256)} | {310: b"ab"}
    Tokenizer(tokens, [(b"a", b"b")]).save(tmp_path / "t")
    with pytest.raises(MismatchError, match=r"the tokenizer has 311 ids, .* only 310"):
        import_model(llama[0], tmp_path / "run", tokenizer=tmp_path / "t")


def test_a_run_that_is_there_is_set_aside_only_by_force(llama, tmp_path):
    import_model(llama[0], tmp_path / "run")
    with pytest.raises(UsageError, match="already holds 1 checkpoint") as caught:
        import_model(llama[0], tmp_path / "run")
    assert "--force" in caught.value.hint
    import_model(llama[0], tmp_path / "run", force=True)
    assert (tmp_path / "run" / "superseded" / "checkpoint_0.pt").exists()


def test_a_folder_of_theirs_is_no_checkpoint_until_it_is_imported(llama):
    with pytest.raises(MissingFileError, match="there is no checkpoint in") as caught:
        load_model(llama[0])
    assert caught.value.hint.startswith(f"lmkit import {llama[0]} DIR")


def test_what_is_ours_already_is_said(llama, tmp_path):
    made = import_model(llama[0], tmp_path / "run").checkpoint
    for source in (tmp_path / "run", made):
        with pytest.raises(UsageError, match="of lmkit already") as caught:
            import_model(source, tmp_path / "other", tokenizer=llama[0])
        assert "lmkit train --load_checkpoint" in caught.value.hint
    with pytest.raises(UsageError, match="--n_heads has no effect"):
        import_model(llama[0], tmp_path / "other", n_heads=4)
    for number in ("max_seq_len", "context_length"):
        with pytest.raises(UsageError, match=f"--{number} 99 is above the model's 40"):
            import_model(llama[0], tmp_path / "other", **{number: 99})
    with pytest.raises(MissingFileError, match="no model at"):
        import_model(tmp_path / "nowhere", tmp_path / "other")


def test_a_run_goes_on_from_it_with_the_commands(tmp_path):
    """Train, export, import, go on, evaluate, generate: each from what the one before left."""
    given = make_inputs(tmp_path)
    train(given, tmp_path / "run", max_iters=30, learning_rate=3e-3, tie_embeddings=True)
    export_model(tmp_path / "run", tmp_path / "hf")

    def lmkit(*words):
        result = CliRunner().invoke(main, list(map(str, words)), catch_exceptions=False)
        assert result.exit_code == 0
        return result.stdout

    said = lmkit("import", tmp_path / "hf", "--checkpoint_dir", tmp_path / "new")
    checkpoint = f"{tmp_path}/new/checkpoint_0.pt"
    assert said.splitlines()[1] == (
        f"To go on: lmkit train --load_checkpoint {checkpoint} --train_data FILE"
    )

    def loss_of(path):
        words = ("evaluate", "--checkpoint", path, "--data", given["val_data"], "--json")
        return json.loads(lmkit(*words))["loss"]

    before = loss_of(checkpoint)
    assert before == pytest.approx(loss_of(tmp_path / "run" / "best.pt"), abs=1e-5)
    lmkit(
        "train",
        *("--load_checkpoint", checkpoint, "--train_data", given["train_data"]),
        *("--max_iters", 40, "--batch_size", 4, "--learning_rate", 3e-3, "--device", "cpu"),
    )
    assert loss_of(tmp_path / "new") < before - 0.05
    words = ("generate", "--checkpoint", tmp_path / "new", "--prompt", "3 times", "--seed", 1)
    assert lmkit(*words, "--max_new_tokens", 9).startswith("3 times")
    state = torch.load(tmp_path / "new" / "checkpoint_40.pt", weights_only=True)
    assert {name: state["config"][name] for name in SHAPE} == SHAPE


def test_the_optimizer_begins_anew_and_may_be_another(llama, tmp_path):
    ids = np.random.default_rng(0).integers(0, 280, 3000).astype("<i4")
    np.save(tmp_path / "d.npy", ids)
    made = import_model(llama[0], tmp_path / "run").checkpoint
    state = torch.load(made, weights_only=True)
    assert "optimizer" not in state
    given = {"load_checkpoint": made, "train_data": str(tmp_path / "d.npy"), "max_iters": 2}
    history = Trainer({**given, "optimizer": "muon", "batch_size": 2, "device": "cpu"}).train()
    assert [record["iter"] for record in history if "loss" in record] == [1, 2]


def test_the_command_needs_one_folder(llama, tmp_path):
    for words, said in (
        (["import", str(llama[0])], "no folder given"),
        (["import", str(llama[0]), "a", "--checkpoint_dir", "b"], "are the same"),
    ):
        with pytest.raises(UsageError, match=said):
            CliRunner().invoke(main, words, catch_exceptions=False)
    words = ["import", str(llama[0]), str(tmp_path / "run"), "--json"]
    said = CliRunner().invoke(main, words, catch_exceptions=False).stdout
    assert json.loads(said)["config"]["n_kv_heads"] == 2
