"""d bits."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bptt.errors import BpttError
from bptt.model.likelihoods.likelihood import is_zero
from bptt.model.likelihoods.vectors import Vectors


class Bernoulli(Vectors):
    """d independent bits at every step: p(yᵢ = 1 | o) = σ(oᵢ).

    y is (T, B, d) of zeros and ones. Its mean, as it is fed back, are the d probabilities.

    >>> import torch
    >>> float(Bernoulli(2).nll(torch.zeros(1, 1, 2), torch.ones(1, 1, 2)))  # 2 log 2 nats
    1.3862943649291992
    """

    kind = "bernoulli"

    def __init__(self, d: int) -> None:
        super().__init__(d)

    def require_support(self, name: str, y: Float[Tensor, "T B d"]) -> None:
        """Raise BpttError unless y holds zeros and ones."""
        if not bool(((y == 0) | (y == 1)).all()):
            raise BpttError(
                f"{name} has values from {float(y.min()):g} to {float(y.max()):g}; "
                "expected 0 or 1 everywhere for Bernoulli"
            )

    def nll(
        self, outputs: Float[Tensor, "T B d"], y: Float[Tensor, "T B d"]
    ) -> Float[Tensor, "T B"]:
        """Return Σᵢ −log p(yᵢ | oᵢ), in nats."""
        each = nn.functional.binary_cross_entropy_with_logits(outputs, y, reduction="none")
        return each.sum(dim=-1)

    def mean(self, outputs: Float[Tensor, "*rows d"]) -> Float[Tensor, "*rows d"]:
        """Return σ(o)."""
        return torch.sigmoid(outputs)

    def draw(
        self,
        outputs: Float[Tensor, "*rows d"],
        noise: Float[Tensor, "*rows d"],
        temperature: float = 1.0,
    ) -> Float[Tensor, "*rows d"]:
        """Return 1 where σ(o / temperature) exceeds the noise."""
        if is_zero(temperature, outputs):
            return (outputs > 0).to(outputs.dtype)
        return (noise < torch.sigmoid(outputs / temperature)).to(outputs.dtype)
