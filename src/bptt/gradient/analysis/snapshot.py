"""What is kept of a flow while a model is trained: a few numbers for each update looked at."""

from __future__ import annotations

import math
from dataclasses import dataclass

from bptt.gradient.analysis.flow import GradientFlow

LAGS_OF_SCALARS = (0, 1, 10, 100, 1000)


@dataclass(frozen=True)
class Snapshot:
    """The gradient's flow after an update.

    horizon: the smallest window within 5% of the exact gradient, None if it lies beyond the largest
    lag. growth: the factor a step, None where none can be seen. by_lag: as in GradientFlow.
    """

    update: int
    horizon: int | None
    growth: float | None
    by_lag: list[float]

    @classmethod
    def of(cls, update: int, flow: GradientFlow) -> Snapshot:
        """Return what is kept of a flow."""
        growth = flow.growth if math.isfinite(flow.growth) else None
        by_lag = [float(f"{value:.4g}") for value in flow.by_lag]
        return cls(update, flow.horizon(), growth, by_lag)

    def scalars(self) -> dict[str, float]:
        """Return its numbers by name, the norms of some lags among them, as a dashboard has them.

        >>> list(Snapshot(7, None, 0.9, [1.0, 0.9]).scalars())
        ['growth', 'norm at lag 0', 'norm at lag 1']
        """
        named: dict[str, float | None] = {"growth": self.growth, "horizon": self.horizon}
        lags = [lag for lag in LAGS_OF_SCALARS if lag < len(self.by_lag)]
        named |= {f"norm at lag {lag}": self.by_lag[lag] for lag in lags}
        return {name: float(value) for name, value in named.items() if value is not None}
