"""One of n symbols."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from bptt.errors import require_whole
from bptt.kernel.choice import choose
from bptt.model.encodings import Tokens
from bptt.model.likelihoods.likelihood import Likelihood, is_zero


class Categorical(Likelihood):
    """One of n symbols at every step: p(y | o) = softmax(o)_y.

    Its mean, as it is fed back, are the n probabilities.

    >>> import torch
    >>> o = torch.zeros(1, 1, 4)
    >>> float(Categorical(4).nll(o, torch.tensor([[2]])))  # log 4 nats
    1.3862943649291992
    """

    kind = "categorical"

    def __init__(self, n: int) -> None:
        super().__init__()
        require_whole("the number of symbols n", n, 1)
        self.n = self.outputs = n
        self.noise_shape = ()
        self.encoding: Tokens = Tokens(n)

    def checked(
        self,
        name: str,
        y: Tensor,
        T: int,
        B: int,
        like: Tensor,
        alive: Bool[Tensor, "T B"] | None = None,
    ) -> Int[Tensor, "T B"]:
        """Return y, 0 where not alive, or raise BpttError unless it holds symbols, (T, B)."""
        return self.encoding.checked(name, y, T, B, like, alive, least=0)

    def nll(self, outputs: Float[Tensor, "T B n"], y: Int[Tensor, "T B"]) -> Float[Tensor, "T B"]:
        """Return −log softmax(o)_y, in nats."""
        flat = nn.functional.cross_entropy(
            outputs.flatten(0, 1), y.flatten().long(), reduction="none"
        )
        return flat.view(y.shape)

    def mean(self, outputs: Float[Tensor, "*rows n"]) -> Float[Tensor, "*rows n"]:
        """Return softmax(o)."""
        return torch.softmax(outputs, dim=-1)

    def draw(
        self,
        outputs: Float[Tensor, "*rows n"],
        noise: Float[Tensor, "*rows"],
        temperature: float = 1.0,
    ) -> Int[Tensor, "*rows"]:
        """Return the first symbol up to which softmax(o / temperature) sums to over the noise."""
        if is_zero(temperature, outputs):
            return outputs.argmax(dim=-1)
        below_best = outputs - outputs.amax(dim=-1, keepdim=True)  # so that no quotient overflows
        weights = torch.exp(below_best / temperature)
        return choose(weights, noise)
