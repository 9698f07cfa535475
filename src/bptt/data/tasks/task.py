"""The tasks on which recurrent networks are tried, drawn on the fly from a seed."""

from __future__ import annotations

import difflib
import hashlib
import re
from dataclasses import dataclass, field
from typing import Any

import torch

from bptt.data.batches import Batch, Batches, Dataset
from bptt.data.criterion import Criterion
from bptt.data.tasks.kinds import TASKS, Kind
from bptt.data.tasks.scores import mean_score
from bptt.errors import BpttError, require_kind, require_whole, shown
from bptt.model.encodings import Encoding
from bptt.model.likelihoods.likelihood import Likelihood
from bptt.model.network import Network

EPOCH, HELD_OUT, HELD_OUT_BATCH = 100, 2000, 250
"""Batches of an epoch; held-out sequences, and how many of them are run side by side."""
PREFIX, DEFAULT_LENGTH = "task:", 100


@dataclass(frozen=True)
class Task(Dataset):
    """A task of a length, or of lengths from the first to the second, one drawn a batch.

    Held out are sequences of the longest.

    >>> task = Task("adding", (50, 50))
    >>> y, x, *_ = task.training_batches(20, None, seed=0).get(0, 0)
    >>> y.shape, x.shape
    (torch.Size([50, 20, 1]), torch.Size([50, 20, 2]))
    """

    name: str
    lengths: tuple[int, int]
    kind: Kind = field(init=False, repr=False, compare=False)

    unit = "step"
    default_batch = 20
    default_window = None
    whole = True
    is_best_by_score = True

    def __post_init__(self) -> None:
        require_kind("the task", self.name, str, f"one of {', '.join(TASKS)}")
        if not isinstance(self.lengths, tuple | list) or len(self.lengths) != 2:
            raise BpttError(f"lengths is {shown(self.lengths)}; expected two, as in (50, 200)")
        if self.name not in TASKS:
            near = difflib.get_close_matches(self.name, TASKS, 1, 0.4)
            hint = f"did you mean {near[0]}? There are" if near else "expected one of"
            raise BpttError(f"there is no task {self.name!r}; {hint} {', '.join(TASKS)}")
        kind = TASKS[self.name]
        low, high = self.lengths
        require_whole("the length", low, kind.shortest, 10**7)
        require_whole("the length", high, low, 10**7)
        object.__setattr__(self, "kind", kind)

    @classmethod
    def parse(cls, name: str, length: str | int) -> Task:
        """Return a task by its name, with or without "task:", and length, as 200 or 50-200."""
        require_kind("the length", length, (str, int), "a number, or two as in 50-200")
        bounds = re.fullmatch(r"\s*(\d{1,9})\s*(?:-\s*(\d{1,9})\s*)?", str(length))
        if bounds is None:
            raise BpttError(
                f"the length is {shown(length)}; expected a number, or two as in 50-200"
            )
        require_kind("the task", name, str, f"one of {', '.join(TASKS)}")
        low, high = int(bounds[1]), int(bounds[2] or bounds[1])
        if high < low:
            raise BpttError(f"the length is {length}; expected the smaller number first")
        return cls(name.removeprefix(PREFIX), (low, high))

    @property
    def source(self) -> str:  # type: ignore[override]
        """What to call it."""
        low, high = self.lengths
        return f"{PREFIX}{self.name}, length {low}" + (f" to {high}" if high > low else "")

    @property
    def sha256(self) -> str:  # type: ignore[override]
        """Of what it is called: it has no file."""
        return hashlib.sha256(self.source.encode()).hexdigest()

    @property
    def likelihood(self) -> Likelihood:
        """A fresh likelihood for its y."""
        return self.kind.likelihood()

    @property
    def inputs(self) -> int | Encoding:
        """What its x is."""
        return self.kind.inputs

    @property
    def criterion(self) -> Criterion:  # type: ignore[override]
        """When it counts as solved, at its longest."""
        return self.kind.criterion(self.lengths[1])

    def training_batches(self, batch: int, steps: int | None, seed: int) -> Drawing:
        """Return fresh sequences in every batch; steps plays no part, as they are whole."""
        return Drawing(self, batch, EPOCH, seed)

    def validation_batches(self, batch: int) -> Drawing:
        """Return held-out sequences, always the same ones."""
        size = min(HELD_OUT_BATCH, max(1, 2**17 // self.lengths[1]))
        return Drawing(self, size, max(1, HELD_OUT // size), None)

    def config(self) -> dict[str, Any]:
        """Return what it takes to make the task again."""
        mine = {"name": self.name, "lengths": list(self.lengths), "sha256": self.sha256}
        return {"kind": "task", "path": None, **mine}

    def score(self, net: Network) -> float:
        """Return what the criterion measures, on the held-out sequences, under teacher forcing."""
        return mean_score(net, self.validation_batches(1), self.criterion.measure)


class Drawing(Batches):
    """Batches that are drawn when they are asked for.

    seed: None for the held-out ones, which are of the longest length and the same every epoch.
    """

    def __init__(self, task: Task, batch: int, count: int, seed: int | None) -> None:
        self.task, self.batch, self.count, self.seed = task, batch, count, seed
        y, _, unscored = task.kind.draw(task.lengths[1], 1, torch.Generator().manual_seed(0))
        self.steps, self.longest = (len(y) - unscored) * batch * count, len(y)

    def __len__(self) -> int:
        """How many batches an epoch has."""
        return self.count

    def get(self, epoch: int, index: int) -> Batch:
        """Return a batch of an epoch."""
        generator, (low, high) = torch.Generator(), self.task.lengths
        if self.seed is None:
            generator.manual_seed(2**40 + index)
            T = high
        else:
            generator.manual_seed((self.seed * 1_000_003 + epoch * self.count + index) % 2**40)
            T = low + int(torch.randint(high - low + 1, (), generator=generator))
        y, x, unscored = self.task.kind.draw(T, self.batch, generator)
        return Batch(y, x, None, True, unscored)
