"""Many sequences, each by itself: from a .npz file, or from arrays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from bptt.data.batches import Dataset, Padded
from bptt.data.scaling import Scaling
from bptt.data.sequences.archive import read_arrays
from bptt.data.sequences.padded_units import measure_padded, require_size, standard_padded
from bptt.data.sequences.validation_arrays import NAME_END, parts_of
from bptt.data.spool import spool
from bptt.errors import BpttError, require_kind, require_path, shown
from bptt.model.encodings import Encoding
from bptt.model.likelihoods.bernoulli import Bernoulli
from bptt.model.likelihoods.categorical import Categorical
from bptt.model.likelihoods.gaussian import Gaussian
from bptt.model.likelihoods.likelihood import Likelihood

VALIDATION_SHARE = 0.1
ROWS_AT_ONCE = 1 << 12
PADDING_HINT = "pad y to the longest sequence, (T, N, ...), and save lengths, (N,), with it"


@dataclass(frozen=True, eq=False)
class Collection(Dataset):
    """N sequences, padded: y (T, N) of whole numbers for symbols, or (T, N, d) of numbers or bits.

    x: (T, N, features), or None. lengths: (N,). loss_weights: (T, N), by which each step's loss is
    multiplied; a sequence without any above 0 is left out. validation: other sequences to validate
    on; without them the last tenth is.

    >>> ragged = Collection.of([np.array([0, 1, 2]), np.array([3, 0])])
    >>> ragged.y.T.tolist(), ragged.lengths.tolist(), ragged.likelihood
    ([[0, 1, 2], [3, 0, 0]], [3, 2], Categorical(4))
    """

    y: Shaped[np.ndarray, "T N *y"]
    x: Shaped[np.ndarray, "T N *x"] | None
    lengths: Int[np.ndarray, " N"]
    symbols: int | None
    loss_weights: Float[np.ndarray, "T N"] | None = None
    validation: Collection | None = None
    path: Path | None = None
    sha256: str = ""
    y_scaling: Scaling | None = None  # of standard units, if y is in them
    x_scaling: Scaling | None = None

    unit = "step"
    default_batch = 32
    whole = True

    @classmethod
    def of(
        cls,
        y: Sequence[np.ndarray],
        x: Sequence[np.ndarray] | None = None,
        *,
        loss_weights: Sequence[np.ndarray] | None = None,
        validation: Mapping[str, Sequence[np.ndarray]] | None = None,
        standardise: bool | None = None,
    ) -> Collection:
        """Return a collection of arrays of different lengths, each (T,) or (T, d).

        loss_weights: by which each step's loss is multiplied, each (T,); by default 1.
        validation: y, and x and loss_weights if these have them, by name: to validate on, in place
        of the last tenth.
        standardise: whether numbers are put in standard units, as those of tables are; `restore`
        goes back. By default they are taken as they are, and refused where a network could not
        learn from numbers of their size.
        """
        require_kind("standardise", standardise, (bool, NoneType), "True, False or None")
        arrays = _arrays_of(y, x, loss_weights)
        if validation is not None:
            _require_parts(validation)
            arrays |= _arrays_of(
                validation["y"], validation.get("x"), validation.get("loss_weights"), NAME_END
            )
        return _in_units("the collection", _collected("the collection", arrays), standardise)

    def restore(self, standard: np.ndarray) -> np.ndarray:
        """Return values of y (..., d), such as a forecast, in the units in which y was given."""
        return standard if self.y_scaling is None else self.y_scaling.original(standard)

    @property
    def source(self) -> str:  # type: ignore[override]
        """What to call it."""
        return "the collection" if self.path is None else str(self.path)

    @property
    def likelihood(self) -> Likelihood:
        """Symbols for whole numbers (T, N), bits for (T, N, d) of 0 and 1, else numbers."""
        if self.symbols is not None:
            return Categorical(self.symbols)
        d = self.y.shape[2]
        return Bernoulli(d) if self.y.dtype.kind in "iub" else Gaussian(d)

    @property
    def inputs(self) -> int | Encoding:
        """How many features x has."""
        return 0 if self.x is None else int(self.x.shape[2])

    @property
    def cut(self) -> int:
        """Which sequence is the first of the last tenth; beyond all, where that is trained on."""
        N = len(self.lengths)
        return N if self.validation is not None else N - max(1, int(N * VALIDATION_SHARE))

    @cached_property
    def counts(self) -> Bool[np.ndarray, " N"]:
        """Which sequences have a loss."""
        N = len(self.lengths)
        if self.loss_weights is None:
            return np.ones(N, np.bool_)
        counts = np.zeros(N, np.bool_)
        for block in _blocks_of(self.loss_weights):
            counts |= block.any(0)
        return counts

    def training_batches(self, batch: int, steps: int | None, seed: int) -> Padded:
        """Return whole sequences, in another order each epoch."""
        return self._batches(slice(self.cut), batch, seed)

    def validation_batches(self, batch: int) -> Padded:
        """Return the sequences to validate on."""
        if self.validation is not None:
            return self.validation._batches(slice(None), batch)
        return self._batches(slice(self.cut, None), batch)

    def _batches(self, part: slice, batch: int, seed: int | None = None) -> Padded:
        chosen = np.arange(len(self.lengths))[part]
        chosen = chosen[self.counts[part]]
        weights = self.loss_weights
        return Padded(self.y, self.x, self.lengths, chosen, batch, seed=seed, loss_weights=weights)

    def config(self) -> dict[str, Any]:
        """Return where the file is and what it was."""
        path = None if self.path is None else str(self.path.resolve())
        return {
            "kind": "sequences",
            "path": path,
            "sha256": self.sha256,
            "symbols": self.symbols,
            "standardise": (self.y_scaling or self.x_scaling) is not None,
        }


def read_collection(
    path: str | Path, symbols: int | None = None, *, standardise: bool | None = None
) -> Collection:
    """Read a .npz file with y and, if there are any, x and lengths; without loading it whole.

    loss_weights, (T, N), multiply each step's loss. y_validation, and of what else there is of y as
    well, such as x_validation, are to validate on; without them the last tenth of the sequences is.
    symbols: how many there are, for whole numbers; by default one more than the largest.
    standardise: as in `Collection.of`.
    """
    require_path("the collection", path)
    path = Path(path)
    names = ("y", "x", "lengths", "loss_weights")
    sha256, arrays = read_arrays(path, (*names, *(name + NAME_END for name in names)))
    collection = replace(_collected(str(path), arrays, symbols), path=path, sha256=sha256)
    return _in_units(str(path), collection, standardise)


def _in_units(source: str, collection: Collection, standardise: bool | None) -> Collection:
    """Return the collection in standard units, if asked; else raise BpttError if they are needed.

    They are those of the training part; the other part is in them too.
    """
    c = collection
    is_numbers = c.y.ndim == 3 and c.y.dtype.kind == "f"
    if not is_numbers and c.x is None and standardise:
        raise BpttError(
            f"y in {source} holds {'symbols' if c.y.ndim == 2 else 'bits'}; standardise "
            "(--standardise) is for numbers: leave it out"
        )
    y_scaling = measure_padded(c.y, c.lengths[: c.cut]) if is_numbers else None
    x_scaling = None if c.x is None else measure_padded(c.x, c.lengths[: c.cut])
    if not standardise:
        if standardise is None:
            require_size(source, {"y": y_scaling, "x": x_scaling})
        return c
    validation = None if c.validation is None else _in_these(c.validation, y_scaling, x_scaling)
    return replace(_in_these(c, y_scaling, x_scaling), validation=validation)


def _in_these(c: Collection, y_scaling: Scaling | None, x_scaling: Scaling | None) -> Collection:
    """Return a collection in units that were measured."""
    y = c.y if y_scaling is None else standard_padded(c.y, c.lengths, y_scaling)
    x = None if c.x is None or x_scaling is None else standard_padded(c.x, c.lengths, x_scaling)
    return replace(c, y=y, x=x, y_scaling=y_scaling, x_scaling=x_scaling)


def _collected(
    source: str, arrays: dict[str, np.ndarray], symbols: int | None = None
) -> Collection:
    """Return the collection of arrays, by their names in a file, or raise BpttError."""
    training, validation = parts_of(source, arrays, "y")
    whole = _checked(source, training, symbols)
    if validation:
        part = _checked(source, validation, symbols, NAME_END)
        _require_alike(source, whole, part)
        if whole.symbols is not None and part.symbols is not None:
            symbols = max(whole.symbols, part.symbols)
            whole, part = replace(whole, symbols=symbols), replace(part, symbols=symbols)
        whole = replace(whole, validation=part)
    elif len(whole.lengths) < 2:
        raise BpttError(
            f"{source} has one sequence; expected at least 2, one of them to validate, or "
            "y_validation"
        )
    _require_weight(source, "to train on", whole.counts[: whole.cut])
    held = whole.counts[whole.cut :] if whole.validation is None else whole.validation.counts
    _require_weight(source, "to validate on", held)
    return whole


def _require_weight(source: str, purpose: str, counts: Bool[np.ndarray, " N"]) -> None:
    if not counts.any():
        raise BpttError(
            f"the loss_weights in {source} are all 0 for the sequences {purpose}; expected one "
            "above 0, within a sequence's length"
        )


def _require_alike(source: str, training: Collection, validation: Collection) -> None:
    """Raise BpttError unless both parts are for the same network."""

    def kind(c: Collection) -> tuple[Any, ...]:
        x = None if c.x is None else c.x.shape[2:]
        return type(c.likelihood), c.y.shape[2:], x

    if kind(training) != kind(validation):
        raise BpttError(
            f"{source} has for training {_words(training)}, and for validation "
            f"{_words(validation)}; expected the same"
        )


def _words(c: Collection) -> str:
    x = "" if c.x is None else f" and x of {c.x.shape[2]} features"
    kind = "symbols" if c.symbols is not None else f"{c.likelihood}"
    return f"y of {kind}{x}"


def _checked(
    source: str, arrays: dict[str, np.ndarray], symbols: int | None, ending: str = ""
) -> Collection:
    """Return one part, or raise BpttError unless its arrays go together.

    ending: of the names of the arrays, in what is complained of.
    """
    y, x, weights = (arrays.get(name) for name in ("y", "x", "loss_weights"))
    assert y is not None
    name_y, name_x = f"y{ending}", f"x{ending}"
    if y.ndim not in (2, 3) or 0 in y.shape:
        raise BpttError(
            f"{name_y} in {source} has shape {y.shape}; expected (T, N) for symbols or (T, N, d), "
            "with at least one step and one sequence"
        )
    T, N = y.shape[:2]
    if x is not None and (x.ndim != 3 or x.shape[:2] != (T, N)):
        raise BpttError(
            f"{name_x} in {source} has shape {x.shape}; expected (T, N, features), ({T}, {N}, …)"
        )
    lengths = arrays.get("lengths", np.full(N, T))
    is_whole = lengths.dtype.kind in "iu" and lengths.shape == (N,)
    if not is_whole or lengths.min() < 1 or lengths.max() > T:
        raise BpttError(
            f"lengths{ending} in {source} are not {N} whole numbers from 1 to {T}; {PADDING_HINT}"
        )
    if y.ndim == 2:
        symbols = _count_symbols(source, name_y, y, symbols)
    elif y.dtype.kind in "iub":
        _require_bits(source, name_y, y)
    else:
        _require_numbers(source, name_y, y, lengths)
    if x is not None:
        _require_numbers(source, name_x, x, lengths)
    if weights is not None:
        weights = _weights_of(source, f"loss_weights{ending}", weights, lengths, T)
    lengths = np.array(lengths, dtype=np.int64)
    return Collection(y, x, lengths, symbols if y.ndim == 2 else None, weights)


def _weights_of(
    source: str, name: str, weights: np.ndarray, lengths: np.ndarray, T: int
) -> Float[np.ndarray, "T N"]:
    """Return weights as float32, 0 beyond each sequence's end, or raise BpttError."""
    N = len(lengths)
    if weights.shape != (T, N) or weights.dtype.kind not in "fiub":
        raise BpttError(
            f"{name} in {source} are {shown(weights)}; expected numbers of shape (T, N), ({T}, {N})"
        )

    def blocks() -> Iterator[np.ndarray]:
        start = 0
        for rows in _blocks_of(weights):
            within = np.arange(start, start + len(rows))[:, None] < lengths
            with np.errstate(over="ignore"):
                block = np.where(within, rows, 0).astype(np.float32)
            wrong = ~(np.isfinite(block) & (block >= 0))
            if wrong.any():
                t, i = (int(at[0]) for at in np.nonzero(wrong))
                raise BpttError(
                    f"{name} in {source} is {rows[t, i]} at step {start + t} of sequence {i}; "
                    "expected finite numbers from 0"
                )
            start += len(rows)
            yield block

    return spool(blocks())


def _blocks_of(values: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(values), ROWS_AT_ONCE):
        yield np.asarray(values[start : start + ROWS_AT_ONCE])


def _count_symbols(source: str, name: str, y: np.ndarray, symbols: int | None) -> int:
    if y.dtype.kind not in "iu":
        raise BpttError(
            f"{name} in {source} is (T, N) of {y.dtype}; expected whole numbers for symbols, "
            "or (T, N, 1) for a series of numbers"
        )
    if y.min() < 0 or (symbols is not None and y.max() >= symbols):
        raise BpttError(
            f"{name} in {source} has symbols from {y.min()} to {y.max()}; "
            f"expected 0 to {'n' if symbols is None else symbols} − 1"
        )
    return int(y.max()) + 1 if symbols is None else symbols


def _require_bits(source: str, name: str, y: np.ndarray) -> None:
    if y.dtype != np.bool_ and (y.min() < 0 or y.max() > 1):
        raise BpttError(
            f"{name} in {source} is (T, N, d) of whole numbers from {y.min()} to {y.max()}; "
            "expected bits, 0 and 1, or convert them to numbers: y.astype('float32')"
        )


def _require_numbers(source: str, name: str, values: np.ndarray, lengths: np.ndarray) -> None:
    """Raise BpttError unless all numbers within their sequences are finite."""
    if values.dtype.kind not in "fiub":
        raise BpttError(f"{name} in {source} holds {values.dtype}; expected numbers")
    for start in range(0, len(values), ROWS_AT_ONCE):
        rows = np.asarray(values[start : start + ROWS_AT_ONCE])
        within = np.arange(start, start + len(rows))[:, None] < lengths
        wrong = ~np.isfinite(rows) & within[..., None]
        if wrong.any():
            t, i, k = (int(at[0]) for at in np.nonzero(wrong))
            raise BpttError(
                f"{name} in {source} is {rows[t, i, k]} at step {start + t} of sequence {i}, "
                f"feature {k}; expected finite numbers: mend it, or leave the sequence out"
            )


def require_arrays(name: str, several: object) -> None:
    """Raise BpttError unless these are sequences: arrays of numbers, each (T,) or (T, d)."""
    is_array = isinstance(several, np.ndarray) and several.ndim > 1
    if not isinstance(several, list | tuple) and not is_array:
        raise BpttError(f"{name} is {shown(several)}; expected a list of arrays, (T,) or (T, d)")
    assert isinstance(several, list | tuple | np.ndarray)
    for i, one in enumerate(several):
        try:
            array = np.asarray(one)
        except (ValueError, TypeError, RuntimeError):
            array = np.asarray(None)
        if array.ndim not in (1, 2) or array.dtype.kind not in "iufb":
            raise BpttError(
                f"{name}[{i}] is {shown(one)}; expected an array of real numbers, (T,) or (T, d)"
            )


def _arrays_of(y: Any, x: Any, loss_weights: Any, ending: str = "") -> dict[str, np.ndarray]:
    """Return lists of arrays padded, and their lengths, by the names that they have in a file."""
    several = {"y": y, "x": x, "loss_weights": loss_weights}
    for name, arrays in several.items():
        if name == "y" or arrays is not None:
            require_arrays(f"{name}{ending}", arrays)
    lengths = [len(one) for one in y]
    if x is not None and [len(one) for one in x] != lengths:
        raise BpttError(
            f"x{ending} and y{ending} have different lengths; expected one x for each step of each "
            "y"
        )
    if loss_weights is not None and [np.shape(one) for one in loss_weights] != [
        (length,) for length in lengths
    ]:
        raise BpttError(
            f"loss_weights{ending} and y{ending} have different lengths; expected one number for "
            "each step of each y"
        )
    arrays = {name: _padded(each) for name, each in several.items() if each is not None}
    arrays["lengths"] = np.array(lengths, dtype=np.int64)
    return {f"{name}{ending}": each for name, each in arrays.items()}


def _require_parts(validation: object) -> None:
    """Raise BpttError unless a validation part is y, and perhaps x and loss_weights, by name."""
    names = set(validation) if isinstance(validation, Mapping) else set()
    if "y" not in names or not names <= {"y", "x", "loss_weights"}:
        raise BpttError(
            f"validation is {shown(validation)}; expected a dict of y, and x and loss_weights if "
            'the others have them: {"y": [...]}'
        )


def _padded(arrays: Sequence[np.ndarray]) -> np.ndarray:
    if not len(arrays) or len({np.asarray(one).shape[1:] for one in arrays}) > 1:
        raise BpttError("the sequences have different shapes beyond time; expected (T,) or (T, d)")
    T = max(len(one) for one in arrays)
    arrays = [np.asarray(one) for one in arrays]
    dtype = np.result_type(*{one.dtype for one in arrays if len(one)} or {arrays[0].dtype})
    padded = np.zeros((T, len(arrays), *arrays[0].shape[1:]), dtype)
    for i, one in enumerate(arrays):
        padded[: len(one), i] = one
    return padded
