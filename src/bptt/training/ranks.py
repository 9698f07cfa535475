"""Several processes that train one network, and all that they tell each other.

A rank is a process of torch.distributed's group. Whatever they do together begins with a meeting,
which is always the same small sum over ranks: so a rank that fails, wherever that is, can tell the
others at the next one, and none waits for it.
"""

from __future__ import annotations

import json
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from bptt.data.batches import Batch
from bptt.errors import LostRankError, RankError

PLACE = re.compile(r"^\[[^]]*\] ")
"""In the C++ of a backend, with which its messages begin."""
MOST_NUMBERS = 4
"""Of a meeting."""
SPREAD = 2654435761
"""Puts the seeds of ranks far from each other among the 2³² (Knuth's multiplicative hash)."""


class Ranks:
    """The processes that train together: which of them this is, and their count.

    Alone, nothing is told or waited for.
    """

    def __init__(self, rank: int = 0, count: int = 1) -> None:
        self.rank, self.count = rank, count
        self._began, self._seconds = time.perf_counter(), 0.0

    @classmethod
    def here(cls) -> Ranks:
        """Return the ranks of torch.distributed's group, if there is one."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls()

    @property
    def is_alone(self) -> bool:
        """Whether there is no other."""
        return self.count == 1

    @property
    def is_first(self) -> bool:
        """Whether this is the one that writes and prints."""
        return self.rank == 0

    def seconds(self) -> float:
        """Return the time on the first rank's clock, at the last meeting; alone it is now."""
        return time.perf_counter() - self._began if self.is_alone else self._seconds

    def columns(self, B: int) -> slice:
        """Return which of B columns are this rank's: the first has some if there are any.

        >>> [Ranks(rank, 2).columns(5) for rank in (0, 1)]
        [slice(0, 3, None), slice(3, 5, None)]
        """
        start, stop = (-(-B * rank // self.count) for rank in (self.rank, self.rank + 1))
        return slice(start, stop)

    def part_of(self, batch: Batch) -> Batch:
        """Return this rank's columns of a batch; a batch of its own as it is."""
        is_whole = self.is_alone or not batch.is_shared
        return batch if is_whole else batch.columns(self.columns(batch.B))

    def seed(self, seed: int) -> int:
        """Return a seed for what each rank draws by itself; the first has the seed itself."""
        return (seed + SPREAD * self.rank) % 2**32 if self.rank else seed

    def meet(self, *numbers: float) -> tuple[float, ...]:
        """Return the sum of each number over ranks; raise RankError if one of these has failed."""
        return numbers if self.is_alone else self._meet(numbers)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Tell the other ranks of an error that is raised while entered."""
        try:
            yield
        except RankError:
            raise
        except Exception as error:
            if not self.is_alone:
                with suppress(RankError):  # the error itself is raised
                    self._meet((), str(error) or type(error).__name__)
            raise

    def agree(self, mine: bool, what: str) -> bool:
        """Return what all ranks answer, or raise RankError if some say yes and others no."""
        (yes,) = self.meet(mine)
        if 0 < yes < self.count:
            raise RankError(
                f"{what} on {int(yes)} of {self.count} ranks; expected the same on all: a folder "
                "that all machines share"
            )
        return mine

    def require_same(self, mine: Mapping[str, Any]) -> None:
        """Raise RankError unless all ranks have the same values under the same names."""
        if self.is_alone:
            return
        self.meet()
        first, *others = self._all({name: json.dumps(value) for name, value in mine.items()})
        for rank, its in enumerate(others, 1):
            for name in sorted(first.keys() | its.keys()):
                if first.get(name) != its.get(name):
                    raise RankError(
                        f"{name} is {its.get(name)} on rank {rank} and {first.get(name)} on rank "
                        "0; expected the same on all ranks"
                    )

    def share_weights(self, net: nn.Module) -> None:
        """Give every rank the first one's parameters and buffers."""
        if self.is_alone:
            return
        self.meet()
        for tensor in (*net.parameters(), *net.buffers()):
            values = tensor.detach().contiguous()
            self._call(dist.broadcast, values, 0)
            tensor.detach().copy_(values)

    def add_gradients(self, parameters: Iterable[Tensor], divisor: float) -> None:
        """Make each .grad its sum over ranks, divided; None where no rank has one.

        One sum for each dtype and device, of all gradients side by side and, at the end, of how
        many ranks have each. The ranks have just met.
        """
        kinds: dict[Any, list[Tensor]] = defaultdict(list)
        for parameter in parameters:
            kinds[parameter.dtype, parameter.device].append(parameter)
        for each in kinds.values():
            grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in each]
            has = each[0].new_tensor([p.grad is not None for p in each])
            flat = torch.cat([*(grad.reshape(-1) for grad in grads), has])
            self._call(dist.all_reduce, flat)
            *sums, has = flat.split([*(p.numel() for p in each), len(each)])
            flat[: -len(each)] /= divisor
            for parameter, total, count in zip(each, sums, has.tolist(), strict=True):
                parameter.grad = total.view_as(parameter) if count else None

    def gather(self, value: Any) -> list[Any]:
        """Return every rank's value on the first rank; none on the others."""
        self.meet()
        values = [None] * self.count if self.is_first else None
        self._call(dist.gather_object, value, values)
        return values or []

    def _meet(self, numbers: tuple[float, ...], failure: str | None = None) -> tuple[float, ...]:
        sent = torch.zeros(MOST_NUMBERS + 2, dtype=torch.float64, device=_device())
        sent[: len(numbers)] = torch.tensor(numbers, dtype=torch.float64)
        if self.is_first:
            sent[-2] = time.perf_counter() - self._began
        sent[-1] = failure is not None
        self._call(dist.all_reduce, sent)
        *sums, self._seconds, failures = sent.tolist()
        if failures:
            failed = [(r, why) for r, why in enumerate(self._all(failure)) if why is not None]
            raise RankError(f"rank {failed[0][0]} of {self.count} stopped: {failed[0][1]}")
        return tuple(sums[: len(numbers)])

    def _all(self, value: Any) -> list[Any]:
        """Return every rank's value, on each."""
        values = [None] * self.count
        self._call(dist.all_gather_object, values, value)
        return values

    def _call(self, collective: Callable[..., Any], *arguments: Any) -> None:
        try:
            collective(*arguments)
        except RuntimeError as error:  # of all of torch.distributed's
            problem = PLACE.sub("", str(error)).split(". ")[0]
            raise LostRankError(
                f"rank {self.rank} of {self.count} lost another ({problem}); what has been "
                "saved goes on with bptt.resume (bptt train --resume)"
            ) from None


def _device() -> torch.device:
    """Return where the group can add small tensors."""
    if dist.get_backend() == dist.Backend.NCCL:
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")
