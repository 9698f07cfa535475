"""Batches that a user's iterable yields, such as a torch DataLoader."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sized
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bptt.data.batches import Batch, Batches, Data
from bptt.errors import BpttError, counted, shown
from bptt.training.ranks import Ranks
from bptt.training.seeds import seeded

NAMES = ("y", "x", "lengths", "loss_weights", "resets")
EXPECTED = f"y (T, B, ...), a tuple ({', '.join(NAMES)}) or less of it, or a dict of these"
OF_TRAINING, OF_VALIDATION = 2**31, 2**31 + 2**30
"""Where the seeds of data begin: beyond those of updates, within the 32 bits that torch takes."""
_END = object()


class Loader(Data):
    """What `fit` makes of an iterable of batches, and perhaps of another one to validate on.

    Every batch has whole sequences, time first.
    """

    source = "the loader"
    unit = "step"
    sha256 = ""
    default_batch = 0
    default_window = None
    least_updates = 0
    whole = True

    def __init__(self, batches: Iterable[Any], validation: Iterable[Any] | None = None) -> None:
        self.batches, self.validation = batches, validation

    def training_batches(self, batch: int, steps: int | None, seed: int) -> Loaded:
        """Return the batches to train on."""
        return Loaded(self.batches, "the loader", Ranks.here().seed(OF_TRAINING + seed))

    def validation_batches(self, batch: int) -> Loaded | None:
        """Return the batches to validate on, if there are any."""
        return (
            None
            if self.validation is None
            else Loaded(self.validation, "validation", OF_VALIDATION)
        )

    def config(self) -> dict[str, Any]:
        """Return that a user has it."""
        return {"kind": "loader", "path": None, "sha256": ""}


class Loaded(Batches):
    """An iterable's batches, one after another, and from the start again where it ends.

    name: what to call it. What the iterable draws from torch's random numbers, such as a
    DataLoader's order, is decided by the seed and how many batches came before: a run that goes on
    has the same.
    """

    steps = None
    longest = None

    def __init__(self, iterable: Iterable[Any], name: str, seed: int) -> None:
        self.iterable, self.name, self.seed = iterable, name, seed
        self.count = _count(iterable)
        if self.count == 0:
            raise BpttError(f"{name} has no batch; expected at least one")
        self.is_sized = self.count is not None
        self.first: Batch | None = None
        self.iterator: Iterator[Any] | None = None
        self.number = self.in_epoch = 0  # of the batch that comes next

    def __len__(self) -> int:
        """How many batches an epoch has, of an iterable that says so."""
        if self.count is None:
            raise TypeError(f"{self.name} does not say how many batches it has")
        return self.count

    def get(self, epoch: int, index: int) -> Batch:
        """Return a batch of an epoch."""
        return self.at(epoch * len(self) + index)

    def at(self, number: int) -> Batch:
        """Return a batch by its number over all epochs; what lies between is read too."""
        if number < self.number:
            self._rewind()
        while self.number <= number:
            item = self._next()
            if item is _END and self.in_epoch == 0:
                raise BpttError(
                    f"{self.name} had {counted(self.number, 'batch')}, and has none when it is "
                    "gone through again; expected one that begins anew, such as a DataLoader or a "
                    "list, or fewer updates"
                )
            if item is _END:
                self.iterator, self.in_epoch = None, 0
        return self._checked(as_batch(item, self.name, number))

    def first_epoch(self) -> Iterator[Batch]:
        """Yield the batches of one epoch."""
        self._rewind()
        while (item := self._next()) is not _END:
            yield self._checked(as_batch(item, self.name, self.number - 1))
        if self.number == 0:
            raise BpttError(f"{self.name} has no batch; expected at least one, each time anew")

    def _rewind(self) -> None:
        """Go to the start of the first epoch."""
        self.iterator, self.number, self.in_epoch = None, 0, 0

    def _next(self) -> Any:
        """Return what the iterable yields next, or _END where an epoch ends."""
        if self.in_epoch == self.count:
            return _END
        with seeded(self.seed + self.number):
            if self.iterator is None:
                self.iterator = iter(self.iterable)
            item = next(self.iterator, _END)
        if item is not _END:
            self.number, self.in_epoch = self.number + 1, self.in_epoch + 1
        elif self.count is not None and self.in_epoch > 0:
            raise BpttError(
                f"{self.name} says that it has {counted(self.count, 'batch')}, and ended after "
                f"{self.in_epoch}; expected as many as it says"
            )
        return item

    def _checked(self, batch: Batch) -> Batch:
        """Return a batch, or raise BpttError if it is unlike the first."""
        self.first = self.first or batch
        if _kinds(batch) != _kinds(self.first):
            raise BpttError(
                f"batch {self.number - 1} of {self.name} has {_words(batch)}, and the first had "
                f"{_words(self.first)}; expected them alike, but for T and B"
            )
        return batch


def as_batch(item: Any, name: str, number: int) -> Batch:
    """Return what a user's iterable yielded as a batch, or raise BpttError."""
    where = f"batch {number} of {name}"
    if isinstance(item, tuple) and hasattr(item, "_asdict"):
        item = item._asdict()
    if isinstance(item, Tensor | np.ndarray):
        parts = {"y": item}
    elif isinstance(item, Mapping):
        parts = dict(item)
    elif isinstance(item, tuple | list) and 0 < len(item) <= len(NAMES):
        parts = dict(zip(NAMES, item, strict=False))
    else:
        raise BpttError(f"{where} is {shown(item)}; expected {EXPECTED}")
    if unknown := [key for key in parts if key not in NAMES]:
        raise BpttError(f"{where} has {shown(unknown[0])}; expected {EXPECTED}")
    tensors = {key: _tensor(part, f"{key} in {where}") for key, part in parts.items()}
    y = tensors.get("y")
    if y is None or y.ndim < 2:
        raise BpttError(f"y in {where} is {shown(y)}; expected (T, B) or (T, B, features)")
    x, lengths, weights, resets = (tensors.get(key) for key in NAMES[1:])
    return Batch(y, x, lengths, True, loss_weights=weights, resets=resets, is_shared=False)


def _tensor(part: Any, name: str) -> Tensor | None:
    if isinstance(part, np.ndarray) and part.dtype.kind in "iufb":
        return torch.from_numpy(np.array(part))
    if not isinstance(part, Tensor | None):
        raise BpttError(f"{name} is {shown(part)}; expected a tensor")
    return part


def _count(iterable: Iterable[Any]) -> int | None:
    """Return how many batches an iterable says that it has, if it does."""
    try:
        return len(iterable) if isinstance(iterable, Sized) else None
    except TypeError:  # such as of a DataLoader of a dataset that is only gone through
        return None


def _parts(batch: Batch) -> dict[str, Tensor]:
    parts = {name: getattr(batch, name) for name in NAMES}
    return {name: part for name, part in parts.items() if part is not None}


def _kinds(batch: Batch) -> dict[str, tuple[object, ...]]:
    """Return of what kind a batch is, but for T and B."""
    return {name: (part.dtype, part.shape[2:]) for name, part in _parts(batch).items()}


def _words(batch: Batch) -> str:
    return " and ".join(f"{name}, {shown(part)}" for name, part in _parts(batch).items())
