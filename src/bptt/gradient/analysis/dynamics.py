"""A recurrent network as a dynamical system: its Jacobians, and how fast they grow together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Complex, Float, Int, Shaped
from torch import Tensor

from bptt.errors import BpttError, bytes_as_text, memory_here, require_callable, require_whole
from bptt.gradient.analysis.chain import Chain, chain_of
from bptt.gradient.sequences import Sequences, device_of
from bptt.kernel.plain_loop import Parts
from bptt.model.call import as_numbers
from bptt.model.chance import undrawn_on_failure
from bptt.model.network import Network
from bptt.model.state import Regime

STEPS = 64
TRANSIENT = 10
"""One in so many steps of a run is for the directions to align, before their growth counts."""

Step = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Jacobians:
    """∂sₘ/∂sₘ₋₁ at some steps of a run; s is the full state of all layers, one after the other.

    steps: which m, counted from 1; from 2 on, as the first step starts from a state that is given.
    matrices: (steps, B, S, S), row i for the i-th part of sₘ; beyond a sequence's end they are NaN,
    and so is all that is said of them.
    """

    steps: Int[np.ndarray, " steps"]
    matrices: Float[np.ndarray, "steps B S S"]

    @cached_property
    def singular_values(self) -> Float[np.ndarray, "steps B S"]:
        """What a step multiplies its main directions by, the largest first."""
        return _of_known(
            self.matrices, lambda known: np.linalg.svd(known, compute_uv=False), self.matrices.dtype
        )

    @cached_property
    def eigenvalues(self) -> Complex[np.ndarray, "steps B S"]:
        """The eigenvalues, in no order."""
        complex_ = np.result_type(self.matrices.dtype, np.complex64)
        return _of_known(self.matrices, np.linalg.eigvals, complex_)

    @cached_property
    def spectral_radius(self) -> Float[np.ndarray, "steps B"]:
        """The largest modulus of an eigenvalue."""
        radius: np.ndarray = np.abs(self.eigenvalues).max(-1)
        return radius


@undrawn_on_failure()
def jacobians(
    net: Network,
    y: Shaped[Tensor | np.ndarray, "T B *y"],
    *,
    x: Shaped[Tensor | np.ndarray, "T B *x"] | None = None,
    state: Any = None,
    steps: int | None = STEPS,
    forcing: float | Bool[Tensor, "T B"] = 1.0,
    feedback: str = "sample",
    lengths: Int[Tensor, " B"] | None = None,
    resets: Bool[Tensor, "T B"] | None = None,
) -> Jacobians:
    """Return ∂sₘ/∂sₘ₋₁ along a run; for tanh that is diag(1 − hₘ²) W.

    (Goodfellow et al. 2016, equation 10.22.) steps: at how many of them, evenly spread; None for
    all. With forcing below 1 and feedback "mean" the path through the output is part of it. The
    rest is as in `bptt.gradient_flow`.

    Raises BpttError where there is one step only, the states are not finite, or the result would
    not fit in memory.

    >>> import bptt
    >>> net = bptt.Network(bptt.Categorical(5), hidden=8)
    >>> J = bptt.jacobians(net, torch.randint(5, (30, 2)), steps=10)
    >>> J.matrices.shape, J.singular_values.shape
    ((10, 2, 8, 8), (10, 2, 8))
    """
    chain = _chain(net, y, x, state, Regime(lengths, resets, forcing, feedback))
    if steps is not None:
        require_whole("steps", steps, 1)
    count = chain.T - 1 if steps is None else min(steps, chain.T - 1)
    B, S, like = chain.scored.shape[1], _size(chain), chain.seeds[0][0]
    _require_fit(count, B * S * S * like.element_size())
    at = np.unique(np.linspace(1, chain.T - 1, count).round().astype(int))
    matrices = torch.empty(len(at), B, S, S, dtype=like.dtype)
    for matrix, m in zip(matrices, at, strict=True):
        matrix.copy_(jacobian(chain, int(m)))
    matrices[~chain.scored[at].cpu()] = torch.nan
    return Jacobians(at + 1, matrices.numpy())


def jacobian(chain: Chain, m: int) -> Float[Tensor, "B S S"]:
    """Return ∂sₘ/∂sₘ₋₁, steps counted from 0: each row is one part of sₘ taken back."""
    B, S = chain.scored.shape[1], _size(chain)
    like = chain.seeds[0][0]
    eye = torch.eye(S, dtype=like.dtype, device=like.device).unsqueeze(1).expand(-1, B, -1)
    _, before = chain.back(_parts(chain, eye), slice(m, m + 1))
    return _joined(before).transpose(0, 1)


@dataclass(frozen=True)
class Lyapunov:
    """Lyapunov exponents, in nats a step, the largest first.

    per_sequence: (B, count), NaN of a sequence of which no step counted. exponents: (count,), their
    mean, each weighed by its steps. steps: (B,), how many counted.
    """

    exponents: Float[np.ndarray, " count"]
    per_sequence: Float[np.ndarray, "B count"]
    steps: Int[np.ndarray, " B"]


@undrawn_on_failure()
def lyapunov_exponents(
    net: Network,
    y: Shaped[Tensor | np.ndarray, "T B *y"],
    *,
    x: Shaped[Tensor | np.ndarray, "T B *x"] | None = None,
    count: int | None = None,
    transient: int | None = None,
    state: Any = None,
    forcing: float | Bool[Tensor, "T B"] = 1.0,
    feedback: str = "sample",
    lengths: Int[Tensor, " B"] | None = None,
    resets: Bool[Tensor, "T B"] | None = None,
) -> Lyapunov:
    """Return how fast directions grow, a step, along the run that the data drives.

    By the QR method (Benettin et al. 1980; Engelken, Wolf and Abbott 2023, section 2), which here
    goes back in time with the gradient's own directions: the products of the Jacobians have the
    same singular values either way, so that these are the exponents of the states too.

    count: of the largest, by default all. Where nothing is left of a direction it is −inf.
    transient: how many steps are for the directions to align and do not count: the last ones of the
    run, and before each reset, where they start anew; by default a tenth of each stretch.
    The rest is as in `bptt.jacobians`.

    Raises BpttError where no step counts.

    >>> import bptt
    >>> net = bptt.Network(bptt.Categorical(5), hidden=8)
    >>> bptt.lyapunov_exponents(net, torch.randint(5, (100, 2)), count=3).exponents.shape
    (3,)
    """
    chain = _chain(net, y, x, state, Regime(lengths, resets, forcing, feedback))
    S = _size(chain)
    count = S if count is None else count
    require_whole("count", count, 1, S)
    if transient is not None:
        require_whole("transient", transient, 0, chain.T - 2)
    counts = _counting(_has_jacobian(chain), transient)
    steps = counts.sum(0)
    if not steps.any():
        raise BpttError(
            "no step counts; expected sequences, or stretches between resets, of more steps than "
            "the transient"
        )
    each = _log_growth(chain, counts, count) / np.maximum(steps, 1)[:, None]
    each = -np.sort(-np.where(steps[:, None] > 0, each, np.nan), axis=-1)
    weights = steps / steps.sum()
    return Lyapunov(np.where(steps > 0, weights * each.T, 0).sum(1), each, steps)


def _has_jacobian(chain: Chain) -> Bool[np.ndarray, "T B"]:
    """Return at which steps something is left of the state before."""
    known = chain.scored.cpu().clone()
    known[0] = False
    if chain.carried is not None:
        known &= chain.carried.squeeze(-1).cpu() != 0
    mask: np.ndarray = known.numpy()
    return mask


def _counting(goes_on: Bool[np.ndarray, "T B"], transient: int | None) -> Bool[np.ndarray, "T B"]:
    """Return at which steps the growth counts: not at the last ones of each stretch."""
    T = len(goes_on)
    length, left = np.zeros(goes_on.shape, int), np.zeros(goes_on.shape, int)
    for t in range(1, T):
        length[t] = np.where(goes_on[t], length[t - 1] + 1, 0)
    for t in range(T - 1, 0, -1):
        later = left[t + 1] if t + 1 < T else np.zeros_like(left[0])
        left[t] = np.where(goes_on[t], later + 1, 0)
    stretch = length + left - 1
    aligning = stretch // TRANSIENT if transient is None else transient
    return goes_on & (left > aligning)


def _log_growth(
    chain: Chain, counts: Bool[np.ndarray, "T B"], count: int
) -> Float[np.ndarray, "B count"]:
    """Return Σ log |r| of so many directions, over the steps that count."""
    goes_on = torch.from_numpy(_has_jacobian(chain))
    like = chain.seeds[0][0]
    logs = torch.zeros(chain.B, count, dtype=torch.float64)
    first = _orthonormal(_size(chain), count, like).expand(chain.B, -1, -1)
    q = first
    for m in range(chain.T - 1, 0, -1):
        _, before = chain.back(_parts(chain, q.permute(2, 0, 1)), slice(m, m + 1))
        turned, r = torch.linalg.qr(_joined(before).permute(1, 2, 0))
        q = torch.where(goes_on[m].to(like.device)[:, None, None], turned, first)
        growth = r.diagonal(dim1=-2, dim2=-1).abs().double().log().cpu()
        logs += torch.where(torch.from_numpy(counts[m])[:, None], growth, 0.0)
    log_growth: np.ndarray = logs.numpy()
    return log_growth


@torch.no_grad()
def lyapunov_spectrum(
    step: Step,
    x0: Float[Tensor, "*B n"],
    steps: int,
    *,
    count: int | None = None,
    transient: int | None = None,
) -> Float[np.ndarray, " count"]:
    """Return the Lyapunov exponents of any map x → step(x), in nats a step, the largest first.

    step: of one state, (n,), written in torch. x0: where to start, (n,), or several starts, (B, n),
    over which the mean is taken. transient: steps before these, which do not count, by default a
    tenth as many. For a flow in continuous time, divide by the time that a step takes.

    >>> def logistic(x):
    ...     return 4 * x * (1 - x)  # its exponent is ln 2
    >>> x0 = torch.rand(50, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    >>> round(float(lyapunov_spectrum(logistic, x0, 400)[0]), 2)
    0.69
    """
    require_whole("steps", steps, 1)
    transient = steps // TRANSIENT if transient is None else transient
    require_whole("transient", transient, 0)
    x = _starts(step, x0)
    n = x.shape[1]
    count = n if count is None else count
    require_whole("count", count, 1, n)
    slope_and_next = torch.func.vmap(torch.func.jacrev(lambda v: (step(v),) * 2, has_aux=True))
    q, total = _orthonormal(n, count, x).expand(len(x), -1, -1), x.new_zeros(count)
    for i in range(transient + steps):
        slope, x = slope_and_next(x)
        if not bool(x.isfinite().all() & slope.isfinite().all()):
            raise BpttError(
                f"the states or their slopes became infinite in step {i + 1}; expected a step that "
                "is smooth, and stays bounded from these starts"
            )
        q, r = torch.linalg.qr(slope @ q)
        if i >= transient:
            total += r.diagonal(dim1=-2, dim2=-1).abs().log().mean(0)
    exponents: np.ndarray = (total / steps).sort(descending=True).values.cpu().numpy()
    return exponents


def _starts(step: Step, x0: Any) -> Float[Tensor, "B n"]:
    """Return where to start, or raise BpttError unless the step leads from there to the like."""
    require_callable("step", step, "a function of one state, written in torch")
    x: Tensor = torch.atleast_2d(as_numbers("x0", x0).detach())
    if x.ndim > 2 or x.numel() == 0 or not x.is_floating_point():
        raise BpttError(
            f"x0 has shape {tuple(x.shape)} and dtype {x.dtype}; expected (n,) or (B, n) of a "
            "floating-point dtype"
        )
    after = step(x[0])
    if not isinstance(after, Tensor):
        raise BpttError(f"step returned a {type(after).__name__}; expected a tensor")
    for what, got, want in (
        ("shape", tuple(after.shape), tuple(x[0].shape)),
        ("dtype", after.dtype, x.dtype),
    ):
        if got != want:
            raise BpttError(f"step returned {what} {got}; expected {want}, as x has")
    return x


def _of_known(
    matrices: Float[np.ndarray, "steps B S S"],
    find: Callable[[np.ndarray], np.ndarray],
    dtype: np.dtype[Any],
) -> Shaped[np.ndarray, "steps B S"]:
    """Return what is found of every matrix, and NaN of those that are NaN."""
    known = ~np.isnan(matrices).any((-1, -2))
    values = np.full(matrices.shape[:-1], np.nan, dtype)
    values[known] = find(matrices[known])
    return values


def _chain(net: Network, y: Any, x: Any, state: Any, regime: Regime) -> Chain:
    """Return the run, or raise BpttError unless it has two steps, and finite states."""
    if not isinstance(net, Network):
        raise BpttError(f"got a {type(net).__name__}; expected a bptt.Network")
    sequences = Sequences.checked(y, x, regime, None, device_of(net))
    if sequences.T < 2:
        raise BpttError("y has 1 step; expected at least 2: a Jacobian leads from one to the next")
    return chain_of(net, sequences, state).require_finite()


def _size(chain: Chain) -> int:
    """Return how many numbers the state has."""
    return sum(part.shape[-1] for seed in chain.seeds for part in seed)


def _parts(chain: Chain, rows: Float[Tensor, "K B S"]) -> list[Parts]:
    """Return gradients of the full state, layer by layer."""
    sizes = [part.shape[-1] for seed in chain.seeds for part in seed]
    pieces = iter(rows.split(sizes, dim=-1))
    return [tuple(next(pieces) for _ in seed) for seed in chain.seeds]


def _joined(d: list[Parts]) -> Float[Tensor, "K B S"]:
    return torch.cat([part for state in d for part in state], -1)


def _orthonormal(n: int, count: int, like: Tensor) -> Float[Tensor, "n count"]:
    """Return random orthonormal columns, always the same."""
    drawn = torch.randn(n, count, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    columns: Tensor = torch.linalg.qr(drawn)[0]
    return columns.to(like)


def _require_fit(count: int, each: int) -> None:
    has = memory_here()
    if has is not None and count * each > has:
        fits = f"steps of at most {has // each:,}" if has >= each else "fewer sequences or units"
        raise BpttError(
            f"{count:,} Jacobians would take {bytes_as_text(count * each)}, and this machine has "
            f"{bytes_as_text(has)}; expected {fits}"
        )
