"""What lies along time: y, x and weights, of which any part can be had without reading the rest."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from bptt.errors import BpttError, require_choice, require_shape, shown
from bptt.model.call import require_forcing, require_tensor
from bptt.model.masks import as_mask, require_lengths
from bptt.model.state import FEEDBACKS, Regime

Series = Tensor | np.ndarray
Penalty = Callable[[Any], Tensor]
"""What a loss has besides the nll, of what a call of the net returned: (T, B), or one number."""
STEPS_AT_ONCE = 1 << 16


class Part(NamedTuple):
    """A few steps, as tensors.

    x: a leaf of a new graph, where x asks for a gradient.
    regime: how it is run: lengths, resets and what is fed back.
    weights: w, (T, B), 0 beyond a sequence's end; None where all are 1.
    unscored: how many of the first steps have no loss. penalty: what is added to each step's nll.
    """

    y: Shaped[Tensor, "T B *y"]
    x: Shaped[Tensor, "T B *x"] | None
    regime: Regime
    weights: Float[Tensor, "T B"] | None
    unscored: int
    penalty: Penalty | None = None

    def steps(self, start: int, stop: int) -> Part:
        """Return some of the steps."""
        return Part(
            self.y[start:stop],
            None if self.x is None else self.x[start:stop],
            self.regime.part(start, stop),
            None if self.weights is None else self.weights[start:stop],
            min(max(0, self.unscored - start), stop - start),
            self.penalty,
        )


@dataclass(frozen=True)
class Sequences:
    """B sequences of T steps, in tensors or in arrays that may be mapped from files.

    device: where the parts of them are computed, to which each is moved when it is read.
    grad_x: where the gradient of x is added up, if x asks for one.
    start: how many of the first steps have no loss. penalty: what is added to each step's nll.
    """

    y: Series
    x: Series | None
    regime: Regime
    loss_weights: Series | None
    device: torch.device
    grad_x: Tensor | None
    start: int = 0
    penalty: Penalty | None = None

    @classmethod
    def checked(
        cls,
        y: Any,
        x: Any,
        regime: Regime,
        loss_weights: Any,
        device: torch.device,
        penalty: Penalty | None = None,
    ) -> Sequences:
        """Return the sequences, or raise BpttError unless their shapes go together."""
        if y is None:
            raise BpttError("y is missing; expected the targets of the loss")
        require_forcing(regime.forcing)
        require_choice("feedback", regime.feedback, FEEDBACKS)
        for name, series in (("y", y), ("x", x), ("loss_weights", loss_weights)):
            _require_series(name, series)
        if y.ndim < 2 or 0 in y.shape[:2]:
            raise BpttError(
                f"y has shape {tuple(y.shape)}; expected (T, B) or (T, B, features), "
                "with at least one step and one sequence"
            )
        T, B = y.shape[:2]
        if x is not None:
            features = ", ..." if x.ndim > 2 else ""
            require_shape("x", x.shape, f"(T, B{features})", (T, B, *[None] * (x.ndim - 2)))
        if loss_weights is not None:
            require_shape("loss_weights", loss_weights.shape, "(T, B)", (T, B))
        require_lengths(regime.lengths, T, B)
        if regime.resets is not None:
            regime = regime._replace(resets=as_mask("resets", regime.resets, T, B))
        if isinstance(regime.forcing, Tensor):
            regime = regime._replace(forcing=as_mask("forcing", regime.forcing, T, B))
        regime = regime.to(device)
        grad_x = torch.zeros_like(x) if isinstance(x, Tensor) and x.requires_grad else None
        return cls(y, x, regime, loss_weights, device, grad_x, penalty=penalty)

    @property
    def T(self) -> int:
        """The number of steps."""
        return len(self.y)

    @property
    def B(self) -> int:
        """The number of sequences."""
        return int(self.y.shape[1])

    @property
    def steps(self) -> int:
        """How many yᵗ there are, over all sequences."""
        lengths = self.regime.lengths
        return self.T * self.B if lengths is None else int(lengths.sum())

    @property
    def kind(self) -> tuple[object, ...]:
        """What the sequences are, but for their values and T."""
        series = (self.y, self.x, self.loss_weights)
        kinds = [None if s is None else (s.shape[1:], s.dtype) for s in series]
        regime = self.regime
        masked = (isinstance(part, Tensor) for part in regime)
        penalty = self.penalty if isinstance(self.penalty, Hashable) else id(self.penalty)
        traits = self.grad_x is not None, *masked, regime.feedback, regime.is_forced, penalty
        return (*kinds, *traits)

    def part(self, start: int, stop: int) -> Part:
        """Return the steps from start to stop − 1."""
        x = None if self.x is None else self._read(self.x, start, stop).detach()
        if x is not None and self.grad_x is not None:
            x.requires_grad_()
        unscored = min(max(0, self.start - start), stop - start)
        y = self._read(self.y, start, stop).detach()
        regime, weights = self.regime.part(start, stop), self._weights(start, stop)
        return Part(y, x, regime, weights, unscored, self.penalty)

    def add_gradient(self, start: int, part: Part) -> None:
        """Add what reached a part's x to the gradient of x."""
        if self.grad_x is not None and part.x is not None and part.x.grad is not None:
            self.grad_x[start : start + len(part.x)] += part.x.grad.to(self.grad_x.device)

    def total_weight(self) -> float:
        """Return Σ w."""
        if self.loss_weights is None:
            return float(self.steps)
        total = 0.0
        for start in range(0, self.T, STEPS_AT_ONCE):
            weights = self._weights(start, min(start + STEPS_AT_ONCE, self.T))
            assert weights is not None
            total += float(weights.sum(dtype=torch.float64))
        return total

    def block(self, start: int, stop: int, first: int) -> Sequences:
        """Return the steps from start to stop − 1 by themselves, with losses from the first-th on.

        Their x has no gradient of its own: it goes to this x.
        """
        return Sequences(
            self.y[start:stop],
            None if self.x is None else self.x[start:stop],
            self.regime.part(start, stop),
            None if self.loss_weights is None else self.loss_weights[start:stop],
            self.device,
            None if self.grad_x is None else self.grad_x[start:stop],
            first,
            self.penalty,
        )

    def windows(self, starts: Sequence[int], steps: int, first: int) -> Sequences:
        """Return equally spaced windows of so many steps, one beside the other, as sequences.

        first: the step of each window from which on it has losses.
        If there are several, the gradient of their x is their own, until `add_windows`.
        """
        if len(starts) == 1:
            return self.block(starts[0], starts[0] + steps, first)
        begin, end = starts[0], starts[-1] + steps
        stride = starts[1] - starts[0]

        def apart(series: Series) -> Tensor:
            rows = self._read(series, begin, end).detach()
            windows = rows.unfold(0, steps, stride).movedim(-1, 0)  # (steps, windows, B, ...)
            return windows.flatten(1, 2)

        lengths, resets, forcing, feedback = self.regime
        if lengths is not None:
            origins = torch.tensor(starts, device=lengths.device).unsqueeze(1)
            lengths = (lengths - origins).clamp(0, steps).flatten()
        if isinstance(forcing, Tensor):
            forcing = apart(forcing)
        resets = None if resets is None else apart(resets)
        regime = Regime(lengths, resets, forcing, feedback)
        x = None if self.x is None else apart(self.x)
        grad_x = None if self.grad_x is None or x is None else torch.zeros_like(x)
        weights = None if self.loss_weights is None else apart(self.loss_weights)
        y, penalty = apart(self.y), self.penalty
        return Sequences(y, x, regime, weights, self.device, grad_x, first, penalty)

    def add_windows(self, starts: Sequence[int], windows: Sequences) -> None:
        """Add the gradients of several windows' x, which overlap, to that of x."""
        if self.grad_x is None or windows.grad_x is None or len(starts) == 1:
            return
        apart = windows.grad_x.unflatten(1, (len(starts), self.B))
        for i, start in enumerate(starts):
            self.grad_x[start : start + windows.T] += apart[:, i].to(self.grad_x.device)

    def _read(self, series: Series, start: int, stop: int) -> Tensor:
        if isinstance(series, Tensor):
            return series[start:stop].to(self.device)
        rows = np.asarray(series[start:stop])
        # A copy: the file may be read-only, and torch has few operations on unsigned numbers.
        rows = rows.astype(np.int64) if rows.dtype.kind in "iu" else np.array(rows)
        return torch.from_numpy(rows).to(self.device)

    def _weights(self, start: int, stop: int) -> Float[Tensor, "T B"] | None:
        weights = None
        if self.loss_weights is not None:
            weights = self._read(self.loss_weights, start, stop).detach()
        lengths = self.regime.lengths
        if lengths is not None:
            alive = torch.arange(start, stop, device=lengths.device).unsqueeze(1) < lengths
            weights = alive if weights is None else weights * alive
        return weights


def device_of(net: nn.Module) -> torch.device:
    """Return where the model's weights are."""
    return next((p.device for p in net.parameters()), torch.device("cpu"))


def _require_series(name: str, series: object) -> None:
    """Raise BpttError unless a series is None, or real numbers in a tensor or an array."""
    if not isinstance(series, Tensor | np.ndarray | None):
        raise BpttError(f"{name} is {shown(series)}; expected a tensor or a numpy array")
    if isinstance(series, Tensor):
        require_tensor(name, series)
    elif series is not None and series.dtype.kind not in "iufb":
        raise BpttError(f"{name} is {shown(series)}; expected real numbers")
