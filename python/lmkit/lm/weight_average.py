"""A model's weights to their moving average: what ``--ema_decay`` evaluates, saves and generates.

After each step the average moves by ``1 - decay`` of the way to the weights. It costs their memory
once more and a pass over them a step, and never touches what the run learns with.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lmkit.lm.sharding import own_part


class WeightAverage:
    """The moving average of a model's parameters, begun with what they are."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self._names = [name for name, _ in model.named_parameters()]
        self._parameters: list[Tensor] = list(model.parameters())
        self._average = [parameter.detach().clone() for parameter in self._parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Follow the weights after a step."""
        torch._foreach_lerp_(self._average, self._parameters, 1 - self.decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the model have the averaged weights inside the block."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def state_dict(self) -> dict[str, Tensor]:
        """The averages by the names of their parameters."""
        return dict(zip(self._names, self._average, strict=True))

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Put averages back."""
        for name, average in zip(self._names, self._average, strict=True):
            average.copy_(state[name])

    def restart(self) -> None:
        """Begin anew with the weights as they are."""
        for average, parameter in zip(self._average, self._parameters, strict=True):
            average.copy_(parameter.detach())

    def _swap(self) -> None:
        for place, parameter in enumerate(self._parameters):
            mine, average = own_part(parameter.detach()), own_part(self._average[place])
            if average is self._average[place]:
                parameter.data, self._average[place] = average, parameter.data
            else:  # cut over processes: FSDP2 gathers from the memory it knows
                kept = mine.clone()
                mine.copy_(average)
                average.copy_(kept)
