"""What there is to learn from, in the pieces in which training reads it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from bptt.data.criterion import Criterion
from bptt.errors import BpttError
from bptt.model.encodings import Encoding, as_encoding
from bptt.model.likelihoods.likelihood import Likelihood
from bptt.model.network import Network


class Batch(NamedTuple):
    """A few steps of a few sequences, time first.

    lengths: where sequences end, if not all at T. is_start: whether they start from a fresh state,
    or go on from that of the batch before. unscored: how many of the first steps are only read.
    loss_weights: of each step's loss; None where all are 1. resets: before which steps a
    sequence's state is zeroed. is_shared: whether every rank has the same batch, and takes its
    columns; else each has its own.
    """

    y: Shaped[Tensor, "T B *y"]
    x: Shaped[Tensor, "T B *x"] | None
    lengths: Int[Tensor, " B"] | None
    is_start: bool
    unscored: int = 0
    loss_weights: Float[Tensor, "T B"] | None = None
    resets: Bool[Tensor, "T B"] | None = None
    is_shared: bool = True

    @property
    def B(self) -> int:
        """How many sequences there are."""
        return int(self.y.shape[1])

    def columns(self, which: slice) -> Batch:
        """Return some of the sequences."""
        wide = {name: getattr(self, name) for name in ("y", "x", "loss_weights", "resets")}
        parts = {name: t[:, which].contiguous() for name, t in wide.items() if t is not None}
        lengths = None if self.lengths is None else self.lengths[which]
        return self._replace(lengths=lengths, **parts)

    def total_weight(self) -> float:
        """Return Σ w over the steps up to each sequence's end."""
        weights, lengths = self.weights, self.lengths
        if weights is None:
            return float(self.y.shape[:2].numel() if lengths is None else lengths.sum())
        if lengths is not None:
            alive = torch.arange(len(weights)).unsqueeze(1) < lengths.to(weights.device)
            weights = weights * alive
        return float(weights.sum(dtype=torch.float64))

    def of(self, net: nn.Module) -> Batch:
        """Return the same on a network's device, and its real numbers in the network's dtype.

        Whole numbers are as torch's modules take them; a Network takes them of any kind.
        """
        like = next((p for p in net.parameters() if p.is_floating_point()), torch.empty(()))
        whole = None if isinstance(net, Network) else torch.int64
        return self._replace(y=_like(self.y, like, whole), x=_like(self.x, like, whole))

    @property
    def weights(self) -> Float[Tensor, "T B"] | None:
        """The losses' weights, 0 where a step is only read; None where all are 1."""
        if self.unscored == 0:
            return self.loss_weights
        weights = torch.ones(self.y.shape[:2]) if self.loss_weights is None else self.loss_weights
        weights = weights.clone()
        weights[: self.unscored] = 0
        return weights


def _like(values: Any, like: Tensor, whole: torch.dtype | None) -> Any:
    if values is None:
        return None
    if values.is_floating_point():
        return values.to(like.device, like.dtype)
    is_number = values.dtype is not torch.bool
    return values.to(like.device, whole if whole is not None and is_number else values.dtype)


class Batches(ABC):
    """The batches of an epoch.

    steps: how many yᵗ they have, over all sequences. longest: how long a sequence is, at most.
    Neither is known of a loader. is_sized: whether there is a number of them. carries: whether some
    go on from the state of the batch before.
    """

    steps: int | None
    longest: int | None
    is_sized: bool = True
    carries: bool = False

    @abstractmethod
    def __len__(self) -> int:
        """How many batches an epoch has."""

    @abstractmethod
    def get(self, epoch: int, index: int) -> Batch:
        """Return a batch of an epoch."""

    def at(self, number: int) -> Batch:
        """Return a batch by its number over all epochs."""
        return self.get(*divmod(number, len(self)))

    def first_epoch(self) -> Iterator[Batch]:
        """Yield the batches of the first epoch."""
        for index in range(len(self)):
            yield self.get(0, index)


class Data(ABC):
    """What `fit` trains on: a text, a table, a collection of sequences, or a user's batches.

    source: what to call it. unit: what a step is called. default_batch: sequences side by side.
    sha256: of the file. least_updates: how many there are at least, unless told. default_window:
    how many steps the gradient reaches back, unless told; None for all. about: what else there is
    to know before training on it, in sentences. criterion: what is measured of a network besides
    its loss, and is_best_by_score: whether that says which weights are the best. whole: whether an
    update takes sequences from start to end, and not part by part.
    """

    source: str
    unit: str
    sha256: str
    default_batch: int
    least_updates: int = 1000
    criterion: Criterion | None = None
    is_best_by_score: bool = False
    default_window: int | None = 100
    about: tuple[str, ...] = ()
    whole: bool = False

    def score(self, net: Network) -> float | None:
        """Return what the criterion measures of a network, if there is one."""
        return None

    @abstractmethod
    def training_batches(self, batch: int, steps: int | None, seed: int) -> Batches:
        """Return what to train on; steps: of each sequence at a time, None for all."""

    @abstractmethod
    def validation_batches(self, batch: int) -> Batches | None:
        """Return what to validate on, if there is anything."""

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Return what it takes to read the data again, as plain values."""


class Dataset(Data):
    """Data that says what its y and x are, so that a network can be made for it."""

    @property
    @abstractmethod
    def likelihood(self) -> Likelihood:
        """A fresh likelihood of the kind that its y calls for."""

    @property
    @abstractmethod
    def inputs(self) -> int | Encoding:
        """What its x is: 0 for none."""

    @abstractmethod
    def validation_batches(self, batch: int) -> Batches:
        """Return what to validate on."""

    def require_size(self, batch: int, window: int | None) -> None:
        """Raise BpttError unless there is enough of it."""

    def require_network(self, net: Network) -> None:
        """Raise BpttError unless a network can be trained on this."""
        if net.likelihood.encoding != self.likelihood.encoding:
            raise BpttError(
                f"the network's likelihood is {net.likelihood}; expected {self.likelihood}, for "
                f"the values in {self.source}"
            )
        is_previous_y = self.inputs == 0 and net.x_can_be_previous_y
        if net.inputs != as_encoding(self.inputs) and not is_previous_y:
            raise BpttError(
                f"the network expects x, {net.inputs}; {self.source} has {as_encoding(self.inputs)}"
            )


class Streams(Batches):
    """A series cut into streams that run side by side, with the state carried from part to part.

    warm_up: how many of the first steps are only read.
    """

    steps: int
    longest: int
    carries = True

    def __init__(
        self,
        y: Tensor | np.ndarray,
        x: np.ndarray | None,
        batch: int,
        steps: int | None,
        warm_up: int = 0,
    ) -> None:
        batch = min(batch, len(y))
        self.y, self.x = streams(y, batch), None if x is None else streams(x, batch)
        self.warm_up = warm_up
        self.steps, self.longest = (len(self.y) - warm_up) * batch, len(self.y)
        self.count = math.ceil(len(self.y) / (steps or len(self.y)))

    def __len__(self) -> int:
        """How many parts there are, of about equal length."""
        return self.count

    def get(self, epoch: int, index: int) -> Batch:
        """Return a part; every epoch is the same."""
        start, stop = (len(self.y) * i // self.count for i in (index, index + 1))
        x = None if self.x is None else as_tensor(self.x[start:stop])
        unscored = min(max(0, self.warm_up - start), stop - start)
        return Batch(as_tensor(self.y[start:stop]), x, None, index == 0, unscored)


class Bucketed(Batches):
    """Whole sequences, side by side with others of about the same length.

    lengths: of all sequences. chosen: the numbers of those to be used. seed: of the order, another
    in each epoch; None for the order of their lengths.
    """

    steps: int
    longest: int

    def __init__(
        self,
        lengths: Int[np.ndarray, " N"],
        chosen: Sequence[int] | np.ndarray,
        batch: int,
        seed: int | None = None,
    ) -> None:
        self.lengths, self.chosen = lengths, np.asarray(chosen)
        self.batch, self.seed = min(batch, len(self.chosen)), seed
        self.steps, self.longest = (int(f(lengths[self.chosen])) for f in (np.sum, np.max))
        self.epoch, self.order = -1, list[np.ndarray]()

    def __len__(self) -> int:
        """How many batches there are; the last may have fewer sequences."""
        return math.ceil(len(self.chosen) / self.batch)

    def rows_of(self, epoch: int, index: int) -> np.ndarray:
        """Return which sequences make a batch of an epoch."""
        if epoch != self.epoch:
            self.epoch, self.order = epoch, self._order(epoch)
        return np.sort(self.order[index])

    def _order(self, epoch: int) -> list[np.ndarray]:
        """Return which sequences make each batch of an epoch."""
        mixed, order = self.chosen, np.arange(len(self))
        if self.seed is not None:
            random = np.random.default_rng((self.seed, epoch))
            mixed, order = random.permutation(mixed), random.permutation(order)
        by_length = mixed[np.argsort(self.lengths[mixed], kind="stable")]
        buckets = np.split(by_length, range(self.batch, len(by_length), self.batch))
        return [buckets[i] for i in order]


class Padded(Bucketed):
    """Sequences that are padded to the longest already, numbered along axis 1 of y and x.

    loss_weights: (T, N), of each step's loss.
    """

    def __init__(
        self,
        y: np.ndarray,
        x: np.ndarray | None,
        lengths: Int[np.ndarray, " N"],
        chosen: Sequence[int] | np.ndarray,
        batch: int,
        *,
        seed: int | None = None,
        loss_weights: Float[np.ndarray, "T N"] | None = None,
    ) -> None:
        super().__init__(lengths, chosen, batch, seed)
        self.y, self.x, self.loss_weights = y, x, loss_weights

    def get(self, epoch: int, index: int) -> Batch:
        """Return a batch; with a seed every epoch has its own, in its own order."""
        rows = self.rows_of(epoch, index)
        lengths = self.lengths[rows]
        T = max(1, int(lengths.max()))
        y = as_tensor(self.y[:T, rows])
        x = None if self.x is None else as_tensor(self.x[:T, rows]).float()
        weights = None if self.loss_weights is None else as_tensor(self.loss_weights[:T, rows])
        n = torch.from_numpy(lengths.copy()) if int(lengths.min()) < T else None
        return Batch(y, x, n, is_start=True, loss_weights=weights)


def streams(
    series: Shaped[Tensor | np.ndarray, " N *y"], batch: int
) -> Shaped[Tensor | np.ndarray, "L B *y"]:
    """Cut a series into `batch` equal parts that run side by side; up to batch − 1 steps stay out.

    >>> streams(torch.arange(7), 2)
    tensor([[0, 3],
            [1, 4],
            [2, 5]])
    """
    length = len(series) // batch
    return series[: length * batch].reshape(batch, length, *series.shape[1:]).swapaxes(0, 1)


def as_tensor(rows: Tensor | np.ndarray) -> Tensor:
    """Return the rows as a tensor of their own, numbers as float32."""
    if isinstance(rows, Tensor):
        return rows
    dtype = {"f": np.float32, "b": np.bool_}.get(rows.dtype.kind, np.int64)
    return torch.from_numpy(np.array(rows, dtype))
