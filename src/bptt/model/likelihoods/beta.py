"""d shares, between 0 and 1."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Beta as Distribution

from bptt.errors import BpttError
from bptt.model.likelihoods.likelihood import is_zero, require_0_or_1
from bptt.model.likelihoods.quantiles import log_gamma_quantile
from bptt.model.likelihoods.vectors import Vectors


class Beta(Vectors):
    """d independent shares at every step: p(yᵢ | o) ∝ yᵢ^(mκ − 1) (1 − yᵢ)^((1 − m)κ − 1).

    y is (T, B, d), above 0 and below 1. Of the 2d outputs the first d say the mean, m = σ(o), the
    others how near to it y lies, κ = exp(o).

    >>> import torch
    >>> o = torch.tensor([[[0.0, 0.6931472]]])  # mean 1/2, κ = 2: all shares are as likely
    >>> abs(Beta(1).nll(o, torch.full((1, 1, 1), 0.3)).item()) < 1e-6
    True
    """

    kind = "beta"
    filler = 0.5

    def __init__(self, d: int) -> None:
        super().__init__(d, per_dimension=2)
        self.noise_shape = (2, d)

    def require_support(self, name: str, y: Float[Tensor, "T B d"]) -> None:
        """Raise BpttError unless y holds shares."""
        if not bool(((y > 0) & (y < 1)).all()):
            raise BpttError(
                f"{name} has values from {float(y.min()):g} to {float(y.max()):g}; expected above "
                "0 and below 1 everywhere for Beta (for shares that may be 0 or 1, squeeze them, "
                "as in 0.001 + 0.998 y)"
            )

    def _shapes(self, outputs: Float[Tensor, "*rows O"]) -> tuple[Tensor, Tensor]:
        """Return mκ and (1 − m)κ."""
        mean, log_concentration = outputs.chunk(2, dim=-1)
        concentration = log_concentration.exp()
        return torch.sigmoid(mean) * concentration, torch.sigmoid(-mean) * concentration

    def nll(
        self, outputs: Float[Tensor, "T B O"], y: Float[Tensor, "T B d"]
    ) -> Float[Tensor, "T B"]:
        """Return Σᵢ −log p(yᵢ | oᵢ), in nats."""
        p = Distribution(*self._shapes(outputs), validate_args=False)
        log_p: Tensor = p.log_prob(y)
        return -log_p.sum(dim=-1)

    def mean(self, outputs: Float[Tensor, "*rows O"]) -> Float[Tensor, "*rows d"]:
        """Return m."""
        return torch.sigmoid(outputs[..., : self.d])

    def draw(
        self,
        outputs: Float[Tensor, "*rows O"],
        noise: Float[Tensor, "*rows 2 d"],
        temperature: float = 1.0,
    ) -> Float[Tensor, "*rows d"]:
        """Return a gamma's share of two, each from a number of its own; at 0 the mean."""
        if is_zero(temperature, outputs):
            return self.mean(outputs).detach()
        require_0_or_1(self, temperature)
        logs = [
            log_gamma_quantile(share, shape)
            for share, shape in zip(noise.unbind(-2), self._shapes(outputs), strict=True)
        ]
        eps = torch.finfo(outputs.dtype).eps
        return torch.sigmoid(logs[0] - logs[1]).clamp(eps, 1 - eps).to(outputs.dtype)
