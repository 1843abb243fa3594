"""Document masking: what a document's logits are does not depend on the documents beside it."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from byte_tokenizer import ByteTokenizer
from lmkit.errors import UsageError
from lmkit.lm import load_model
from lmkit.lm.checkpoint import read_checkpoint
from lmkit.lm.device import compile_model
from lmkit.lm.document_mask import document_mask, end_of_document_id, last_document
from lmkit.lm.evaluate import evaluate
from lmkit.lm.generate import generate
from lmkit.lm.model import Transformer
from lmkit.model_config import ModelConfig
from tiny_run import assert_same_losses, flags, losses, make_documents, run_command, settings, train

pytestmark = pytest.mark.usefixtures("on_one_thread")

END = 60
SHAPE = ModelConfig(
    vocab_size=61, d_model=32, n_layers=3, n_heads=4, max_seq_len=64, d_ff=48, n_kv_heads=2
)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return make_documents(tmp_path_factory.mktemp("inputs"))


def masked_model(**others: object) -> Transformer:
    shape = dataclasses.replace(SHAPE, **others)
    model = Transformer(shape, torch.Generator().manual_seed(0))
    model.document_end = END
    return model


def some_documents(*lengths: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    documents = [torch.randint(END, (length,), generator=generator) for length in lengths]
    for document in documents:
        document[-1] = END
    return documents


def test_the_mask_is_causal_inside_each_document():
    ids = torch.tensor([[1, END, 2, 3], [4, 5, 6, END], [END, END, 7, 8]])
    expected = [
        [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]],
        [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]],
        [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]],
    ]
    mask = document_mask(ids, END)
    assert mask.shape == (3, 1, 4, 4)
    assert mask[:, 0].int().tolist() == expected


@pytest.mark.parametrize("lengths", [(5, 17, 1, 9, 32), (64,), (1,) * 64, (63, 1)])
@pytest.mark.parametrize("others", [{}, {"qk_norm": True, "n_kv_heads": None}])
def test_packed_documents_have_the_logits_of_each_alone(lengths, others):
    model, documents = masked_model(**others), some_documents(*lengths)
    packed = model(torch.cat(documents)[None])[0]
    for got, document in zip(torch.split(packed, lengths), documents, strict=True):
        torch.testing.assert_close(got, model(document[None])[0], atol=1e-5, rtol=1e-5)
    if len(set(lengths)) > 2:
        model.document_end = None
        assert not torch.allclose(model(torch.cat(documents)[None])[0], packed, atol=1e-3)


def test_gradients_are_those_of_the_documents_alone():
    model, documents = masked_model(), some_documents(20, 30, 14)
    weights = torch.randn(64, 61, generator=torch.Generator().manual_seed(2))
    (model(torch.cat(documents)[None])[0] * weights).sum().backward()
    packed = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    for document, part in zip(documents, torch.split(weights, [20, 30, 14]), strict=True):
        (model(document[None])[0] * part).sum().backward()
    for parameter, gradient in zip(model.parameters(), packed, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-4, rtol=1e-4)


def test_without_the_option_nothing_is_masked():
    model, ids = masked_model(), torch.cat(some_documents(12, 12))[None]
    masked = model(ids)
    model.document_end = None
    torch.testing.assert_close(masked[:, :12], model(ids)[:, :12])
    assert not torch.allclose(masked[:, 12:], model(ids)[:, 12:], atol=1e-3)


def test_the_last_document_is_all_that_generating_sees():
    assert last_document([1, 2, END, 3, 4], END) == [3, 4]
    assert last_document([1, END, 3, END], END) == [3, END]
    assert last_document([1, 2], END) == [1, 2]
    assert last_document([END, END], END) == [END]
    shape = ModelConfig(vocab_size=300, d_model=16, n_layers=2, n_heads=2, d_ff=24, max_seq_len=40)
    model = Transformer(shape, torch.Generator().manual_seed(0))
    model.document_end = 257

    def text(prompt: str) -> str:
        return "".join(generate(model, ByteTokenizer(), prompt, max_new_tokens=8, seed=1))

    assert text("something else<|endoftext|>once") == text("once")


def test_a_tokenizer_without_an_end_is_refused(inputs: dict[str, str], tmp_path: Path):
    assert end_of_document_id(ByteTokenizer(), "--mask_documents") == 257
    with pytest.raises(UsageError, match="--mask_documents needs a token that ends documents"):
        end_of_document_id(ByteTokenizer(with_end=False), "--mask_documents")
    vocabulary = Path(inputs["vocab_path"]).read_text().replace("<|endoftext|>", "the end")
    (tmp_path / "t.vocab").write_text(vocabulary)
    given = inputs | {"vocab_path": str(tmp_path / "t.vocab")}
    with pytest.raises(UsageError, match=r"the tokenizer has no <\|endoftext\|>"):
        train(given, tmp_path / "run", max_iters=1, mask_documents=True)
    assert not list((tmp_path / "run").glob("*.pt"))


def test_a_run_masks_in_training_evaluation_and_afterwards(inputs: dict[str, str], tmp_path: Path):
    plain, masked, split = (tmp_path / name for name in ("plain", "masked", "split"))
    train(inputs, plain, max_iters=5)
    train(inputs, masked, max_iters=5, mask_documents=True)
    train(inputs, split, max_iters=5, mask_documents=True, batch_size=2, grad_accum_steps=2)
    assert losses(plain)[5] != losses(masked)[5]
    assert_same_losses(split, masked)
    model, tokenizer = load_model(masked)
    assert model.document_end == 256
    assert load_model(plain)[0].document_end is None
    tokens = np.load(inputs["val_data"])
    windows = {"batch_size": 4, "context_length": 16, "num_batches": 2}
    found = evaluate(model, tokenizer, tokens, **windows).loss
    assert found == pytest.approx(read_checkpoint(masked / "checkpoint_5.pt")["best_val_loss"])
    model.document_end = None
    assert evaluate(model, tokenizer, tokens, **windows).loss != pytest.approx(found, rel=1e-4)


@pytest.mark.slow
def test_two_processes_mask_as_one_does(inputs: dict[str, str], tmp_path: Path):
    given = {"max_iters": 5, "batch_size": 4}
    two = [*flags(settings(inputs, tmp_path / "two", **given)), "--mask_documents", "--nproc", "2"]
    done = run_command(*two)
    assert done.returncode == 0, done.stderr
    train(inputs, tmp_path / "one", **given, mask_documents=True)
    assert_same_losses(tmp_path / "two", tmp_path / "one")


@pytest.mark.slow
def test_a_compiled_model_masks_alike():
    model, ids = masked_model(), torch.cat(some_documents(12, 30, 22)).view(1, 64)
    expected = model(ids, ids)
    gradients = torch.autograd.grad(expected, list(model.parameters()))
    complaints: list[str] = []
    compile_model(model, complaints.append)
    got = model(ids, ids)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    for one, other in zip(
        torch.autograd.grad(got, list(model.parameters())), gradients, strict=True
    ):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    assert not complaints
