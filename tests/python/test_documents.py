"""Windows that hold one document each: which they are, that nothing is lost, and what counts."""

from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch.nn import functional

import lmkit
from byte_tokenizer import ByteTokenizer
from lmkit.cli import main
from lmkit.config import TrainConfig
from lmkit.errors import MalformedError, MismatchError, MissingFileError, UsageError
from lmkit.lm import documents as lm_documents
from lmkit.lm.batches import Mixture, TokenBatches, evaluation_windows, read_windows
from lmkit.lm.cross_entropy import IGNORED, chunked_cross_entropy, head_cross_entropy
from lmkit.lm.documents import Documents, DocumentTokens, documents_of_file, joined
from lmkit.lm.evaluate import evaluate, evaluate_loss
from lmkit.lm.model import Transformer
from lmkit.model_config import ModelConfig
from lmkit.shards.tokens import ShardedTokens
from shard_maker import checksum_of, edit_manifest, make_shards, random_documents
from tiny_run import assert_same_checkpoints, assert_same_losses, losses, make_inputs, resume, train

pytestmark = pytest.mark.usefixtures("on_one_thread")

END = 999
ENDS = random_documents(6000, longest=60)
IDS = np.random.default_rng(0).integers(0, END, 6000).astype(np.int32)
IDS[ENDS - 1] = END
STARTS = np.append(0, ENDS[:-1])
DOCS = "shard_00001_of_00006.docs.npy"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_shards(tmp_path / "set", IDS, ENDS, 6, empty=(2,))


def of_shards(folder: Path) -> DocumentTokens:
    tokens = ShardedTokens(str(folder))
    return DocumentTokens(tokens, Documents(tokens.shard_ends, tokens.document_ends))


class Reader:
    def __init__(self, ids: np.ndarray) -> None:
        self.ids = ids

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, start: int, stop: int) -> np.ndarray:
        return self.ids[start:stop]


def of_file(ids: np.ndarray = IDS) -> DocumentTokens:
    return DocumentTokens(Reader(ids), documents_of_file(Reader(ids), END))


@pytest.mark.parametrize("block", [3, 8, 1024])
def test_every_token_knows_its_document(folder: Path, monkeypatch: pytest.MonkeyPatch, block: int):
    monkeypatch.setattr(lm_documents, "BLOCK", block)
    for tokens in (of_file(), of_shards(folder)):
        for position in [*range(0, 6000, 7), *STARTS.tolist(), 5999]:
            number = int(np.searchsorted(ENDS, position, side="right"))
            expected = (int(STARTS[number]), int(ENDS[number]))
            assert tokens.documents.around(position) == expected


def test_documents_of_very_different_lengths_are_found_too(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lm_documents, "BLOCK", 4)
    lengths = np.array([1] * 500 + [5000] + [1] * 500 + [3, 2, 4000])
    ends = np.cumsum(lengths)
    documents = Documents(ends[-1:], lambda _: lm_documents._InMemory(ends))
    for number in (0, 1, 499, 500, 501, 999, 1000, 1001, 1002, 1003):
        begin = int(ends[number] - lengths[number])
        for position in (begin, int(ends[number]) - 1):
            assert documents.around(position) == (begin, int(ends[number]))


def test_a_file_that_ends_in_the_middle_of_a_document():
    for ids, expected in (([1, END, 2, 3], [2, 4]), ([1, 2], [2]), ([END, END], [1, 2])):
        documents = documents_of_file(Reader(np.array(ids)), END)
        assert documents.open_ends(0).read(0, len(expected)).tolist() == expected


@pytest.mark.parametrize("sampling", ["random", "epoch"])
def test_windows_hold_one_document_each(folder: Path, sampling: str):
    options = {"batch_size": 16, "context_length": 20, "seed": 3, "sampling": sampling}
    one, many = TokenBatches(of_file(), **options), TokenBatches(of_shards(folder), **options)
    for step in range(1, 30):
        spans = one.spans(step)
        assert (spans.targets >= 1).all()
        inputs, targets = one.batch(step)
        for row, (start, stop) in enumerate(zip(spans.starts, spans.stops, strict=True)):
            number = np.searchsorted(ENDS, start, side="right")
            assert STARTS[number] <= start < stop <= min(ENDS[number], start + 21)
            is_whole = stop == start + 21
            assert is_whole or stop == ENDS[number]
            n = stop - start - 1
            assert inputs[row, :n].tolist() == IDS[start : stop - 1].tolist()
            assert targets[row, :n].tolist() == IDS[start + 1 : stop].tolist()
            assert (targets[row, n:] == IGNORED).all()
        assert (inputs >= 0).all()
        for a, b in zip((inputs, targets), many.batch(step), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("block", [3, 1024])
def test_an_epoch_predicts_every_token_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch, block: int
):
    monkeypatch.setattr(lm_documents, "BLOCK", block)
    tokens = of_shards(folder)
    windows = len(tokens.documents.windows(20))
    lengths = ENDS - STARTS
    assert windows == (-(-(lengths - 1) // 20)).sum()
    batches = TokenBatches(tokens, batch_size=1, context_length=20, sampling="epoch")
    for epoch in range(2):
        counts = np.zeros(6000, int)
        for step in range(epoch * windows + 1, (epoch + 1) * windows + 1):
            spans = batches.spans(step)
            counts[spans.starts[0] + 1 : spans.stops[0]] += 1
        assert (counts[STARTS] == 0).all()
        assert np.delete(counts, STARTS).tolist() == [1] * (6000 - len(STARTS))


def test_places_in_a_long_document_are_equally_likely():
    lengths = np.array([50, 30, 5])
    ends = np.cumsum(lengths)
    ids = np.zeros(85, np.int32)
    ids[ends - 1] = END
    batches = TokenBatches(of_file(ids), batch_size=34_000, context_length=20)
    spans = batches.spans(1)
    in_first = spans.starts[spans.starts < 50]
    assert np.unique(in_first).tolist() == list(range(30))  # 30 places for 21 tokens of 50
    assert np.bincount(in_first).min() > 0.5 * len(in_first) / 30
    last = spans.starts >= 80
    assert last.mean() == pytest.approx(5 / 85, abs=0.01)  # by its share of the tokens
    assert set(spans.targets[last].tolist()) == {4}


def test_documents_of_one_token_are_passed_over(monkeypatch: pytest.MonkeyPatch):
    ids = np.array([END, END, 1, 2, END, END], np.int32)
    spans = TokenBatches(of_file(ids), batch_size=40, context_length=4).spans(1)
    assert set(zip(spans.starts.tolist(), spans.stops.tolist(), strict=True)) == {(2, 5)}
    monkeypatch.setattr(lm_documents, "MOST_IN_A_ROW", 9)
    nothing = of_file(np.array([END] * 12, np.int32))
    with pytest.raises(UsageError, match="9 documents of one token follow each other"):
        TokenBatches(nothing, batch_size=4, context_length=4).spans(1)
    with pytest.raises(UsageError, match="no document of two tokens or more"):
        TokenBatches(nothing, batch_size=4, context_length=4, sampling="epoch")


def test_documents_of_a_mixture(folder: Path):
    parts = [of_shards(folder), of_file(IDS[: ENDS[40]])]
    mixture = Mixture([part.tokens for part in parts], [1, 3])
    tokens = DocumentTokens(mixture, joined([part.documents for part in parts]))
    batches = TokenBatches(tokens, batch_size=400, context_length=20, seed=1)
    spans = batches.spans(1)
    in_second = spans.starts >= 6000
    assert in_second.mean() == pytest.approx(0.75, abs=0.1)
    all_ends = np.append(ENDS, 6000 + ENDS[:41])
    numbers = np.searchsorted(all_ends, spans.starts, side="right")
    assert (spans.stops <= all_ends[numbers]).all()
    assert read_windows(tokens, spans[:1], 20).shape == (1, 21)


def test_splitting_a_step_changes_no_ones_weight():
    """The divided losses and averaged gradients of all shares are the mean over the step."""
    whole = TokenBatches(of_file(), batch_size=8, context_length=20, seed=1)
    values = whole.batch(3)[1].double()
    expected = values[values != IGNORED].mean().item()
    for parts, ranks in ((1, 2), (2, 1), (4, 2)):
        sums = []
        for rank in range(ranks):
            split = TokenBatches(
                of_file(), batch_size=8 // parts, context_length=20, seed=1,
                grad_accum_steps=parts, rank=rank, ranks=ranks,
            )  # fmt: skip
            pairs = zip(split.micro_batches(3), split.divisors(3), strict=True)
            means = [t.double()[t != IGNORED].mean().item() / divisor for (_, t), divisor in pairs]
            sums.append(sum(means))
        assert sum(sums) / ranks == pytest.approx(expected, rel=1e-12)
    assert whole.targets(3) == int((values != IGNORED).sum())
    plain = TokenBatches(IDS, batch_size=8, context_length=20, grad_accum_steps=3)
    assert plain.divisors(1) == [3, 3, 3]


@pytest.mark.parametrize("z_loss", [0.0, 0.1])
def test_ignored_targets_count_nowhere(z_loss: float):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(30, 8, generator=generator, dtype=torch.float64).float()
    weight = torch.randn(50, 8, generator=generator)
    targets = torch.randint(50, (30,), generator=generator)
    targets[torch.tensor([0, 3, 4, 29])] = IGNORED
    counted = targets != IGNORED
    results = []
    for way in (head_cross_entropy, chunked_cross_entropy):
        for rows, kept in ((hidden, targets), (hidden[counted], targets[counted])):
            inputs = [rows.clone().requires_grad_(), weight.clone().requires_grad_()]
            loss = way(*inputs, kept, z_loss=z_loss)
            of_rows, of_weight = torch.autograd.grad(loss, inputs)
            assert len(of_rows) == 26 or not of_rows[~counted].any()
            results.append((loss, of_rows[counted] if len(of_rows) == 30 else of_rows, of_weight))
    with torch.no_grad():
        torch.testing.assert_close(chunked_cross_entropy(hidden, weight, targets), results[0][0])
    for result in results[1:]:
        for one, other in zip(result, results[0], strict=True):
            torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)
    nothing = torch.full((30,), IGNORED)
    assert chunked_cross_entropy(hidden, weight, nothing).item() == 0


def test_evaluation_takes_each_document_by_itself(folder: Path):
    shape = ModelConfig(vocab_size=1000, d_model=16, n_layers=2, n_heads=2, d_ff=24, max_seq_len=20)
    model = Transformer(shape, torch.Generator().manual_seed(0))
    nats, predicted = 0.0, 0
    for start, stop in zip(STARTS.tolist(), ENDS.tolist(), strict=True):
        for first in range(start, stop - 1, 20):
            ids = torch.from_numpy(IDS[first : min(first + 21, stop)].astype(np.int64))
            logits = model(ids[None, :-1])[0]
            nats += functional.cross_entropy(logits, ids[1:], reduction="sum").item()
            predicted += len(ids) - 1
    for tokens in (of_file(), of_shards(folder)):
        result = evaluate(model, ByteTokenizer(), tokens, batch_size=7)
        assert result.tokens == predicted == 6000 - len(STARTS)
        assert result.loss == pytest.approx(nats / predicted, rel=1e-5)
    options = {"batch_size": 3, "context_length": 20}
    loss = evaluate_loss(model, of_file(), **options)
    assert loss == pytest.approx(nats / predicted, rel=1e-5)
    few = evaluation_windows(of_file(), 20, 10)
    assert len(few) == 10
    assert len(np.unique(few.starts)) == 10
    some = evaluate_loss(model, of_file(), **options, num_batches=4)
    assert some != loss
    bad = IDS.copy()
    bad[77] = -100
    with pytest.raises(MalformedError, match="token 77 is -100"):
        evaluate(model, ByteTokenizer(), of_file(bad))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Token files of documents of 1 to 30 tokens, each with its end."""
    made = make_inputs(tmp_path_factory.mktemp("inputs"))
    for name in ("train_data", "val_data"):
        ids = np.load(made[name])
        ids[random_documents(len(ids), longest=30) - 1] = 256
        np.save(made[name], ids)
    return made


@pytest.fixture(scope="module")
def sharded(inputs: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    base = tmp_path_factory.mktemp("sharded")
    tokenizer = lmkit.Tokenizer.from_files(inputs["vocab_path"], inputs["merges_path"])
    for name in ("train_data", "val_data"):
        ids = np.load(inputs[name])
        ends = random_documents(len(ids), longest=30)
        make_shards(base / name, ids, ends, 4, tokenizer=tokenizer.fingerprint)
    return inputs | {name: str(base / name) for name in ("train_data", "val_data")}


@pytest.mark.parametrize("sampling", ["random", "epoch"])
def test_a_run_that_respects_documents(inputs, sharded, tmp_path, sampling):
    given = {"max_iters": 6, "respect_documents": True, "sampling": sampling}
    one, many, split = (tmp_path / name for name in ("one", "many", "split"))
    history = train(inputs, one, **given)
    train(sharded, many, **given)
    assert_same_checkpoints(one / "checkpoint_6.pt", many / "checkpoint_6.pt")
    train(sharded, split, **given, batch_size=2, grad_accum_steps=2)
    assert_same_losses(split, one)
    resume(many, max_iters=8)
    assert losses(many).keys() == set(range(1, 9))
    if sampling == "epoch":
        return
    words = ["evaluate", "--checkpoint", str(one), "--respect_documents", "--json", "--data"]
    found = [CliRunner().invoke(main, [*words, data["val_data"]]) for data in (inputs, sharded)]
    assert found[0].exit_code == 0, found[0].output
    assert found[0].output == found[1].output
    assert any("val_loss" in record for record in history)


def test_what_cannot_be_is_refused(inputs, tmp_path):
    with pytest.raises(UsageError, match="--mask_documents has no effect with --respect_documents"):
        TrainConfig(respect_documents=True, mask_documents=True)
    vocabulary = Path(inputs["vocab_path"]).read_text().replace("<|endoftext|>", "the end")
    (tmp_path / "t.vocab").write_text(vocabulary)
    given = inputs | {"vocab_path": str(tmp_path / "t.vocab")}
    with pytest.raises(UsageError, match="--respect_documents needs a token that ends documents"):
        train(given, tmp_path / "run", max_iters=1, respect_documents=True)


def missing(place: Path, _: Path) -> None:
    place.unlink()


def falling(place: Path, folder: Path) -> None:
    ends = np.load(place)
    ends[2] = ends[1] - 1
    np.save(place, ends)
    edit_manifest(folder, shards={1: {"documents_checksum": checksum_of(ends)}})


def too_far(place: Path, folder: Path) -> None:
    ends = np.load(place)
    ends[-1] += 1
    np.save(place, ends)
    edit_manifest(folder, shards={1: {"documents_checksum": checksum_of(ends)}})


def changed(place: Path, _: Path) -> None:
    ends = np.load(place)
    ends[1] += 1
    np.save(place, ends)


def torn(place: Path, _: Path) -> None:
    place.write_bytes(place.read_bytes()[:-8])


@pytest.mark.parametrize(
    ("damage", "error", "sentence"),
    [
        (missing, MissingFileError, "no such file"),
        (falling, MalformedError, "its document ends fall"),
        (too_far, MalformedError, "its documents end at token"),
        (changed, MismatchError, "its checksum is not the one in manifest.json"),
        (torn, MalformedError, "torn"),
    ],
)
def test_what_is_wrong_with_document_ends_is_named(folder: Path, damage, error, sentence: str):
    damage(folder / DOCS, folder)
    tokens = of_shards(folder)
    assert len(tokens.read(0, 6000)) == 6000  # the ids need them not
    with pytest.raises(error, match=sentence) as raised:
        tokens.documents.windows(20)
    assert DOCS in str(raised.value)


def test_shards_as_tokenize_makes_them(tmp_path: Path):
    """The ids, the documents and the windows of `lmkit tokenize --shards` are those of one file."""
    text = Path(__file__).parents[1] / "data" / "stories.txt"
    tokenizer = lmkit.Tokenizer.train(text, vocab_size=300)
    tokenizer.save(tmp_path / "tokenizer")
    lmkit.tokenize(text, tmp_path / "one.npy", tokenizer)
    given = {
        "data_path": text,
        "tokenizer": tmp_path / "tokenizer",
        "output_path": tmp_path / "set",
    }
    words = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    done = CliRunner().invoke(main, ["tokenize", *words, "--shards", "3", "--quiet"])
    assert done.exit_code == 0, done.output
    ids = np.asarray(lmkit.open_tokens(tmp_path / "one.npy"))
    many = of_shards(tmp_path / "set")
    assert len(many.tokens.manifest.shards) == 3
    assert np.asarray(many.tokens).tolist() == ids.tolist()
    (end_id,) = tokenizer.encode("<|endoftext|>")
    one = DocumentTokens(Reader(ids), documents_of_file(Reader(ids), end_id))
    options = {"batch_size": 64, "context_length": 32}
    for sampling in ("random", "epoch"):
        spans = [TokenBatches(t, **options, sampling=sampling).spans(1) for t in (one, many)]
        assert spans[0].starts.tolist() == spans[1].starts.tolist()
        assert spans[0].stops.tolist() == spans[1].stops.tolist()
