"""A linear autoregression, to compare networks with: yᵗ = c + Σₖ φₖ yᵗ⁻ᵏ, by least squares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

MOST_LAGS = 48
LEAST_LAGS = 12
MOST_ROWS = 200_000
"""Rows that are fitted to; of more, the last of each series."""


@dataclass(frozen=True)
class Autoregression:
    """One for each column, the same for all series: constants (d,) and weights (d, p) of lags.

    The weight of a lag that a column does not use is 0.
    """

    constants: Float[np.ndarray, " d"]
    weights: Float[np.ndarray, "d p"]

    @classmethod
    def fit(cls, series: Sequence[Float[np.ndarray, "T d"]], season: int) -> Autoregression:
        """Return the one whose number of lags has the least criterion of Akaike (1974).

        season: in steps; lags reach beyond it by one, if that is not too many.
        """
        longest = max(len(values) for values in series)
        p = max(LEAST_LAGS, season + 1 if season < MOST_LAGS else 0)
        p = max(1, min(p, longest // 3))
        share = max(1, MOST_ROWS // len(series))
        fitted = [np.asarray(values[-share - p :], float) for values in series if len(values) > p]
        d = fitted[0].shape[1]
        constants, weights = np.zeros(d), np.zeros((d, p))
        for k in range(d):
            lags = np.concatenate([_lagged(values[:, k], p) for values in fitted])
            true = np.concatenate([values[p:, k] for values in fitted])
            constants[k], of_lags = _chosen(lags, true)
            weights[k, : len(of_lags)] = of_lags
        return cls(constants, weights)

    def forecast(
        self, series: Sequence[Float[np.ndarray, "T d"]], steps: int
    ) -> Float[np.ndarray, "S steps d"]:
        """Return how each of several series goes on; before its start it is taken for zero."""
        d, p = self.weights.shape
        known = np.zeros((len(series), p + steps, d))
        for row, values in enumerate(series):
            part = values[-p:]
            known[row, p - len(part) : p] = part
        for t in range(p, p + steps):
            before = known[:, t - p : t][:, ::-1]  # the latest first
            known[:, t] = self.constants + np.einsum("spd,dp->sd", before, self.weights)
        return known[:, p:]


def _lagged(values: Float[np.ndarray, " T"], p: int) -> Float[np.ndarray, "n p"]:
    """Return for each step from p on the p values before it, the latest first."""
    return np.lib.stride_tricks.sliding_window_view(values[:-1], p)[:, ::-1]


def _chosen(
    lags: Float[np.ndarray, "n p"], true: Float[np.ndarray, " n"]
) -> tuple[float, Float[np.ndarray, " q"]]:
    """Return the constant and the weights of as many lags as are worth it."""
    n, p = lags.shape
    design = np.concatenate([np.ones((n, 1)), lags], axis=1)
    products, target = design.T @ design, design.T @ true
    least, best = np.inf, (float(true.mean()), np.empty(0))
    for q in range(p + 1):
        used = slice(0, q + 1)
        beta = np.linalg.lstsq(products[used, used], target[used], rcond=None)[0]
        squares = float(((true - design[:, used] @ beta) ** 2).sum())
        criterion = n * np.log(max(squares, 1e-300) / n) + 2 * (q + 1)
        if criterion < least:
            least, best = criterion, (float(beta[0]), beta[1:])
    return best
