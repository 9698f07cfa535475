"""d real numbers, some of which may lie far off."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import StudentT as Distribution

from bptt.model.likelihoods.quantiles import log_gamma_quantile, normal_share
from bptt.model.likelihoods.vectors import Located


class StudentT(Located):
    """d independent real numbers: (yᵢ − oᵢ) / sᵢ has Student's t distribution of νᵢ degrees.

    y is (T, B, d). scale: "learned" for one parameter log sᵢ a dimension; "fixed" for s = 1. How
    heavy the tails are is learned: νᵢ = 2 + exp(log_excessᵢ), of which 4 at first, and above 2, so
    that there is a variance.

    >>> import torch
    >>> o, y = torch.zeros(1, 1, 1), torch.full((1, 1, 1), 100.0)
    >>> StudentT(1).nll(o, y).item() < 25  # Gaussian(1) says 5001
    True
    """

    kind = "student_t"
    random = staticmethod(torch.randn)

    def __init__(self, d: int, *, scale: str = "learned") -> None:
        super().__init__(d, scale=scale)
        self.log_excess = nn.Parameter(torch.full((d,), math.log(2.0)))
        self.noise_shape = (2, d)

    @property
    def degrees(self) -> Float[Tensor, " d"]:
        """ν of each dimension."""
        return 2 + self.log_excess.exp()

    def nll(
        self, outputs: Float[Tensor, "T B d"], y: Float[Tensor, "T B d"]
    ) -> Float[Tensor, "T B"]:
        """Return Σᵢ −log p(yᵢ | oᵢ), in nats."""
        p = Distribution(self.degrees, outputs, self.log_scale.exp(), validate_args=False)
        log_p: Tensor = p.log_prob(y)
        return -log_p.sum(dim=-1)

    def draw(
        self,
        outputs: Float[Tensor, "*rows d"],
        noise: Float[Tensor, "*rows 2 d"],
        temperature: float = 1.0,
    ) -> Float[Tensor, "*rows d"]:
        """Return o plus a normal number by the root of a chi-squared one, both scaled.

        The scale is s times the temperature.
        """
        normal, other = noise.unbind(-2)
        half = self.degrees / 2
        log_mean_square = log_gamma_quantile(normal_share(other), half) - half.log().double()
        off = normal * torch.exp(-0.5 * log_mean_square).to(outputs.dtype)
        return (outputs + off * (temperature * self.log_scale.exp())).detach()
