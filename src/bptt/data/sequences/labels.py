"""Sequences with a label each, to be told at their end: classes, or numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from bptt.data.batches import Batch, Bucketed, Dataset, as_tensor
from bptt.data.blocks import blocks_of
from bptt.data.criterion import Criterion
from bptt.data.sequences.collection import require_arrays
from bptt.data.sequences.validation_arrays import NAME_END
from bptt.data.spool import spool
from bptt.data.texts.vocabulary import Vocabulary
from bptt.errors import (
    BpttError,
    counted,
    require_several,
    shown,
)
from bptt.model.dropout import every_unit
from bptt.model.encodings import Encoding, Tokens
from bptt.model.likelihoods.categorical import Categorical
from bptt.model.likelihoods.gaussian import Gaussian
from bptt.model.likelihoods.likelihood import Likelihood
from bptt.model.network import Network

HELD_OUT = 0.1
MOST_CLASSES = 10_000


@dataclass(frozen=True, eq=False)
class Labelled(Dataset):
    """N sequences x, and of each a label: which class it is of, or numbers.

    x: tokens, or numbers, of all sequences end to end. lengths: (N,). labels: (N,) whole numbers,
    or (N, d) real ones. held_out: (N,), which are to validate on: those that were given for it, or
    a tenth, of which none is trained on as well. classes: their names. symbols: how many tokens
    there are. vocabulary: of texts.

    >>> drifts = [np.cumsum(np.full((9, 1), step), 0) for step in (-1.0, 1.0) * 10]
    >>> data = Labelled.of(drifts, ["down", "up"] * 10)
    >>> data.likelihood, data.inputs, data.classes
    (Categorical(2), 1, ('down', 'up'))
    """

    x: Shaped[np.ndarray, " M *x"]
    lengths: Int[np.ndarray, " N"]
    labels: Shaped[np.ndarray, " N *y"]
    held_out: Bool[np.ndarray, " N"]
    classes: tuple[str, ...]
    symbols: int = 0
    path: Path | None = None
    sha256: str = ""
    vocabulary: Vocabulary | None = None

    unit = "label"
    default_batch = 32
    default_window = None
    whole = True

    @classmethod
    def of(
        cls,
        x: Sequence[np.ndarray],
        labels: Sequence[Any],
        *,
        validation: Mapping[str, Sequence[Any]] | None = None,
    ) -> Labelled:
        """Return sequences with their labels.

        x: arrays of different lengths, each (T,) of whole numbers for tokens, or (T, d) of numbers.
        labels: a text or whole number each, for classes; or real numbers, one or several each.
        validation: x and labels, by name, to validate on, in place of a tenth of the others.
        """
        source = "the labelled sequences"
        sequences, known = _listed(x, labels)
        if validation is None:
            return labelled(source, sequences, known)
        if not isinstance(validation, Mapping) or set(validation) != {"x", "labels"}:
            raise BpttError(
                f"validation is {shown(validation)}; expected a dict of x and labels: "
                '{"x": [...], "labels": [...]}'
            )
        part = _listed(validation["x"], validation["labels"], NAME_END)
        return labelled(source, *with_validation(source, (sequences, known), part))

    @property
    def source(self) -> str:  # type: ignore[override]
        """What to call it."""
        return "the labelled sequences" if self.path is None else str(self.path)

    @property
    def likelihood(self) -> Likelihood:
        """One class, or numbers."""
        return Categorical(len(self.classes)) if self.classes else Gaussian(self.labels.shape[1])

    @property
    def inputs(self) -> int | Encoding:
        """Tokens, or how many features x has."""
        return Tokens(self.symbols) if self.symbols else int(self.x.shape[1])

    @property
    def criterion(self) -> Criterion:  # type: ignore[override]
        """What is measured of the answers, and what the same answer for all would reach."""
        held, trained = self.labels[self.held_out], self.labels[~self.held_out]
        if not self.classes:
            off = np.square(held - trained.mean(0)).mean()
            return Criterion("squared error", 0.0, float(off))
        commonest = np.bincount(trained).argmax()
        return Criterion("wrong", 0.0, float((held != commonest).mean()))

    def training_batches(self, batch: int, steps: int | None, seed: int) -> LabelledBatches:
        """Return the sequences to train on, in another order each epoch."""
        return LabelledBatches(self, np.flatnonzero(~self.held_out), batch, seed)

    def validation_batches(self, batch: int) -> LabelledBatches:
        """Return the sequences that are held out."""
        return LabelledBatches(self, np.flatnonzero(self.held_out), batch)

    def require_network(self, net: Network) -> None:
        """Raise BpttError unless a network can be trained on this."""
        super().require_network(net)
        if net.recurrence != "hidden":
            raise BpttError(
                f'the network\'s recurrence is "{net.recurrence}", by which the label would be fed '
                'back before it is told; expected recurrence "hidden" (--recurrence)'
            )

    @torch.no_grad()
    def answers(self, net: Network) -> tuple[Tensor, Tensor]:
        """Return the mean or likeliest label of each held-out sequence, and the right one."""
        predicted, right = [], []
        with every_unit(net):
            for each in self.validation_batches(self.default_batch).first_epoch():
                batch = each.of(net)
                ends = _ends(batch), torch.arange(batch.y.shape[1])
                outputs = net(batch.y, x=batch.x, lengths=batch.lengths).outputs[ends]
                mean = net.likelihood.mean(outputs)
                predicted.append(mean.argmax(-1) if self.classes else mean)
                right.append(batch.y[ends])
        return torch.cat(predicted), torch.cat(right)

    def score(self, net: Network) -> float:
        """Return what the criterion measures of the held-out sequences."""
        predicted, right = self.answers(net)
        if self.classes:
            return float((predicted != right).double().mean())
        return float((predicted - right).double().square().mean())

    def confusion(self, net: Network) -> Int[np.ndarray, "classes classes"]:
        """Return how many held-out sequences of each class (row) are taken for each (column).

        BpttError is raised where labels are numbers.
        """
        if not self.classes:
            raise BpttError(f"the labels of {self.source} are numbers; expected classes")
        predicted, right = self.answers(net)
        K = len(self.classes)
        counts: np.ndarray = (
            torch.bincount(right * K + predicted, minlength=K * K).view(K, K).cpu().numpy()
        )
        return counts

    def config(self) -> dict[str, Any]:
        """Return where it is, what it was and what its tokens and classes are."""
        return {
            "kind": "labelled",
            "path": None if self.path is None else str(self.path.resolve()),
            "sha256": self.sha256,
            **({"tokens": None} if self.vocabulary is None else self.vocabulary.config()),
            "classes": list(self.classes),
            "symbols": self.symbols,
        }


class LabelledBatches(Bucketed):
    """Sequences side by side, with the loss of the label at the last step of each."""

    def __init__(
        self, data: Labelled, chosen: np.ndarray, batch: int, seed: int | None = None
    ) -> None:
        super().__init__(data.lengths, chosen, batch, seed)
        self.data, self.steps = data, len(chosen)
        self.starts = np.concatenate([[0], np.cumsum(data.lengths)])

    def get(self, epoch: int, index: int) -> Batch:
        """Return a batch; with a seed every epoch has its own, in its own order."""
        rows = self.rows_of(epoch, index)
        lengths, data = self.lengths[rows], self.data
        T, B = int(lengths.max()), len(rows)
        x = np.zeros((T, B, *data.x.shape[1:]), data.x.dtype)
        for column, row in enumerate(rows):
            x[: lengths[column], column] = data.x[self.starts[row] : self.starts[row + 1]]
        labels = as_tensor(data.labels[rows])
        weights = torch.zeros(T, B)
        weights[torch.from_numpy(lengths) - 1, torch.arange(B)] = 1
        y = labels.expand(T, *labels.shape).contiguous()
        n = torch.from_numpy(lengths.copy())
        return Batch(y, as_tensor(x), n, is_start=True, loss_weights=weights)


def _listed(x: Any, labels: Any, ending: str = "") -> tuple[list[np.ndarray], list[Any]]:
    """Return sequences and labels as lists, or raise BpttError."""
    require_arrays(f"x{ending}", x)
    if type(labels).__name__ == "ndarray":  # of which mypy holds that it is no Sequence
        labels = np.asarray(labels).tolist()
    wanted = "a list: a text, a whole number or a number each"
    require_several(f"labels{ending}", labels, wanted)
    return [np.asarray(one) for one in x], list(labels)


def with_validation(
    source: str,
    training: tuple[list[np.ndarray], list[Any]],
    validation: tuple[list[np.ndarray], list[Any]],
) -> tuple[list[np.ndarray], list[Any], Bool[np.ndarray, " N"]]:
    """Return the sequences and labels of both parts, and which are held out; or raise BpttError."""
    for name, (x, labels) in (("training", training), ("validation", validation)):
        if not x or len(x) != len(labels):
            raise BpttError(
                f"{source}: for {name} {len(x)} sequences and {len(labels)} labels; expected a "
                "label each, and at least one"
            )
    kinds = [_kind_of(labels) for _, labels in (training, validation)]
    if kinds[0] != kinds[1]:
        raise BpttError(
            f"the labels of {source} are not of one kind for training and validation; expected "
            "classes in both, or numbers, as many of them"
        )
    counts = [len(training[0]), len(validation[0])]
    held_out = np.repeat(np.array([False, True]), counts)
    return training[0] + validation[0], training[1] + validation[1], held_out


def _kind_of(labels: list[Any]) -> tuple[bool, tuple[int, ...]]:
    """Return whether labels are real numbers, and how many each is."""
    try:
        array = np.array(labels)
    except ValueError:
        array = np.array([None])
    return array.dtype.kind == "f", array.shape[1:]


def labelled(
    source: str,
    x: list[np.ndarray],
    labels: Sequence[Any],
    held_out: Bool[np.ndarray, " N"] | None = None,
    classes: list[str] | None = None,
    symbols: int = 0,
) -> Labelled:
    """Return the labelled sequences, or raise BpttError unless all go together."""
    if len(x) < 2 or len(x) != len(labels):
        raise BpttError(
            f"{source}: {len(x)} sequences and {len(labels)} labels; expected a label each, and at "
            "least two sequences, one of them to validate"
        )
    for i, one in enumerate(x):
        is_kind = one.dtype.kind in ("iu" if one.ndim == 1 else "iufb")
        if (
            one.ndim not in (1, 2)
            or len(one) == 0
            or not is_kind
            or one.shape[1:] != x[0].shape[1:]
        ):
            raise BpttError(
                f"x[{i}] of {source} is {shown(one)}; expected (T,) of whole numbers for tokens, "
                "or (T, d) of numbers, all of them alike, and at least one step"
            )
    if held_out is None:
        held_out = are_held_out(one.tobytes() for one in x)
    dtype = np.int64 if x[0].ndim == 1 else np.float32
    flat = spool(np.asarray(one, dtype) for one in x)
    lengths = np.array([len(one) for one in x], dtype=np.int64)
    if flat.ndim == 1:
        symbols = symbols or int(flat.max()) + 1
        if flat.min() < 0 or flat.max() >= symbols:
            raise BpttError(
                f"{source} has tokens from {flat.min()} to {flat.max()}; expected 0 to "
                f"{symbols - 1}"
            )
    elif not all(np.isfinite(block).all() for _, block in blocks_of(flat)):
        raise BpttError(f"{source} has numbers that are not finite; expected finite ones")
    values, names = code_labels(source, labels, classes)
    require_both_parts(source, held_out)
    return Labelled(flat, lengths, values, held_out, names, symbols)


def code_labels(
    source: str, labels: Sequence[Any], classes: Sequence[str] | None
) -> tuple[Shaped[np.ndarray, " N *y"], tuple[str, ...]]:
    """Return labels as numbers, and the names of the classes if they are classes.

    classes: those that a network knows. BpttError is raised unless all are of one kind, and known.
    """
    try:
        array = np.array(labels)
    except ValueError:
        array = np.array(None)
    if array.dtype.kind == "f" and array.ndim in (1, 2):
        with np.errstate(over="ignore"):
            numbers = array.reshape(len(array), -1).astype(np.float32)
        if not np.isfinite(numbers).all():
            raise BpttError(
                f"{source} has labels that are not finite, or too large for float32; expected "
                "finite numbers"
            )
        return numbers, ()
    if array.dtype.kind not in "iuU" or array.ndim != 1:
        raise BpttError(
            f"the labels of {source} are {shown(array)}; expected for each a text or a whole "
            "number, for classes, or real numbers"
        )
    texts = [str(one) for one in array]
    order = sorted(set(texts), key=_by_number)
    known = order if classes is None else classes
    if not 2 <= len(known) <= MOST_CLASSES:
        raise BpttError(
            f"{source} has {counted(len(order), 'class')}, such as {shown(order[0])}; expected "
            f"from 2 to {MOST_CLASSES:,}"
        )
    require_known(source, order, known)
    place = {name: number for number, name in enumerate(known)}
    return np.array([place[name] for name in texts], dtype=np.int64), tuple(known)


def require_known(source: str, names: Iterable[str], known: Sequence[str]) -> None:
    """Raise BpttError if there is a class that a network does not know."""
    if unknown := sorted(set(names) - set(known)):
        raise BpttError(
            f"{source} has a class {shown(unknown[0])}; expected some of those that the network "
            f"knows: {', '.join(known[:8])}{' …' * (len(known) > 8)}"
        )


def _by_number(name: str) -> tuple[bool, int, str]:
    """Return what to sort names by: whole numbers first, by their size."""
    is_number = name.removeprefix("-").isdecimal()
    return not is_number, int(name) if is_number else 0, name


def require_both_parts(source: str, held_out: Bool[np.ndarray, " N"]) -> None:
    """Raise BpttError unless there is something to train on."""
    if held_out.all():
        raise BpttError(f"the sequences of {source} are all the same; expected different ones")


def are_held_out(contents: Iterable[bytes], share: float = HELD_OUT) -> Bool[np.ndarray, " N"]:
    """Return which sequences are held out: a share by their contents, the same wherever they stand.

    Those that are alike are all held out, or none is.
    """
    digests = [hashlib.sha256(content).digest() for content in contents]
    limit = sorted(set(digests))[: max(1, int(len(set(digests)) * share))][-1]
    return np.array([digest <= limit for digest in digests])


def _ends(batch: Batch) -> Tensor:
    """Return the last step of each sequence."""
    assert batch.lengths is not None
    return batch.lengths - 1
