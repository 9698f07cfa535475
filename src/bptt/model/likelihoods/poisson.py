"""d counts."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from bptt.errors import BpttError
from bptt.model.likelihoods.likelihood import is_zero, require_0_or_1
from bptt.model.likelihoods.quantiles import poisson_quantile
from bptt.model.likelihoods.vectors import Vectors


class Counts(Vectors):
    """What likelihoods of whole numbers from 0 on share."""

    def require_support(self, name: str, y: Float[Tensor, "T B d"]) -> None:
        """Raise BpttError unless y holds counts."""
        if not bool(((y >= 0) & (y == y.round()) & y.isfinite()).all()):
            raise BpttError(
                f"{name} has values from {float(y.min()):g} to {float(y.max()):g}; expected whole "
                f"numbers from 0 on for {type(self).__name__}"
            )


class Poisson(Counts):
    """d independent counts at every step: p(yᵢ | o) = λᵢ^yᵢ exp(−λᵢ) / yᵢ!, λ = exp(o).

    y is (T, B, d). Its mean, as it is fed back, is λ.

    >>> import torch
    >>> Poisson(1).nll(torch.zeros(1, 1, 1), torch.zeros(1, 1, 1)).item()  # λ = 1: e⁻¹
    1.0
    """

    kind = "poisson"

    def __init__(self, d: int) -> None:
        super().__init__(d)

    def nll(
        self, outputs: Float[Tensor, "T B d"], y: Float[Tensor, "T B d"]
    ) -> Float[Tensor, "T B"]:
        """Return Σᵢ exp(oᵢ) − yᵢ oᵢ + log yᵢ!, in nats."""
        return (outputs.exp() - y * outputs + torch.lgamma(y + 1)).sum(dim=-1)

    def mean(self, outputs: Float[Tensor, "*rows d"]) -> Float[Tensor, "*rows d"]:
        """Return exp(o)."""
        return outputs.exp()

    def draw(
        self,
        outputs: Float[Tensor, "*rows d"],
        noise: Float[Tensor, "*rows d"],
        temperature: float = 1.0,
    ) -> Float[Tensor, "*rows d"]:
        """Return the first count up to which p sums to more than the noise; at 0 the likeliest."""
        if is_zero(temperature, outputs):
            return outputs.exp().floor().detach()
        require_0_or_1(self, temperature)
        return poisson_quantile(noise, outputs.exp()).to(outputs.dtype)
