"""A batch to one update of the weights: forward, backward, clip, and the optimizer's step.

Which batch that is, how fast to learn from it and what to tell of it are the loop's to know
(`trainer`). Nothing here asks a device for a number, so that the host may run ahead of it.
"""

import torch
from torch import Tensor

from lmkit.lm.batches import TokenBatches
from lmkit.lm.distributed import Ranks
from lmkit.lm.optimizer import clip_gradients, set_learning_rate, step_if_finite
from lmkit.lm.prefetch import Prefetch
from lmkit.lm.preparation import Prepared
from lmkit.lm.sharding import is_cut, own_part


class Stepper:
    """Takes the steps of one run.

    Attributes:
        batches: what they learn from.
    """

    def __init__(self, run: Prepared, ranks: Ranks) -> None:
        """Share the model of ``run`` among ``ranks``, which must all do so."""
        self.batches = TokenBatches(
            run.train_data.tokens,
            batch_size=run.config.batch_size,
            context_length=run.config.context_length,
            seed=run.config.seed,
            grad_accum_steps=run.config.grad_accum_steps,
            sampling=run.config.sampling,
            device=run.device.device,
            rank=ranks.rank,
            ranks=ranks.count,
        )
        self._run = run
        self._ranks = ranks
        self._prefetch = Prefetch(self.batches)
        self._shared = ranks.share(run.model)
        self._parameters = list(run.model.parameters())

    def gradients(self, batch: int) -> Tensor:
        """Compute the clipped gradients of a batch; its mean loss and their norm before, (2,)."""
        self._run.optimizer.zero_grad(set_to_none=True)
        loss = self.backward(batch)
        norm = clip_gradients(self._parameters, self._run.config.max_grad_norm)
        return torch.stack((loss, norm))

    def backward(self, batch: int) -> Tensor:
        """Add up the gradients of a batch's micro-batches; the mean of their losses."""
        total = torch.zeros((), device=self._run.device.device)
        divisors = self.batches.divisors(batch)
        for number, (inputs_BT, targets_BT) in enumerate(self._prefetch.micro_batches(batch), 1):
            is_last = number == self._run.config.grad_accum_steps
            with self._ranks.alone(self._shared, but=is_last):
                with self._run.device.autocast():
                    part = self._shared(inputs_BT, targets_BT) / divisors[number - 1]
                part.backward()
            total += part.detach()
        return self._ranks.average(total)

    def apply(self, rate: float, loss_and_norm: Tensor) -> None:
        """Update the weights by the gradients, unless ``loss_and_norm`` are no numbers."""
        set_learning_rate(self._run.optimizer, rate)
        step_if_finite(self._run.optimizer, loss_and_norm)
        if self._run.average is not None:
            self._run.average.update()

    def read_ahead(self, batch: int) -> None:
        """Read the batch that comes next while the device works."""
        self._prefetch.read_ahead(batch)

    def weights_are_numbers(self) -> bool:
        """Whether all weights are; of a model that is cut, those of all processes."""
        wrong = not all(bool(own_part(p).isfinite().all()) for p in self._parameters)
        if is_cut(self._run.model):
            wrong = self._ranks.highest(int(wrong))[0] > 0
        return not wrong
