"""The gradient of every loss taken back in time at once, a lag at a time, and summed up.

With D₀[j] = ∂Lⱼ/∂hⱼ for all j at once, D_{ℓ+1}[j] = D_ℓ[j] · ∂h_{j−ℓ}/∂h_{j−ℓ−1} takes one large
product a lag, and G_ℓ = Σⱼ D_ℓ[j] · ∂h_{j−ℓ}/∂W is the part of the gradient that comes from so far.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from bptt.gradient.analysis.chain import Chain
from bptt.gradient.analysis.derivative import StepPassed
from bptt.gradient.analysis.parameters import Named, norms
from bptt.kernel.plain_loop import Parts

ROWS = 256
"""Rows, of lags and sequences, whose terms are added to a loss's own gradient by one product."""
MOST_BYTES = 384 << 20
"""What the losses' own gradients may take; more losses than that are swept in turns."""
FEW_BYTES = 16 << 20
"""What gradients of all parameters may take that are looked at together."""
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
    passed: list[StepPassed]


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
            d = [tuple(part.masked_fill(gone, 0) for part in state) for state in d]
        passed, d = chain.back(d, steps)
        yield Lag(lag, lo, norms, passed)
        if bool(forgotten.all()):
            return


def _norms(d: list[Parts]) -> Float[Tensor, "J B"]:
    """Return the norm over the full state of all layers."""
    norms: list[Tensor] = [torch.linalg.vector_norm(part, dim=-1) for state in d for part in state]
    if len(norms) == 1:
        return norms[0]
    both: Tensor = torch.linalg.vector_norm(torch.stack(norms), dim=0)
    return both


class Sums:
    """Σ δ zᵀ at every site of a chain, being added up: a gradient of its parameters."""

    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        self.totals = [site.z.new_zeros(site.size, site.z.shape[-1]) for _, site in chain.sites]

    def add(self, passed: list[StepPassed], steps: slice) -> None:
        """Add the terms of some steps."""
        for total, (k, site) in zip(self.totals, self.chain.sites, strict=True):
            z = site.z[steps].flatten(0, 1)
            for rows, delta in site.deltas(passed[k]):
                total[rows].addmm_(delta.flatten(0, 1).t(), z)

    def gradient(self) -> Named:
        """Return the gradient by parameter."""
        return self.chain.gradient(self.totals)


class Whole(NamedTuple):
    """One exact backward: the gradient, and the norm of what each step's use of W adds to it.

    sums: Σ δ zᵀ at every site, of which the gradient is made.
    """

    gradient: Named
    sums: list[Float[Tensor, "N Z"]]
    by_use: Float[Tensor, " T"]


def whole(chain: Chain) -> Whole:
    """Take all losses back together, one step after the other: ∂L/∂W, and its terms by use."""
    carried: list[Parts] | None = None
    deltas = [site.z.new_empty(*site.z.shape[:2], site.size) for _, site in chain.sites]
    for t in reversed(range(chain.T)):
        d = chain.seed(t, t + 1)
        if carried is not None:
            d = [
                tuple(a + b for a, b in zip(seed, later, strict=True))
                for seed, later in zip(d, carried, strict=True)
            ]
        passed, carried = chain.back(d, slice(t, t + 1))
        for delta, (k, site) in zip(deltas, chain.sites, strict=True):
            for columns, piece in site.deltas(passed[k]):
                delta[t, :, columns] = piece[0]
    by_use = torch.zeros(chain.T, dtype=torch.float64)
    for indices in torch.arange(chain.T).split(at_once(chain)):
        steps = slice(int(indices[0]), int(indices[-1]) + 1)
        each = [
            delta[steps].mT @ site.z[steps]
            for delta, (_, site) in zip(deltas, chain.sites, strict=True)
        ]
        by_use[steps] = _norms_of(chain, each)
    sums = [
        delta.flatten(0, 1).t() @ site.z.flatten(0, 1)
        for delta, (_, site) in zip(deltas, chain.sites, strict=True)
    ]
    return Whole(chain.gradient(sums), sums, by_use)


def _norms_of(chain: Chain, sums: list[Float[Tensor, "J N Z"]]) -> Float[Tensor, " J"]:
    """Return the norms of several gradients, from Σ δ zᵀ at every site."""
    parts = sums if chain.are_apart else [*chain.gradient(sums).values()]
    return norms(parts, lead=1) if parts else torch.zeros(1, dtype=torch.float64)


def at_once(chain: Chain) -> int:
    """Return how many gradients of all parameters are had at once."""
    each = sum(site.size * site.z.shape[-1] * site.z.element_size() for _, site in chain.sites)
    return max(1, FEW_BYTES // max(each, 1))


class ByLoss:
    """‖Σ_ℓ D_ℓ[j] · ∂h_{j−ℓ}/∂W‖ of every loss j from `first` to `stop` − 1.

    Terms of so many lags are kept that they have ROWS rows, and are then added by one product for
    each loss.
    """

    def __init__(self, chain: Chain, first: int, stop: int) -> None:
        self.chain, self.first, self.stop = chain, first, stop
        self.sites = chain.sites
        J, self.block = stop - first, self.lags_at_once(chain)
        self.totals = [s.z.new_zeros(J, s.size, s.z.shape[-1]) for _, s in self.sites]
        self.deltas = [s.z.new_zeros(J, self.block, s.z.shape[1], s.size) for _, s in self.sites]
        pad = (0, 0, 0, 0, self.block - 1, 0)
        self.padded = [torch.nn.functional.pad(site.z, pad) for _, site in self.sites]
        self.filled = 0

    @staticmethod
    def lags_at_once(chain: Chain) -> int:
        """Return of how many lags the terms are kept; there are no more than steps."""
        return min(chain.T, max(1, ROWS // chain.B))

    @classmethod
    def losses_at_once(cls, chain: Chain) -> int:
        """Return how many losses fit in MOST_BYTES."""
        rows = cls.lags_at_once(chain) * chain.B
        each = sum(s.size * (s.z.shape[-1] + rows) for _, s in chain.sites)
        return max(1, MOST_BYTES // max(1, each * chain.seeds[0][0].element_size()))

    def add(self, lag: Lag) -> None:
        """Keep a lag's terms, the latest use first; add them when there are enough."""
        slot = self.block - 1 - self.filled
        for deltas, (k, site) in zip(self.deltas, self.sites, strict=True):
            for columns, piece in site.deltas(lag.passed[k]):
                deltas[lag.first - self.first :, slot, :, columns] = piece
            deltas[: lag.first - self.first, slot] = 0
        self.filled += 1
        if self.filled == self.block:
            self._flush(lag.lag)

    def _flush(self, lag: int) -> None:
        """Add the terms of the deltas; lag: the last that has some."""
        least = lag - self.filled + 1
        lo = max(self.first, least)
        for total, deltas, z in zip(self.totals, self.deltas, self.padded, strict=True):
            if self.filled < self.block:
                deltas[:, : self.block - self.filled] = 0
            # The uses of loss j lie one after the other: from step j − least − (block − 1), which
            # the padding moves to row j − least.
            B, Z = z.shape[1:]
            of_loss, first = (self.stop - lo, self.block * B, Z), (lo - least) * B * Z
            uses = z.as_strided(of_loss, (B * Z, Z, 1), first)
            delta = deltas[lo - self.first :].flatten(1, 2)
            total[lo - self.first :].baddbmm_(delta.mT, uses)
        self.filled = 0

    def norms(self, lag: int) -> Float[Tensor, " J"]:
        """Return the norms; lag: the last that was added."""
        if self.filled:
            self._flush(lag)
        by_loss = []
        for indices in torch.arange(self.stop - self.first).split(at_once(self.chain)):
            losses = slice(int(indices[0]), int(indices[-1]) + 1)
            by_loss.append(_norms_of(self.chain, [total[losses] for total in self.totals]))
        return torch.cat(by_loss)
