"""Real numbers that may lie in several places."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from bptt.errors import require_memory, require_whole
from bptt.kernel.choice import choose
from bptt.model.likelihoods.likelihood import is_zero
from bptt.model.likelihoods.quantiles import normal_share
from bptt.model.likelihoods.vectors import Vectors

MOST_COMPONENTS = 256
"""Which numbers of half precision still tell apart."""


class Mixture(Vectors):
    """What mixtures share: K components, whose log π, but for a constant, are the first outputs."""

    random = staticmethod(torch.randn)
    numbers: Tensor

    def __init__(self, d: int, components: int, outputs: int) -> None:
        super().__init__(d)
        require_whole("components", components, 1, MOST_COMPONENTS)
        require_memory(f"a mixture of {components:,} in {d:,} dimensions", 4 * outputs)
        self.components, self.outputs, self.noise_shape = components, outputs, (1 + d,)
        numbers = torch.arange(components, dtype=torch.get_default_dtype())
        self.register_buffer("numbers", numbers, persistent=False)

    def blocks(
        self, outputs: Float[Tensor, "*rows O"], count: int
    ) -> list[Float[Tensor, "*rows K"]]:
        """Return so many of the outputs' blocks of K."""
        K = self.components
        return [outputs[..., at * K : (at + 1) * K] for at in range(count)]

    def chosen(
        self,
        logits: Float[Tensor, "*rows K"],
        normal: Float[Tensor, "*rows"],
        temperature: float,
    ) -> Float[Tensor, "*rows K"]:
        """Return 1 for the component that a normal number chooses, and 0 for the others."""
        if is_zero(temperature, logits):
            which = logits.argmax(dim=-1)
        else:
            below_best = logits - logits.amax(dim=-1, keepdim=True)
            which = choose(torch.exp(below_best / temperature), normal_share(normal))
        return torch.eq(self.numbers, which.unsqueeze(-1)).to(logits.dtype)


class GaussianMixture(Mixture):
    """d real numbers at every step, from one of K normal distributions: p(y | o) = Σₖ πₖ N(μₖ, σₖ).

    (Bishop 1994; Graves 2013, section 3.) y is (T, B, d). The outputs come K at a time: log π, but
    for a constant; the means in each dimension; log σ in each. Its mean, as it is fed back, is
    Σₖ πₖ μₖ.

    >>> GaussianMixture(1, components=2).outputs
    6
    """

    kind = "gaussian_mixture"

    def __init__(self, d: int, *, components: int = 10) -> None:
        require_whole("the number of dimensions d", d, 1)
        require_whole("components", components, 1, MOST_COMPONENTS)
        super().__init__(d, components, components * (1 + 2 * d))

    def nll(
        self, outputs: Float[Tensor, "T B O"], y: Float[Tensor, "T B d"]
    ) -> Float[Tensor, "T B"]:
        """Return −log Σₖ πₖ Πᵢ N(yᵢ; μₖᵢ, σₖᵢ), in nats."""
        logits, *kinds = self.blocks(outputs, 1 + 2 * self.d)
        log_p = torch.log_softmax(logits, dim=-1) - self.d * math.log(2 * math.pi) / 2
        means, log_scales = kinds[: self.d], kinds[self.d :]
        for y_i, mean, log_scale in zip(y.split(1, dim=-1), means, log_scales, strict=True):
            z = (y_i - mean) * torch.exp(-log_scale)
            log_p = log_p - 0.5 * z.square() - log_scale
        return -torch.logsumexp(log_p, dim=-1)

    def mean(self, outputs: Float[Tensor, "*rows O"]) -> Float[Tensor, "*rows d"]:
        """Return Σₖ πₖ μₖ."""
        logits, *kinds = self.blocks(outputs, 1 + 2 * self.d)
        weights = torch.softmax(logits, dim=-1)
        means = [(weights * mean).sum(dim=-1, keepdim=True) for mean in kinds[: self.d]]
        return torch.cat(means, dim=-1)

    def draw(
        self,
        outputs: Float[Tensor, "*rows O"],
        noise: Float[Tensor, "*rows n"],
        temperature: float = 1.0,
    ) -> Float[Tensor, "*rows d"]:
        """Return a component's mean plus noise by its σ; at 0 the mean of the likeliest component.

        temperature: what log π is divided by, and σ multiplied by.
        """
        logits, *kinds = self.blocks(outputs, 1 + 2 * self.d)
        one = self.chosen(logits, noise[..., 0], temperature)
        drawn = []
        for i in range(self.d):
            mean = (one * kinds[i]).sum(dim=-1, keepdim=True)
            scale = torch.exp((one * kinds[self.d + i]).sum(dim=-1, keepdim=True))
            drawn.append(mean + noise[..., i + 1 : i + 2] * (scale * temperature))
        return torch.cat(drawn, dim=-1).detach()
