"""d real numbers, with noise that is often small and now and then large."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Laplace as Distribution

from bptt.model.likelihoods.vectors import Located


class Laplace(Located):
    """d independent real numbers: p(yᵢ | o) = exp(−|yᵢ − oᵢ| / sᵢ) / 2sᵢ, with a scale sᵢ.

    y is (T, B, d). scale: "learned" for one parameter log sᵢ a dimension; "fixed" for s = 1, with
    which the loss is the absolute error, and a constant.

    >>> import torch
    >>> o, y = torch.zeros(1, 1, 1), torch.full((1, 1, 1), 2.0)
    >>> Laplace(1).nll(o, y).item()  # 2 + log 2 nats
    2.6931471824645996
    """

    kind = "laplace"

    def nll(
        self, outputs: Float[Tensor, "T B d"], y: Float[Tensor, "T B d"]
    ) -> Float[Tensor, "T B"]:
        """Return Σᵢ |yᵢ − oᵢ| / sᵢ + log 2sᵢ, in nats."""
        p = Distribution(outputs, self.log_scale.exp(), validate_args=False)
        log_p: Tensor = p.log_prob(y)
        return -log_p.sum(dim=-1)

    def draw(
        self,
        outputs: Float[Tensor, "*rows d"],
        noise: Float[Tensor, "*rows d"],
        temperature: float = 1.0,
    ) -> Float[Tensor, "*rows d"]:
        """Return where p, its scale times the temperature, sums to the noise."""
        tail = 1 - (2 * noise - 1).abs()
        away = -torch.log(tail.clamp(min=torch.finfo(outputs.dtype).tiny))
        off = torch.where(noise < 0.5, -away, away)
        return (outputs + off * (temperature * self.log_scale.exp())).detach()
