"""d counts that vary by more than a Poisson's."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import NegativeBinomial as Distribution

from bptt.errors import require_memory
from bptt.model.likelihoods.likelihood import is_zero, require_0_or_1
from bptt.model.likelihoods.poisson import Counts
from bptt.model.likelihoods.quantiles import log_gamma_quantile, poisson_quantile


class NegativeBinomial(Counts):
    """d independent counts at every step, of mean μ = exp(o) and variance μ + μ² / r.

    y is (T, B, d). r = exp(log_size), one a dimension, is learned: a Poisson's rate that varies as
    a gamma distribution of shape r. Its mean, as it is fed back, is μ.

    >>> import torch
    >>> o = y = torch.zeros(1, 1, 1)
    >>> round(NegativeBinomial(1).nll(o, y).item(), 4)  # log 2 nats
    0.6931
    """

    kind = "negative_binomial"

    def __init__(self, d: int) -> None:
        super().__init__(d)
        require_memory(f"a NegativeBinomial({d:,})", 4 * d)
        self.log_size = nn.Parameter(torch.zeros(d))
        self.noise_shape = (2, d)

    def nll(
        self, outputs: Float[Tensor, "T B d"], y: Float[Tensor, "T B d"]
    ) -> Float[Tensor, "T B"]:
        """Return Σᵢ −log p(yᵢ | oᵢ), in nats."""
        size = self.log_size.exp()
        p = Distribution(size, logits=outputs - self.log_size, validate_args=False)
        log_p: Tensor = p.log_prob(y)
        return -log_p.sum(dim=-1)

    def mean(self, outputs: Float[Tensor, "*rows d"]) -> Float[Tensor, "*rows d"]:
        """Return exp(o)."""
        return outputs.exp()

    def draw(
        self,
        outputs: Float[Tensor, "*rows d"],
        noise: Float[Tensor, "*rows 2 d"],
        temperature: float = 1.0,
    ) -> Float[Tensor, "*rows d"]:
        """Return a count of a rate, each from a number of its own; at 0 the likeliest."""
        size = self.log_size.exp()
        if is_zero(temperature, outputs):
            return (outputs.exp() * (1 - 1 / size)).floor().clamp(min=0).detach()
        require_0_or_1(self, temperature)
        of_rate, of_count = noise.unbind(-2)
        log_rate = log_gamma_quantile(of_rate, size) + (outputs - self.log_size).double()
        return poisson_quantile(of_count, log_rate.exp()).to(outputs.dtype)
