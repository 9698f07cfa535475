"""d real numbers, with normal noise."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from bptt.model.likelihoods.vectors import Located


class Gaussian(Located):
    """d independent real numbers at every step: p(yᵢ | o) is normal with mean oᵢ and a scale sᵢ.

    y is (T, B, d). scale: "learned" for one parameter log sᵢ a dimension; "fixed" for s = 1, with
    which the loss is half the squared error, and a constant.

    >>> import torch
    >>> o, y = torch.zeros(1, 1, 1), torch.full((1, 1, 1), 2.0)
    >>> Gaussian(1).nll(o, y).item()  # 2² / 2 + log(2π) / 2 nats
    2.918938636779785
    """

    kind = "gaussian"
    random = staticmethod(torch.randn)

    def nll(
        self, outputs: Float[Tensor, "T B d"], y: Float[Tensor, "T B d"]
    ) -> Float[Tensor, "T B"]:
        """Return Σᵢ (yᵢ − oᵢ)² / 2sᵢ² + log sᵢ + log(2π) / 2, in nats."""
        z = (y - outputs) * torch.exp(-self.log_scale)
        constant = self.log_scale.sum() + self.d * math.log(2 * math.pi) / 2
        return 0.5 * z.square().sum(dim=-1) + constant

    def draw(
        self,
        outputs: Float[Tensor, "*rows d"],
        noise: Float[Tensor, "*rows d"],
        temperature: float = 1.0,
    ) -> Float[Tensor, "*rows d"]:
        """Return o plus the noise times s times the temperature."""
        return (outputs + noise * (temperature * self.log_scale.exp())).detach()
