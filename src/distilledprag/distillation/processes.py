"""Training in several processes, on one machine or more: `torchrun ... -m distilledprag train RECIPE`.

The batches of a step are shared out: of n, process r of W does the numbers r, r + W, ... All of them start from the same
parameters, their gradients are added up before each optimizer step, so all of them stay the same, and the step is the one that a
single process would have made of the n batches, whatever W is. The first process alone writes files and logs, and evaluates
unless the processes share a base that none of them holds whole (`sharded_base.py`).

(It is data parallel training without torch's DistributedDataParallel, which wants one forward through one module a backward: the
losses here run the frozen base around the trained module, and a reader's step has several backwards.)
"""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from distilledprag.errors import ConfigError

_PATIENCE = datetime.timedelta(hours=3)  # the longest evaluation or checkpoint, for which the other processes wait

Value = TypeVar("Value")


@dataclass(frozen=True)
class Processes:
    """rank: the number of this process; count: of all that train together."""

    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def own(self, batches: int, setting: str) -> range:
        """Which of a step's batches this process does. Raises ConfigError where they cannot be shared out evenly.

        setting: the name of the setting that says how many batches a step has."""
        if batches % self.count:
            raise ConfigError(
                f"{setting} is {batches}, and {self.count} processes share the batches of a step; set it to a multiple of "
                f"{self.count} (it means the same in any number of processes)"
            )
        return range(self.rank, batches, self.count)

    def told(self, value: Value) -> Value:
        """The first process's value."""
        if self.count == 1:
            return value
        told = [value]
        dist.broadcast_object_list(told, src=0)
        return told[0]

    def agree(self, holds: bool) -> bool:
        """Whether it holds in all processes."""
        return self.added({"holds": float(holds)})["holds"] == self.count

    @contextlib.contextmanager
    def in_turns(self) -> Iterator[None]:
        """The processes of a machine do the block one after the other; they leave it together."""
        if self.count == 1:
            yield
            return
        turns = torch.tensor([int(os.environ["LOCAL_WORLD_SIZE"])], device=_device())
        dist.all_reduce(turns, op=dist.ReduceOp.MAX)
        for turn in range(int(turns)):
            if turn == int(os.environ["LOCAL_RANK"]):
                yield
            dist.barrier()

    def added(self, numbers: Mapping[str, float]) -> dict[str, float]:
        """Each number added up over the processes, which all have the same names."""
        if self.count == 1:
            return dict(numbers)
        values = torch.tensor(list(numbers.values()), dtype=torch.float64, device=_device())
        dist.all_reduce(values)
        return dict(zip(numbers, values.tolist(), strict=True))

    @torch.no_grad()
    def add_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replace every gradient by its sum over the processes. What has none anywhere keeps none."""
        if self.count == 1:
            return
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        has = torch.tensor([parameter.grad is not None for parameter in trained], dtype=torch.int32, device=_device())
        dist.all_reduce(has, op=dist.ReduceOp.MAX)
        wanted = [parameter for parameter, some in zip(trained, has.tolist(), strict=True) if some]
        for parameter in wanted:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        for dtype in sorted({parameter.dtype for parameter in wanted}, key=str):
            gradients = [parameter.grad for parameter in wanted if parameter.dtype == dtype and parameter.grad is not None]
            flat = torch.cat([gradient.flatten() for gradient in gradients])
            dist.all_reduce(flat)
            for gradient, summed in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
                gradient.copy_(summed.view_as(gradient))

    @torch.no_grad()
    def copy_from_first(self, tensors: Iterable[Tensor]) -> None:
        """Give every process the first one's values."""
        if self.count > 1:
            for tensor in tensors:
                dist.broadcast(tensor.data, src=0)


def training_processes() -> Processes:
    """Those that this process trains with; itself alone where `joined` did not begin."""
    return Processes(dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else Processes()


@contextlib.contextmanager
def joined() -> Iterator[Processes]:
    """Join the processes that torchrun started, each with a GPU of its own where there are GPUs; alone without it."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Processes()
        return
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("nccl" if on_gpu else "gloo", timeout=_PATIENCE)
    try:
        yield training_processes()
    finally:
        dist.destroy_process_group()


def _device() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
