"""By which factor a gradient grows, or shrinks, with every step that it goes back in time."""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

SHOWN = 1e-6
"""The growth is read off the lags where the gradient is above this share of the largest so far."""
UNITS, RESAMPLES = 8, 1000


class Growth:
    """The slope of the log norm over lags, within each loss: losses differ in size, and in reach.

    It is read off the lags up to which the typical norm has stayed above SHOWN times its largest.
    typical: (lags,), the geometric mean over the losses. sums: Σ 1, Σ ℓ, Σ ℓ², Σ log, Σ ℓ log over
    the lags of every loss, (5, T, B).
    """

    def __init__(self, T: int, B: int, max_lag: int) -> None:
        self.sums = torch.zeros(5, T, B, dtype=torch.float64)
        self.typical = np.zeros(max_lag + 1)
        self.goes_on = True

    def add(self, lag: int, first: int, norms: Float[Tensor, "J B"]) -> None:
        """Add a lag of the losses from `first` on; 0 counts as none."""
        norms = norms.double().cpu()
        counts = (norms > 0) & norms.isfinite()
        logs = torch.where(counts, norms, 1).log()
        if bool(counts.any()):
            self.typical[lag] = math.exp(float(logs.sum() / counts.sum()))
        enough = self.typical[lag] > SHOWN * self.typical[: lag + 1].max()
        self.goes_on = self.goes_on and bool(enough)
        if not self.goes_on:
            return
        terms = (counts, lag * counts, lag**2 * counts, logs, lag * logs)
        for total, term in zip(self.sums, terms, strict=True):
            total[first:] += term

    def fit(self) -> tuple[float, tuple[float, float]]:
        """Return the growth a step, and its 95% interval, by resampling the sequences.

        Few sequences are cut into stretches of losses, so that there are about UNITS to resample.
        """
        T, B = self.sums.shape[1:]
        n, lag, lag2, log, both = self.sums.numpy()
        known = np.maximum(n, 1)
        along, across = both - lag * log / known, lag2 - lag**2 / known
        stretches = np.array_split(np.arange(T), min(T, max(1, UNITS // B)))
        units = np.stack(
            [(along[stretch].sum(0), across[stretch].sum(0)) for stretch in stretches], 1
        ).reshape(2, -1)
        units = units[:, units[1] > 0]
        if units.shape[1] == 0:
            return math.nan, (math.nan, math.nan)
        growth = math.exp(units[0].sum() / units[1].sum())
        if units.shape[1] == 1:
            return growth, (math.nan, math.nan)
        chosen = np.random.default_rng(0).integers(units.shape[1], size=(RESAMPLES, units.shape[1]))
        drawn = units[:, chosen].sum(-1)
        low, high = np.exp(np.quantile(drawn[0] / drawn[1], [0.025, 0.975]))
        return growth, (float(low), float(high))
