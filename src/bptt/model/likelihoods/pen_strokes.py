"""Where a pen goes next, and whether it is lifted: handwriting."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from bptt.errors import BpttError, require_whole
from bptt.model.likelihoods.gaussian_mixture import MOST_COMPONENTS, Mixture
from bptt.model.likelihoods.likelihood import is_zero
from bptt.model.likelihoods.quantiles import normal_share


class PenStrokes(Mixture):
    """An offset in the plane and an end-of-stroke bit at every step (Graves 2013, equations 18–26).

    p(y | o) = Σₖ πₖ N(y₁, y₂; μₖ, σₖ, ρₖ) · p(y₃), of two numbers that depend on each other in each
    component, and a bit. y is (T, B, 3). The outputs come K at a time: log π, but for a constant;
    μ₁; μ₂; log σ₁; log σ₂; and of ρ the inverse hyperbolic tangent; then one, whose σ(o) is the
    probability of the bit.

    >>> PenStrokes(components=20).outputs
    121
    """

    kind = "pen_strokes"

    def __init__(self, *, components: int = 20) -> None:
        require_whole("components", components, 1, MOST_COMPONENTS)
        super().__init__(3, components, 6 * components + 1)
        self.noise_shape = (4,)

    def require_support(self, name: str, y: Float[Tensor, "T B 3"]) -> None:
        """Raise BpttError unless y holds two finite numbers, and a bit."""
        super().require_support(name, y)
        bit = y[..., 2]
        if not bool(((bit == 0) | (bit == 1)).all()):
            raise BpttError(
                f"{name}[..., 2] has values from {float(bit.min()):g} to {float(bit.max()):g}; "
                "expected 1 where a stroke ends, else 0"
            )

    def nll(
        self, outputs: Float[Tensor, "T B O"], y: Float[Tensor, "T B 3"]
    ) -> Float[Tensor, "T B"]:
        """Return −log p(y | o), in nats."""
        logits, mean_1, mean_2, log_scale_1, log_scale_2, raw = self.blocks(outputs, 6)
        rho = torch.tanh(raw)
        z_1 = (y[..., 0:1] - mean_1) * torch.exp(-log_scale_1)
        z_2 = (y[..., 1:2] - mean_2) * torch.exp(-log_scale_2)
        log_rest = -2 * (raw.abs() + torch.nn.functional.softplus(-2 * raw.abs()) - math.log(2))
        square = z_1.square() + z_2.square() - 2 * rho * z_1 * z_2  # log_rest: log(1 − ρ²)
        log_p = torch.log_softmax(logits, dim=-1) - 0.5 * square * torch.exp(-log_rest)
        log_p = log_p - log_scale_1 - log_scale_2 - 0.5 * log_rest - math.log(2 * math.pi)
        bit, says = y[..., 2], outputs[..., -1]
        return -torch.logsumexp(log_p, dim=-1) - logsigmoid(torch.where(bit > 0, says, -says))

    def mean(self, outputs: Float[Tensor, "*rows O"]) -> Float[Tensor, "*rows 3"]:
        """Return Σₖ πₖ μₖ, and the probability of the bit."""
        logits, mean_1, mean_2 = self.blocks(outputs, 3)
        weights = torch.softmax(logits, dim=-1)
        means = [(weights * mean).sum(dim=-1, keepdim=True) for mean in (mean_1, mean_2)]
        return torch.cat([*means, torch.sigmoid(outputs[..., -1:])], dim=-1)

    def draw(
        self,
        outputs: Float[Tensor, "*rows O"],
        noise: Float[Tensor, "*rows 4"],
        temperature: float = 1.0,
    ) -> Float[Tensor, "*rows 3"]:
        """Return an offset of one component, and a bit; at 0 of the likeliest, its mean.

        temperature: what log π and the bit's log odds are divided by, and σ multiplied by.
        """
        logits, *kinds = self.blocks(outputs, 6)
        one = self.chosen(logits, noise[..., 0], temperature)
        mean_1, mean_2, log_scale_1, log_scale_2, raw = (
            (one * kind).sum(dim=-1, keepdim=True) for kind in kinds
        )
        rho = torch.tanh(raw)
        normal_1, normal_2, normal_3 = noise[..., 1:2], noise[..., 2:3], noise[..., 3:4]
        along = rho * normal_1 + torch.sqrt((1 - rho * rho).clamp(min=0)) * normal_2
        y_1 = mean_1 + normal_1 * torch.exp(log_scale_1) * temperature
        y_2 = mean_2 + along * torch.exp(log_scale_2) * temperature
        says = outputs[..., -1:]
        if is_zero(temperature, outputs):
            bit = says > 0
        else:
            bit = normal_share(normal_3) < torch.sigmoid(says / temperature)
        return torch.cat([y_1, y_2, bit.to(says.dtype)], dim=-1).detach()
