"""`lmkit generate`: a checkpoint and a prompt to text, as it comes."""

import json

import click

from lmkit.cli.options import Command, json_option, quiet_option

_BETWEEN_SAMPLES = "\n---\n"


@click.command(cls=Command)
@click.option(
    "--checkpoint",
    required=True,
    metavar="PATH",
    help="Let this checkpoint write, or the newest of this folder of them.",
)
@click.option(
    "--prompt",
    default="",
    metavar="TEXT",
    help="Continue TEXT.  [default: begin a new text]",
)
@click.option(
    "--max_new_tokens",
    type=click.IntRange(min=0),
    default=256,
    show_default=True,
    metavar="N",
    help="Stop after N tokens, if no end of text comes before.",
)
@click.option(
    "--temperature",
    type=float,
    default=1.0,
    show_default=True,
    metavar="X",
    help="Take fewer risks below 1, more above; 0 always takes the likeliest token.",
)
@click.option(
    "--top_k",
    type=click.IntRange(min=1),
    metavar="N",
    help="Choose among the N likeliest tokens only.",
)
@click.option(
    "--top_p",
    type=float,
    metavar="X",
    help="Choose among the fewest likeliest tokens that have probability X together.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    metavar="N",
    help="Give the same text for the same N.  [default: another each time]",
)
@click.option(
    "--num_samples",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="Write N texts.",
)
@click.option(
    "--device",
    default="auto",
    show_default=True,
    metavar="NAME",
    help="Compute on auto, cpu, cuda, cuda:0 or mps.",
)
@json_option
@quiet_option
def command(
    *,
    checkpoint: str,
    prompt: str,
    max_new_tokens: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    seed: int | None,
    num_samples: int,
    device: str,
    as_json: bool,
    quiet: bool,
) -> None:
    r"""Let a checkpoint continue a prompt.

    Prints the prompt and what follows it, up to an <|endoftext|>. The checkpoint knows its
    tokenizer: nothing else is needed.

    \b
    Examples:
      lmkit generate --checkpoint checkpoints/ --prompt "Once upon a time"
      lmkit generate --checkpoint checkpoints/checkpoint_5000.pt --temperature 0.8 --top_p 0.95
    """
    from lmkit.lm import generate, load_model
    from lmkit.lm.device import find_device

    target = find_device(device)
    model, tokenizer = load_model(checkpoint, lambda said: None if quiet else _tell(said))
    pieces = generate(
        model.to(target),
        tokenizer,
        prompt,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        num_samples=num_samples,
    )
    if as_json:
        samples = [""] * num_samples
        for piece in pieces:
            samples[piece.sample] += piece
        click.echo(json.dumps({"prompt": prompt, "seed": seed, "samples": samples}))
        return
    begun = 0
    for piece in pieces:
        begun = _begin(prompt, begun, piece.sample + 1)
        click.echo(piece, nl=False)
    _begin(prompt, begun, num_samples)
    click.echo()


def _begin(prompt: str, begun: int, wanted: int) -> int:
    """Print the prompt of each sample not begun yet, a line between two; samples may be empty."""
    for sample in range(begun, wanted):
        click.echo(f"{_BETWEEN_SAMPLES if sample else ''}{prompt}", nl=False)
    return max(begun, wanted)


def _tell(sentence: str) -> None:
    click.echo(f"note: {sentence}", err=True)
