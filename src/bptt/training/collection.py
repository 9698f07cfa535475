"""Many sequences, each by itself: from a .npz file, or from arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np
from jaxtyping import Int, Shaped

from bptt.errors import BpttError, require_kind, require_path, shown
from bptt.model.encodings import Encoding
from bptt.model.likelihoods.bernoulli import Bernoulli
from bptt.model.likelihoods.categorical import Categorical
from bptt.model.likelihoods.gaussian import Gaussian
from bptt.model.likelihoods.likelihood import Likelihood
from bptt.training.archive import read_arrays
from bptt.training.batches import Dataset, Padded
from bptt.training.padded_units import measure_padded, require_size, standard_padded
from bptt.training.scaling import Scaling

VALIDATION_SHARE = 0.1
ROWS_AT_ONCE = 1 << 12
PADDING_HINT = "pad y to the longest sequence, (T, N, ...), and save lengths, (N,), with it"


@dataclass(frozen=True, eq=False)
class Collection(Dataset):
    """N sequences, padded: y (T, N) of whole numbers for symbols, or (T, N, d) of numbers or bits.

    x: (T, N, features), or None. lengths: (N,). The last tenth of the sequences is for validation.

    >>> ragged = Collection.of([np.array([0, 1, 2]), np.array([3, 0])])
    >>> ragged.y.T.tolist(), ragged.lengths.tolist(), ragged.likelihood
    ([[0, 1, 2], [3, 0, 0]], [3, 2], Categorical(4))
    """

    y: Shaped[np.ndarray, "T N *y"]
    x: Shaped[np.ndarray, "T N *x"] | None
    lengths: Int[np.ndarray, " N"]
    symbols: int | None
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
        standardise: bool | None = None,
    ) -> Collection:
        """Return a collection of arrays of different lengths, each (T,) or (T, d).

        standardise: whether numbers are put in standard units, as those of tables are; `restore`
        goes back. By default they are taken as they are, and refused where a network could not
        learn from numbers of their size.
        """
        for name, several in (("y", y), ("x", x)):
            if name == "y" or several is not None:
                require_arrays(name, several)
        require_kind("standardise", standardise, (bool, NoneType), "True, False or None")
        if x is not None and [len(one) for one in x] != [len(one) for one in y]:
            raise BpttError(
                "x and y have different lengths; expected one x for each step of each y"
            )
        lengths = np.array([len(one) for one in y], dtype=np.int64)
        collection = _checked("the collection", _padded(y), _maybe_padded(x), lengths)
        return _in_units("the collection", collection, standardise)

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
        """Which sequence is the first of the validation part."""
        return len(self.lengths) - max(1, int(len(self.lengths) * VALIDATION_SHARE))

    def training_batches(self, batch: int, steps: int | None, seed: int) -> Padded:
        """Return whole sequences, in another order each epoch."""
        return Padded(self.y, self.x, self.lengths, range(self.cut), batch, seed=seed)

    def validation_batches(self, batch: int) -> Padded:
        """Return the last tenth of the sequences."""
        rest = range(self.cut, len(self.lengths))
        return Padded(self.y, self.x, self.lengths, rest, batch)

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

    symbols: how many there are, for whole numbers; by default one more than the largest.
    standardise: as in `Collection.of`.
    """
    require_path("the collection", path)
    path = Path(path)
    sha256, arrays = read_arrays(path, ("y", "x", "lengths"))
    y = arrays["y"]
    lengths = arrays.get("lengths")
    if lengths is None:
        lengths = np.full(y.shape[1:2], len(y)) if y.ndim > 1 else np.empty(0, np.int64)
    collection = _checked(str(path), y, arrays.get("x"), lengths, symbols)
    collection = replace(collection, path=path, sha256=sha256)
    return _in_units(str(path), collection, standardise)


def _in_units(source: str, collection: Collection, standardise: bool | None) -> Collection:
    """Return the collection in standard units, if asked; else raise BpttError if they are needed.

    They are those of the training part.
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
    y = c.y if y_scaling is None else standard_padded(c.y, c.lengths, y_scaling)
    x = None if c.x is None or x_scaling is None else standard_padded(c.x, c.lengths, x_scaling)
    return replace(c, y=y, x=x, y_scaling=y_scaling, x_scaling=x_scaling)


def _checked(
    source: str,
    y: np.ndarray,
    x: np.ndarray | None,
    lengths: np.ndarray,
    symbols: int | None = None,
) -> Collection:
    """Return the collection, or raise BpttError unless its arrays go together."""
    if y.ndim not in (2, 3) or 0 in y.shape:
        raise BpttError(
            f"y in {source} has shape {y.shape}; expected (T, N) for symbols or (T, N, d), "
            "with at least one step and one sequence"
        )
    T, N = y.shape[:2]
    if N < 2:
        raise BpttError(f"{source} has one sequence; expected at least 2, one of them to validate")
    if x is not None and (x.ndim != 3 or x.shape[:2] != (T, N)):
        raise BpttError(
            f"x in {source} has shape {x.shape}; expected (T, N, features), ({T}, {N}, …)"
        )
    is_whole = lengths.dtype.kind in "iu" and lengths.shape == (N,)
    if not is_whole or lengths.min() < 1 or lengths.max() > T:
        raise BpttError(
            f"lengths in {source} are not {N} whole numbers from 1 to {T}; {PADDING_HINT}"
        )
    if y.ndim == 2:
        symbols = _count_symbols(source, y, symbols)
    elif y.dtype.kind in "iub":
        _require_bits(source, y)
    else:
        _require_numbers(source, "y", y, lengths)
    if x is not None:
        _require_numbers(source, "x", x, lengths)
    return Collection(y, x, np.array(lengths, dtype=np.int64), symbols)


def _count_symbols(source: str, y: np.ndarray, symbols: int | None) -> int:
    if y.dtype.kind not in "iu":
        raise BpttError(
            f"y in {source} is (T, N) of {y.dtype}; expected whole numbers for symbols, "
            "or (T, N, 1) for a series of numbers"
        )
    if y.min() < 0 or (symbols is not None and y.max() >= symbols):
        raise BpttError(
            f"y in {source} has symbols from {y.min()} to {y.max()}; "
            f"expected 0 to {'n' if symbols is None else symbols} − 1"
        )
    return int(y.max()) + 1 if symbols is None else symbols


def _require_bits(source: str, y: np.ndarray) -> None:
    if y.dtype != np.bool_ and (y.min() < 0 or y.max() > 1):
        raise BpttError(
            f"y in {source} is (T, N, d) of whole numbers from {y.min()} to {y.max()}; expected "
            "bits, 0 and 1, or convert them to numbers: y.astype('float32')"
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


def _maybe_padded(arrays: Sequence[np.ndarray] | None) -> np.ndarray | None:
    return None if arrays is None else _padded(arrays)
