"""Generated text: reproducible, within the vocabulary, whole characters, and as it comes."""

import itertools

import pytest
import torch

import lmkit
from byte_tokenizer import END, ByteTokenizer
from lmkit.errors import LmkitError, MismatchError, UsageError
from lmkit.lm import generate
from lmkit.lm.evaluate import evaluate
from lmkit.lm.model import Transformer
from lmkit.model_config import ModelConfig

TOKENIZER = ByteTokenizer()


def model(seed: int = 0, **shape) -> Transformer:
    sizes = {"vocab_size": 300, "d_model": 16, "n_layers": 2, "n_heads": 2, "d_ff": 24}
    config = ModelConfig(**sizes | {"max_seq_len": 64} | shape)
    return Transformer(config, torch.Generator().manual_seed(seed))


class Parrot(Transformer):
    """Says a fixed sequence of ids, whatever it is asked."""

    def __init__(self, said, **shape):
        super().__init__(model(**shape).config)
        self.said, self.calls = itertools.cycle(said), []

    def next_token_logits(self, ids, cache):
        self.calls.append(ids[0].tolist())
        super().next_token_logits(ids, cache)
        logits = torch.zeros(1, 300)
        logits[0, next(self.said)] = 1000.0
        return logits


def text(*args, **options) -> str:
    return "".join(generate(*args, **options))


def test_the_same_seed_gives_the_same_text():
    one, same, other = (
        text(model(), TOKENIZER, "ab", seed=seed, max_new_tokens=40) for seed in (5, 5, 6)
    )
    assert one == same != other


def test_no_seed_gives_new_text_each_time():
    one, other = (text(model(), TOKENIZER, "ab", max_new_tokens=40) for _ in range(2))
    assert one != other


def test_samples_differ_and_do_not_depend_on_their_number():
    pieces = list(generate(model(), TOKENIZER, "ab", seed=5, num_samples=3, max_new_tokens=30))
    assert [piece.sample for piece in pieces] == sorted(piece.sample for piece in pieces)
    samples = ["".join(p for p in pieces if p.sample == n) for n in range(3)]
    assert len(set(samples)) == 3
    assert samples[0] == text(model(), TOKENIZER, "ab", seed=5, max_new_tokens=30)


def test_temperature_zero_takes_the_likeliest_as_full_recomputation_finds_it():
    net, ids = model(), list(b"hello")
    for _ in range(20):
        logits = net(torch.tensor([ids]))[0, -1]
        logits[[256, *range(258, 300)]] = -torch.inf
        ids.append(int(logits.argmax()))
    expected = TOKENIZER.decode_bytes(ids[5:]).decode(errors="replace").split(END)[0]
    assert text(net, TOKENIZER, "hello", temperature=0, max_new_tokens=20) == expected


@pytest.mark.parametrize("option", [{"top_k": 1}, {"top_p": 1e-9}, {"temperature": 1e-30}])
def test_the_narrowest_choice_is_the_greedy_one(option):
    greedy = text(model(), TOKENIZER, "hello", temperature=0, max_new_tokens=20)
    assert text(model(), TOKENIZER, "hello", seed=1, max_new_tokens=20, **option) == greedy


def test_top_k_and_top_p_leave_out_the_unlikely():
    class Fixed(Transformer):
        def next_token_logits(self, _ids, _cache):
            probabilities = torch.zeros(1, 300)
            probabilities[0, 97:101] = torch.tensor([0.4, 0.3, 0.2, 0.1])
            return probabilities.log().clamp(min=-100)

    net = Fixed(model().config)
    for options, expected in [
        ({"top_k": 2}, set("ab")),
        ({"top_p": 0.65}, set("ab")),
        ({"top_p": 0.75}, set("abc")),
        ({"top_k": 1000}, set("abcd")),
        ({"top_k": 3, "top_p": 0.5}, set("ab")),
        ({"top_p": 1.0}, set("abcd")),
        ({}, set("abcd")),
    ]:
        assert set(text(net, TOKENIZER, "x", seed=0, max_new_tokens=150, **options)) == expected


def test_ids_without_a_token_are_never_sampled():
    class Eager(Transformer):
        def next_token_logits(self, _ids, _cache):
            logits = torch.zeros(1, 300)
            logits[0, 256] = logits[0, 258:] = 50.0  # the gap, and ids beyond the tokenizer
            return logits

    net = Eager(model().config)
    for temperature in (0, 1, 10):
        assert text(net, TOKENIZER, "x", seed=0, temperature=temperature, max_new_tokens=50)


def test_stops_at_the_end_of_text_without_printing_it():
    assert text(Parrot([*b"one", 257, *b"two"]), TOKENIZER, "x", seed=0) == "one"


def test_pieces_come_as_they_are_made_and_never_hold_half_a_character():
    net = Parrot("aé漢🙂".encode())
    pieces = generate(net, TOKENIZER, "x", seed=0, max_new_tokens=10)
    assert next(pieces) == "a"
    assert len(net.calls) == 1
    assert list(pieces) == ["é", "漢", "🙂"]


def test_what_is_not_utf8_becomes_replacement_characters():
    assert text(Parrot([0x61, 0xFF, 0x62]), TOKENIZER, "x", seed=0, max_new_tokens=3) == "a\ufffdb"
    # Out of tokens within a character.
    assert text(Parrot("漢".encode()), TOKENIZER, "x", seed=0, max_new_tokens=2) == "\ufffd"


def test_an_empty_prompt_starts_after_an_end_of_text():
    net = Parrot(b"a")
    assert text(net, TOKENIZER, "", seed=0, max_new_tokens=2) == "aa"
    assert net.calls == [[257], [97]]
    with pytest.raises(UsageError, match=r"an empty --prompt needs <\|endoftext\|>"):
        generate(net, ByteTokenizer(with_end=False), "")


def test_each_new_token_costs_one_position():
    net = Parrot(b"ab")
    text(net, TOKENIZER, "hello", seed=0, max_new_tokens=4)
    assert net.calls == [list(b"hello"), [97], [98], [97]]


def test_a_full_window_goes_on_from_its_last_half():
    net = Parrot(b"0123456789", max_seq_len=8)
    assert text(net, TOKENIZER, "abcdef", seed=0, max_new_tokens=10) == "0123456789"
    assert net.calls[:3] == [list(b"abcdef"), [*b"0"], [*b"1"]]
    assert net.calls[3] == list(b"f012")
    assert max(map(len, net.calls)) == 6


def test_the_window_is_the_one_the_model_was_trained_on():
    net = Parrot(b"0123456789", max_seq_len=64)
    net.context_length = 8
    text(net, TOKENIZER, "abcdef", seed=0, max_new_tokens=10)
    assert net.calls[3] == list(b"f012")


def test_of_a_long_prompt_the_last_window_counts():
    net = Parrot(b"z", max_seq_len=8)
    text(net, TOKENIZER, "0123456789abcdef", seed=0, max_new_tokens=3)
    assert net.calls[0] == list(b"89abcdef")
    assert net.calls[1] == list(b"defz")


def test_nothing_of_the_model_or_of_torchs_generator_changes():
    net = model().train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    torch.manual_seed(0)
    state = torch.get_rng_state()
    text(net, TOKENIZER, "hi", seed=0, max_new_tokens=5)
    assert torch.equal(torch.get_rng_state(), state)
    assert net.training
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"temperature": -1}, "--temperature must be at least 0"),
        ({"temperature": float("nan")}, "--temperature must be a finite number"),
        ({"top_k": 0}, "--top_k must be at least 1"),
        ({"top_p": 0.0}, "--top_p must be above 0"),
        ({"top_p": 1.5}, "--top_p must be above 0"),
        ({"num_samples": 0}, "--num_samples must be at least 1"),
        ({"max_new_tokens": -1}, "--max_new_tokens must be at least 0"),
        ({"seed": -1}, "--seed must be at least 0"),
    ],
)
def test_a_setting_out_of_range_is_refused_at_the_call(option, message):
    with pytest.raises(UsageError, match=message):
        generate(model(), TOKENIZER, "x", **option)


def test_a_real_tokenizer_does_as_well():
    vocab = {value: bytes([value]) for value in range(256)} | {270: b"he"}  # ids 256 to 269: none
    tokenizer = lmkit.Tokenizer(vocab, [(b"h", b"e")], special_tokens=[END])
    assert text(Parrot([270, *b"llo", 271]), tokenizer, "", seed=0) == "hello"
    result = evaluate(model(), tokenizer, tokenizer.encode_array("hehe" + END + "he"))
    assert (result.tokens, result.bytes) == (3, 4)


def test_no_new_tokens_are_no_text():
    assert text(model(), TOKENIZER, "x", max_new_tokens=0) == ""


def test_a_tokenizer_larger_than_the_model_is_refused():
    with pytest.raises(MismatchError, match="the tokenizer has 258 ids, the model only 200"):
        generate(model(vocab_size=200), TOKENIZER, "x")


def test_weights_that_diverged_are_named():
    net = model()
    with torch.no_grad():
        net.lm_head.weight.fill_(float("nan"))
    with pytest.raises(LmkitError, match="not finite"):
        text(net, TOKENIZER, "x")
