"""How far back in time the gradient reaches, and what each truncation of it would cost."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from bptt.errors import BpttError, bytes_as_text, memory_here, require_number, require_whole
from bptt.gradient.analysis.chain import Chain, chain_of
from bptt.gradient.analysis.derivative import StepPassed
from bptt.gradient.analysis.growth import Growth
from bptt.gradient.analysis.lags import ByLoss, Sums, Whole, lags, whole
from bptt.gradient.analysis.parameters import norms
from bptt.gradient.sequences import Sequences, device_of
from bptt.model.network import Network
from bptt.model.state import Regime

VANISHED, EXPLODED = 0.01, 100.0
NO_PATH = "no path through time"


@dataclass(frozen=True)
class GradientFlow:
    """How the gradient flows back in time.

    norms: (T, lags), ‖∂Lⱼ/∂h_{j−lag}‖ at [j, lag], the root mean square over the sequences that
    have a loss there, over the full state of all layers; NaN before the start. Losses are summed.
    by_lag: (lags,), the root mean square of these over the losses. typical_by_lag: (lags,), their
    geometric mean, over losses and sequences: a few large gradients count for less.
    by_loss, by_use: (T,), the textbook's two summations of ∂L/∂W, each on its own: the norm of what
    loss j adds, from all its lags up to the largest, and of what the use of W at step k adds, from
    all later losses.
    truncation_error, cosine: (lags + 1,), at [p] of the gradient truncated to window p (stride 1)
    against the exact one, over all trained parameters of the recurrent layers.
    growth: by which factor a typical gradient grows a step back in time: the slope of the log norm;
    growth_interval: its 95% interval over the sequences. NaN where no slope can be seen.
    window: the window that it is trained with, by default T. closed_by: what closes the
    loop: "W" alone, with "gates", with "more" (a leak, skips, a normalisation), or the "output".
    first_radius: the spectral radius that W started with, if that is known.
    """

    norms: Float[np.ndarray, "T lags"]
    by_lag: Float[np.ndarray, " lags"]
    typical_by_lag: Float[np.ndarray, " lags"]
    by_loss: Float[np.ndarray, " T"]
    by_use: Float[np.ndarray, " T"]
    truncation_error: Float[np.ndarray, " windows"]
    cosine: Float[np.ndarray, " windows"]
    growth: float
    growth_interval: tuple[float, float]
    window: int
    has_path: bool
    closed_by: str = "W"
    first_radius: float | None = None

    @property
    def T(self) -> int:
        """The number of steps."""
        return len(self.norms)

    @property
    def max_lag(self) -> int:
        """The largest lag that was looked at."""
        return int(self.norms.shape[1]) - 1

    @property
    def verdict(self) -> str:
        """What becomes of the gradient over the trained window, if that is sure.

        "vanishing" if it falls below a hundredth, "exploding" if it grows a hundredfold, else
        "stable"; "no path through time" where no step depends on the one before.
        """
        if not self.has_path:
            return NO_PATH
        low, high = self.growth_interval
        if high >= 0 and self.window * _log(high) < math.log(VANISHED):
            return "vanishing"
        if low > 0 and self.window * _log(low) > math.log(EXPLODED):
            return "exploding"
        return "stable"

    def horizon(self, tolerance: float = 0.05) -> int | None:
        """Return the smallest window from which on every one is within the tolerance.

        That is, ‖truncated − exact‖ ≤ tolerance · ‖exact‖. None if it lies beyond the largest lag.
        """
        require_number("tolerance", tolerance)
        if not tolerance >= 0:
            raise BpttError(f"tolerance is {tolerance}; expected a number of at least 0")
        outside = np.flatnonzero(~(self.truncation_error <= tolerance))
        first = int(outside[-1]) + 1 if len(outside) else 0
        return max(1, first) if first < len(self.truncation_error) else None


def gradient_flow(
    net: Network,
    y: Shaped[Tensor | np.ndarray, "T B *y"],
    *,
    x: Shaped[Tensor | np.ndarray, "T B *x"] | None = None,
    state: Any = None,
    max_lag: int | None = None,
    window: int | None = None,
    forcing: float | Bool[Tensor, "T B"] = 1.0,
    feedback: str = "sample",
    lengths: Int[Tensor, " B"] | None = None,
    resets: Bool[Tensor, "T B"] | None = None,
    loss_weights: Float[Tensor | np.ndarray, "T B"] | None = None,
) -> GradientFlow:
    """Take the gradient of every loss apart by lag, and measure what each window would keep.

    max_lag: how far back to look, by default to the start. window: the one that it is trained
    with, for the verdict. The rest is as in `bptt.backward`. The time is that of max_lag passes
    over the data; the network and its gradients are left as they are.

    Raises BpttError where the states are not finite, or the result would not fit in memory.

    >>> import bptt
    >>> net = bptt.Network(bptt.Categorical(5), hidden=8)
    >>> flow = bptt.gradient_flow(net, torch.randint(5, (30, 4)), max_lag=20)
    >>> flow.norms.shape, flow.truncation_error.shape
    ((30, 21), (22,))
    """
    if not isinstance(net, Network):
        raise BpttError(
            f"gradient_flow got a {type(net).__name__}; expected a bptt.Network (bptt.watch looks "
            "into any other model)"
        )
    regime = Regime(lengths, resets, forcing, feedback)
    sequences = Sequences.checked(y, x, regime, loss_weights, device_of(net))
    most = _require_lags(max_lag, window, sequences.T, sequences.B)
    flow = flow_of(chain_of(net, sequences, state), most, window)
    return replace(flow, first_radius=net.init.radius_of(net.recurrent.hidden_size))


@torch.no_grad()
def flow_of(chain: Chain, max_lag: int, window: int | None = None) -> GradientFlow:
    """Return how the gradient flows back through a chain."""
    T, B = chain.scored.shape
    chain.require_finite()
    exact = whole(chain)
    cut = Cut(chain, exact, max_lag)
    growth = Growth(T, B, max_lag)
    norms = np.full((T, max_lag + 1), np.nan)
    norms[np.arange(T)[:, None] >= np.arange(max_lag + 1)] = 0.0
    group = ByLoss.losses_at_once(chain)
    gradients = ByLoss(chain, 0, T) if group >= T and chain.sites else None
    last = 0
    for one in lags(chain, max_lag):
        last = one.lag
        scored = chain.scored[one.first :]
        norms[one.first :, one.lag] = _rms(one.norms, scored)
        growth.add(one.lag, one.first, one.norms.masked_fill(~scored, 0))
        cut.add(one.lag, one.passed, slice(one.first - one.lag, T - one.lag))
        if gradients is not None:
            gradients.add(one)
    cut.rest(last)
    by_loss = _by_loss(chain, group, max_lag) if gradients is None else gradients.norms(last)
    by_lag = np.sqrt(_mean(norms**2, 0))
    factor, interval = growth.fit()
    return GradientFlow(
        norms,
        by_lag,
        growth.typical,
        by_loss.cpu().numpy(),
        exact.by_use.cpu().numpy(),
        cut.error,
        cut.cosine,
        factor,
        interval,
        T if window is None else window,
        chain.has_path,
        chain.closed_by,
    )


def _by_loss(chain: Chain, group: int, max_lag: int) -> Float[Tensor, " T"]:
    """Return what every loss adds, a group of losses after the other."""
    if not chain.sites:
        return torch.zeros(chain.T, dtype=torch.float64)
    by_loss = []
    for first in range(0, chain.T, group):
        stop = min(first + group, chain.T)
        gradients = ByLoss(chain, first, stop)
        last = 0
        for one in lags(chain, max_lag, first, stop):
            gradients.add(one)
            last = one.lag
        by_loss.append(gradients.norms(last))
    return torch.cat(by_loss)


class Cut:
    """The gradient truncated to every window, Σ_{ℓ<p} G_ℓ, against the exact one."""

    def __init__(self, chain: Chain, exact: Whole, max_lag: int) -> None:
        self.truncated = Sums(chain)
        self.of_sums = chain.are_apart  # which spares making a gradient of each lag's sums
        self.names = [*exact.gradient]
        self.exact = exact.sums if self.of_sums else [*exact.gradient.values()]
        self.size = float(norms(exact.gradient.values())) if exact.gradient else 0.0
        self.error, self.cosine = np.ones(max_lag + 2), np.zeros(max_lag + 2)
        if self.size == 0:
            self.error[:] = 0.0
            self.cosine[:] = np.nan

    def add(self, lag: int, passed: list[StepPassed], steps: slice) -> None:
        """Add G_ℓ; note how far the window ℓ + 1 is off."""
        self.truncated.add(passed, steps)
        if self.size == 0:
            return
        if self.of_sums:
            parts = self.truncated.totals
        else:
            gradient = self.truncated.gradient()
            parts = [gradient[name] for name in self.names]
        missing = [part - whole for part, whole in zip(parts, self.exact, strict=True)]
        error = math.hypot(*(_norm(part) for part in missing)) / self.size
        pairs = zip(missing, self.exact, strict=True)
        along = sum(float(torch.dot(a.flatten(), b.flatten())) for a, b in pairs) / self.size**2
        self.error[lag + 1] = error
        length = math.sqrt(max(0.0, 1 + 2 * along + error**2))  # of the truncated one
        self.cosine[lag + 1] = (1 + along) / length if length > 0 else 0.0

    def rest(self, last: int) -> None:
        """Fill in the lags after the last, which add nothing."""
        self.error[last + 2 :] = self.error[last + 1]
        self.cosine[last + 2 :] = self.cosine[last + 1]


def _norm(part: Tensor) -> float:
    return float(torch.linalg.vector_norm(part, dtype=torch.float64))


def _rms(norms: Float[Tensor, "J B"], scored: Bool[Tensor, "J B"]) -> Float[np.ndarray, " J"]:
    """Return the root mean square over the sequences that have a loss; NaN where none has."""
    squares = (norms.double() ** 2).masked_fill(~scored, 0).sum(1) / scored.sum(1)
    rms: np.ndarray = squares.sqrt().cpu().numpy()
    return rms


def _mean(values: Float[np.ndarray, "..."], axis: int) -> Float[np.ndarray, "..."]:
    """Return the mean of what is not NaN; NaN where all is."""
    known = ~np.isnan(values)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean: np.ndarray = np.where(known, values, 0).sum(axis) / known.sum(axis)
    return mean


def _log(value: float) -> float:
    return math.log(value) if value > 0 else -math.inf


def _require_lags(max_lag: int | None, window: int | None, T: int, B: int) -> int:
    """Return the largest lag to look at, or raise BpttError."""
    if window is not None:
        require_whole("window", window, 1)
    if max_lag is None:
        max_lag = T - 1
    require_whole("max_lag", max_lag, 0)
    if max_lag > T - 1:
        raise BpttError(
            f"max_lag is {max_lag}; expected at most T - 1 = {T - 1}, the largest lag in {T} steps"
        )
    each = T * 8 * 2  # the norms, and their squares
    has = memory_here()
    if has is not None and each * (max_lag + 1) > has:
        raise BpttError(
            f"the norms of {T:,} steps by {max_lag + 1:,} lags would take "
            f"{bytes_as_text(each * (max_lag + 1))}, and this machine has {bytes_as_text(has)}; "
            f"expected max_lag of at most {max(0, has // each - 1):,}, or fewer steps"
        )
    return max_lag
