"""Standard units of padded sequences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from bptt.data.scaling import Scaling
from bptt.data.spool import spool
from bptt.errors import BpttError

ROWS = 1 << 12
MOST_SPREADS = 1e3
"""How large numbers may be, in means and spreads, before a network learns nothing from them."""


def measure_padded(values: np.ndarray, lengths: np.ndarray) -> Scaling:
    """Return mean and spread of each feature over the steps of the first sequences.

    values: (T, N, d). lengths: of the sequences to measure, at most N. A constant has spread 1.
    """
    count = len(lengths)
    total, mean = int(lengths.sum()), np.zeros(values.shape[2])
    for rows, within in _blocks(values[:, :count], lengths):
        mean += np.where(within, rows, 0).sum((0, 1)) / total
    square = np.zeros_like(mean)
    for rows, within in _blocks(values[:, :count], lengths):
        square += (np.where(within, rows - mean, 0) ** 2).sum((0, 1)) / total
    scale = np.sqrt(square)
    is_constant = scale <= 4 * np.finfo(float).eps * np.abs(mean)
    return Scaling(tuple(mean.tolist()), tuple(np.where(is_constant, 1, scale).tolist()))


def standard_padded(values: np.ndarray, lengths: np.ndarray, scaling: Scaling) -> np.ndarray:
    """Return the values in standard units, float32, zero beyond each sequence's end."""
    blocks = _blocks(values, lengths)
    return spool(
        np.where(within, scaling.standard(rows), 0).astype(np.float32) for rows, within in blocks
    )


def require_size(source: str, scalings: Mapping[str, Scaling | None]) -> None:
    """Raise BpttError where numbers are so large that a network would learn nothing from them."""
    for name, scaling in scalings.items():
        for k, (mean, scale) in enumerate(zip(*_parts(scaling), strict=True)):
            if max(abs(mean), scale) > MOST_SPREADS:
                raise BpttError(
                    f"feature {k} of {name} in {source} has mean {mean:.4g} and spread "
                    f"{scale:.4g}; expected about 0 and 1: put it in standard units with "
                    "standardise=True (--standardise), or take it as it is with False "
                    "(--no-standardise)"
                )


def _parts(scaling: Scaling | None) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return ((), ()) if scaling is None else (scaling.mean, scaling.scale)


def _blocks(values: np.ndarray, lengths: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (values, within), float64 (rows, N, d) and whether a step is within its sequence."""
    size = max(1, ROWS * 64 // max(1, values.shape[1] * values.shape[2]))
    for start in range(0, len(values), size):
        rows = np.asarray(values[start : start + size], np.float64)
        yield rows, (np.arange(start, start + len(rows))[:, None] < lengths)[..., None]
