"""Several processes to one run: each has its share of every micro-batch, and the model or a share.

What torchrun, or ``lmkit train --nproc``, puts into the environment (RANK, WORLD_SIZE, LOCAL_RANK)
makes a process one of them. Gradients are averaged while the backward pass still runs: by torch's
DistributedDataParallel, where each process has the whole model, or by FSDP2, where it is cut
(``sharding``). What the host must agree on (to stop, to evaluate) goes over gloo, so that no
accelerator is waited for. A single process pays nothing: every call is then the identity.
"""

import inspect
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from lmkit.config import TrainConfig
from lmkit.errors import LostProcessError, UsageError
from lmkit.process import LISTENING

Plain = TypeVar("Plain")


@dataclass(frozen=True)
class Ranks:
    """The processes of a run, and which of them this is.

    Attributes:
        rank: from 0; the first is the one that prints, and writes.
        count: how many there are.
    """

    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process prints and writes."""
        return self.rank == 0

    def check(self, config: TrainConfig) -> None:
        """Refuse a batch that cannot be shared equally."""
        if config.batch_size % self.count:
            raise UsageError(
                f"--batch_size {config.batch_size} cannot be shared equally by {self.count} "
                "processes",
                hint=f"pass a multiple of {self.count}; the batch is that of all processes",
            )

    def cut_model(self, config: TrainConfig) -> bool:
        """Whether each process holds only its share of the model."""
        return self.count > 1 and config.parallel == "fsdp"

    def highest(self, *numbers: int) -> list[int]:
        """The highest of the numbers that the processes give, place by place."""
        if self.count == 1:
            return list(numbers)
        told = torch.tensor(numbers)
        distributed.all_reduce(told, distributed.ReduceOp.MAX)
        return [int(number) for number in told.tolist()]

    def sums(self, *numbers: float) -> list[float]:
        """The sums of the numbers that the processes give, place by place."""
        if self.count == 1:
            return list(numbers)
        told = torch.tensor(numbers, dtype=torch.float64)
        distributed.all_reduce(told)
        return [float(number) for number in told.tolist()]

    def average(self, tensor: Tensor) -> Tensor:
        """Make ``tensor`` the mean of those of all processes; the host need not wait for it."""
        if self.count > 1:
            distributed.all_reduce(tensor)
            tensor /= self.count
        return tensor

    def from_first(self, value: Plain) -> Plain:
        """What the first process gives, plain data; the others' own is not looked at."""
        if self.count == 1:
            return value
        told = [value]
        distributed.broadcast_object_list(told, src=0)
        return told[0]

    def gathered(self, value: Plain, group: distributed.ProcessGroup | None = None) -> list[Plain]:
        """What each process gives, plain data, by rank; over ``group`` where one is given."""
        if self.count == 1:
            return [value]
        told: list[Any] = [None] * self.count
        distributed.all_gather_object(told, value, group=group)
        return told

    def wait(self) -> None:
        """Wait for all processes to come here."""
        if self.count > 1:
            distributed.barrier()

    @contextmanager
    def first_goes_first(self) -> Iterator[None]:
        """Let the first process do alone what is inside, and then the others."""
        if not self.is_first:
            self.wait()
        yield
        if self.is_first:
            self.wait()

    def share(self, model: nn.Module) -> nn.Module:
        """The module to compute losses with, so that backward averages the gradients."""
        if self.count == 1 or hasattr(model, "set_requires_gradient_sync"):
            return model
        # The tables of angles are the same everywhere; torch has given the setting a new name.
        known = inspect.signature(DistributedDataParallel.__init__).parameters
        name = next(name for name in ("forward_sync_buffers", "broadcast_buffers") if name in known)
        settings: dict[str, Any] = {name: False}
        return DistributedDataParallel(model, **settings)

    @staticmethod
    def alone(shared: nn.Module, *, but: bool) -> AbstractContextManager[Any]:
        """A context for one micro-batch: gradients are averaged ``but`` in the last."""
        let_sync = getattr(shared, "set_requires_gradient_sync", None)  # FSDP2's
        if let_sync is not None:
            let_sync(but)
            return nullcontext()
        if but or not isinstance(shared, DistributedDataParallel):
            return nullcontext()
        return shared.no_sync()

    @contextmanager
    def explaining(self, *, began: bool = True) -> Iterator[None]:
        """Say in one sentence that another process is gone; once a run ``began``, what helps."""
        try:
            yield
        except RuntimeError as error:
            said, words = str(error), ("gloo", "nccl", "connection")
            if self.count == 1 or not any(word in said.lower() for word in words):
                raise
            raise LostProcessError(
                f"process {self.rank} of {self.count} lost another one: "
                f"{said.strip().splitlines()[0].split('. ')[0]}",
                hint="--max_restarts N goes on from the last checkpoint by itself"
                if began
                else None,
            ) from error


@contextmanager
def joined() -> Iterator[Ranks]:
    """Be one of the processes that the environment tells of, until the block ends."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Ranks()
        return
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        backend = "cpu:gloo,cuda:nccl"
    distributed.init_process_group(backend, **_meeting(count))
    try:
        yield Ranks(distributed.get_rank(), count)
    finally:
        distributed.destroy_process_group()


def _meeting(count: int) -> dict[str, Any]:
    """Where processes meet: on the socket that the launcher gave the first, or as torch does it."""
    listening = os.environ.get(LISTENING)
    if listening is None:
        return {}
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    rank = int(os.environ["RANK"])
    store = distributed.TCPStore(  # type: ignore[attr-defined]  # documented, and not listed
        address,
        port,
        count,
        is_master=rank == 0,
        timeout=distributed.default_pg_timeout,
        master_listen_fd=int(listening) if listening else None,
    )
    return {"store": store, "rank": rank, "world_size": count}
