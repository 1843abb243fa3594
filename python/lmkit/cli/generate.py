"""`lmkit generate`: a checkpoint and a prompt to text, as it comes."""

import dataclasses
import json

import click

from lmkit.cli.options import Command, config_options, given, notices
from lmkit.cli.shared_options import checkpoint_option, device_option, json_option, quiet_option
from lmkit.config import from_dict
from lmkit.sampling_config import SamplingConfig

_BETWEEN_SAMPLES = "\n---\n"


@click.command(cls=Command)
@checkpoint_option("Let this checkpoint write, or the newest of this folder of them.")
@click.option(
    "--prompt",
    default="",
    metavar="TEXT",
    help="Continue TEXT.  [default: begin a new text]",
)
@config_options(SamplingConfig)
@device_option
@json_option
@quiet_option
def command(
    *,
    checkpoint: str,
    prompt: str,
    device: str,
    as_json: bool,
    quiet: bool,
    **values: object,
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

    sampling = from_dict(SamplingConfig, given(values))
    target = find_device(device)
    model, tokenizer = load_model(checkpoint, notices(quiet=quiet))
    pieces = generate(
        model.to(target),
        tokenizer,
        prompt,
        **dataclasses.asdict(sampling),
    )
    if as_json:
        samples = [""] * sampling.num_samples
        for piece in pieces:
            samples[piece.sample] += piece
        click.echo(json.dumps({"prompt": prompt, "seed": sampling.seed, "samples": samples}))
        return
    begun = 0
    for piece in pieces:
        begun = _begin(prompt, begun, piece.sample + 1)
        click.echo(piece, nl=False)
    _begin(prompt, begun, sampling.num_samples)
    click.echo()


def _begin(prompt: str, begun: int, wanted: int) -> int:
    """Print the prompt of each sample not begun yet, a line between two; samples may be empty."""
    for sample in range(begun, wanted):
        click.echo(f"{_BETWEEN_SAMPLES if sample else ''}{prompt}", nl=False)
    return max(begun, wanted)
