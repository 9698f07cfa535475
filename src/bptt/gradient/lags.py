"""The gradient of every loss taken back in time at once, a lag at a time, and summed up.

With D₀[j] = ∂Lⱼ/∂hⱼ for all j at once, D_{ℓ+1}[j] = D_ℓ[j] · ∂h_{j−ℓ}/∂h_{j−ℓ−1} takes one large
product a lag, and G_ℓ = Σⱼ D_ℓ[j] · ∂h_{j−ℓ}/∂W is the part of the gradient that comes from so far.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from copy import copy
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from bptt.gradient.chain import Chain
from bptt.gradient.steps import Parts, Passed

BLOCK = 16
"""Lags whose terms are added to the losses' own gradients together: one product for all of them."""
MOST_BYTES = 256 << 20
"""What the losses' own gradients may take; more losses than that are swept in turns."""
FORGOTTEN = {torch.float32: 1e-30, torch.float64: 1e-290}
"""Below this a gradient counts as 0: its parts would lose digits, and time, as denormal numbers."""


class Lag(NamedTuple):
    """One lag of the sweep.

    norms: ‖∂Lⱼ/∂h_{j−ℓ}‖, (J, B), of the losses from `first` on, for which there is such a step.
    passed: what reached each layer at these steps.
    """

    lag: int
    first: int
    norms: Float[Tensor, "J B"]
    passed: list[Passed]


def lags(chain: Chain, max_lag: int, first: int = 0, stop: int | None = None) -> Iterator[Lag]:
    """Take the losses from first to stop − 1 back, from lag 0 to max_lag or until all is 0."""
    stop = chain.T if stop is None else stop
    d = chain.seed(first, stop)
    for lag in range(min(max_lag, stop - 1) + 1):
        lo = max(first, lag)
        steps = slice(lo - lag, stop - lag)
        norms = _norms(d)
        forgotten = norms < FORGOTTEN[norms.dtype]
        if bool(forgotten.any()):
            norms = norms.masked_fill(forgotten, 0)
            gone = forgotten.unsqueeze(-1)
            d = [tuple(part.masked_fill(gone, 0) for part in some) for some in d]
        passed, d = chain.back(d, steps)
        yield Lag(lag, lo, norms, passed)
        if bool(forgotten.all()):
            return


def _norms(d: list[Parts]) -> Float[Tensor, "J B"]:
    """Return the norm over the full state of all layers."""
    norms: list[Tensor] = [torch.linalg.vector_norm(part, dim=-1) for some in d for part in some]
    if len(norms) == 1:
        return norms[0]
    both: Tensor = torch.linalg.vector_norm(torch.stack(norms), dim=0)
    return both


class Sums:
    """Σ δ zᵀ at every site of a chain: a gradient of its parameters, being added up."""

    def __init__(self, chain: Chain) -> None:
        self.sites = [(k, site) for k, layer in enumerate(chain.layers) for site in layer.sites]
        self.totals = [
            site.z.new_zeros(len(chain.layers[k].U), site.z.shape[-1]) for k, site in self.sites
        ]

    def add(self, passed: list[Passed], steps: slice) -> None:
        """Add the terms of some steps."""
        for total, (k, site) in zip(self.totals, self.sites, strict=True):
            delta = site.delta(passed[k]).flatten(0, 1)
            total.addmm_(delta.t(), site.z[steps].flatten(0, 1))

    def norm(self) -> float:
        """Return the norm over all parameters."""
        return math.sqrt(sum(_square(total) for total in self.totals))

    def dot(self, other: Sums) -> float:
        """Return the product with another gradient."""
        pairs = zip(self.totals, other.totals, strict=True)
        return sum(float(a.flatten() @ b.flatten()) for a, b in pairs)

    def negative(self) -> Sums:
        """Return the same gradient with its sign turned."""
        turned = copy(self)
        turned.totals = [-total for total in self.totals]
        return turned

    def named(self, shapes: dict[str, torch.Size]) -> dict[str, Tensor]:
        """Return the gradient by parameter; shapes: of the parameters, by name."""
        found: dict[str, Tensor] = {}
        for total, (_, site) in zip(self.totals, self.sites, strict=True):
            for name, start, stop, columns in site.columns:
                rows = total[:, start:stop]
                grad = found.setdefault(name, total.new_zeros(shapes[name]))
                if grad.ndim == 1:
                    grad += rows.squeeze(1)
                elif columns is None:
                    grad += rows
                else:
                    grad.index_add_(1, columns, rows)
        return found


def _square(values: Tensor) -> float:
    norm: Tensor = torch.linalg.vector_norm(values)
    return float(norm) ** 2


class Whole(NamedTuple):
    """One exact backward: the gradient, and the norm of what each step's use of W adds to it."""

    gradient: Sums
    by_use: Float[Tensor, " T"]


def whole(chain: Chain) -> Whole:
    """Take all losses back together, one step after the other: ∂L/∂W, and its terms by use."""
    carried: list[Parts] | None = None
    gradient = Sums(chain)
    deltas = [
        site.z.new_empty(*site.z.shape[:2], len(total))
        for total, (_, site) in zip(gradient.totals, gradient.sites, strict=True)
    ]
    for t in reversed(range(chain.T)):
        d = chain.seed(t, t + 1)
        if carried is not None:
            d = [
                tuple(a + b for a, b in zip(some, later, strict=True))
                for some, later in zip(d, carried, strict=True)
            ]
        passed, carried = chain.back(d, slice(t, t + 1))
        for delta, (k, site) in zip(deltas, gradient.sites, strict=True):
            delta[t] = site.delta(passed[k])[0]
    squares = deltas[0].new_zeros(chain.T, dtype=torch.float64)
    for total, delta, (_, site) in zip(gradient.totals, deltas, gradient.sites, strict=True):
        total.addmm_(delta.flatten(0, 1).t(), site.z.flatten(0, 1))
        squares += _squares_of_outer(delta, site.z)
    return Whole(gradient, squares.sqrt())


def _squares_of_outer(
    delta: Float[Tensor, "T B G"], z: Float[Tensor, "T B Z"]
) -> Float[Tensor, " T"]:
    """Return ‖Σ_b δ zᵀ‖² of every step, from the products of the rows with each other."""
    gram = (delta @ delta.mT) * (z @ z.mT)
    return gram.sum((1, 2), dtype=torch.float64).clamp(min=0)


class ByLoss:
    """‖Σ_ℓ D_ℓ[j] · ∂h_{j−ℓ}/∂W‖ of every loss j from `first` to `stop` − 1.

    Terms of BLOCK lags are kept, and then added by one product of BLOCK · B rows for each loss.
    """

    def __init__(self, chain: Chain, sums: Sums, first: int, stop: int) -> None:
        self.first, self.stop, self.B = first, stop, chain.scored.shape[1]
        self.sites = sums.sites
        J = stop - first
        self.totals = [total.new_zeros(J, *total.shape) for total in sums.totals]
        self.kept = [total.new_zeros(J, BLOCK, self.B, len(total)) for total in sums.totals]
        pad = (0, 0, 0, 0, BLOCK - 1, 0)
        self.padded = [torch.nn.functional.pad(site.z, pad) for _, site in self.sites]
        self.filled = 0

    @staticmethod
    def losses_at_once(chain: Chain, sums: Sums) -> int:
        """Return how many losses fit in MOST_BYTES."""
        B = chain.scored.shape[1]
        each = sum(total.numel() + BLOCK * B * len(total) for total in sums.totals)
        return max(1, MOST_BYTES // (each * sums.totals[0].element_size()))

    def add(self, lag: Lag) -> None:
        """Keep a lag's terms, the latest use first; add them when there are BLOCK lags of them."""
        slot = BLOCK - 1 - self.filled
        for kept, (k, site) in zip(self.kept, self.sites, strict=True):
            kept[lag.first - self.first :, slot] = site.delta(lag.passed[k])
            kept[: lag.first - self.first, slot] = 0
        self.filled += 1
        if self.filled == BLOCK:
            self._flush(lag.lag)

    def _flush(self, lag: int) -> None:
        """Add what is kept; lag: the last that was."""
        least = lag - self.filled + 1
        lo = max(self.first, least)
        rows = BLOCK * self.B
        for total, kept, z in zip(self.totals, self.kept, self.padded, strict=True):
            if self.filled < BLOCK:
                kept[:, : BLOCK - self.filled] = 0
            # The uses of loss j lie one after the other: from step j − least − (BLOCK − 1), which
            # the padding moves to row j − least.
            Z, start = z.shape[-1], lo - least
            uses = z.as_strided((self.stop - lo, rows, Z), (self.B * Z, Z, 1), start * self.B * Z)
            delta = kept[lo - self.first :].flatten(1, 2)
            total[lo - self.first :].baddbmm_(delta.mT, uses)
        self.filled = 0

    def norms(self, lag: int) -> Float[Tensor, " J"]:
        """Return the norms; lag: the last that was added."""
        if self.filled:
            self._flush(lag)
        squares = [
            torch.linalg.vector_norm(total, dim=(1, 2)).double() ** 2 for total in self.totals
        ]
        return torch.stack(squares).sum(0).sqrt()
