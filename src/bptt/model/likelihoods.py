"""What the outputs mean: the probability of y given o, how y is fed back, and how to sample."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from bptt.errors import BpttError, require_choice, require_whole
from bptt.model.encodings import BLANK, Tokens


class Categorical(nn.Module):
    """One of n symbols at every step: p(y | o) = softmax(o)_y.

    >>> import torch
    >>> o = torch.zeros(1, 1, 4)
    >>> float(Categorical(4).nll(o, torch.tensor([[2]])))  # log 4 nats
    1.3862943649291992
    """

    def __init__(self, n: int) -> None:
        super().__init__()
        require_whole("the number of symbols n", n, 1)
        self.n = n
        self.outputs = n
        self.encoding = Tokens(n)

    def extra_repr(self) -> str:
        """Return what print(net) shows of it."""
        return str(self.n)

    def config(self) -> dict[str, Any]:
        """Return the likelihood as plain values, for a file."""
        return {"kind": "categorical", "n": self.n}

    def blank(self, B: int, device: torch.device) -> Int[Tensor, " B"]:
        """Return the y⁰ of B fresh sequences: no symbol, the zero vector when fed back."""
        return torch.full((B,), BLANK, dtype=torch.int64, device=device)

    def checked(
        self, name: str, y: Tensor, T: int, B: int, alive: Bool[Tensor, "T B"] | None = None
    ) -> Tensor:
        """Return y, 0 where not alive, or raise BpttError unless it holds symbols, (T, B)."""
        return self.encoding.checked(name, y, T, B, y, alive, least=0)

    def nll(self, outputs: Float[Tensor, "T B n"], y: Int[Tensor, "T B"]) -> Float[Tensor, "T B"]:
        """Return −log softmax(o)_y, in nats."""
        flat = nn.functional.cross_entropy(
            outputs.flatten(0, 1), y.flatten().long(), reduction="none"
        )
        return flat.view(y.shape)

    def sample(
        self,
        outputs: Float[Tensor, "B n"],
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Int[Tensor, " B"]:
        """Draw y from softmax(o / temperature); temperature 0 takes the likeliest symbol."""
        if not 0 <= temperature < float("inf"):
            raise BpttError(f"temperature is {temperature}; expected a finite number of at least 0")
        if temperature < torch.finfo(outputs.dtype).tiny:  # 0, as far as these numbers can tell
            return outputs.argmax(dim=-1)
        below_best = outputs - outputs.amax(dim=-1, keepdim=True)  # so that no quotient overflows
        probabilities = torch.softmax(below_best / temperature, dim=-1)
        return torch.multinomial(probabilities, 1, generator=generator).squeeze(1)


Likelihood = Categorical


def likelihood_from_config(config: dict[str, Any]) -> Likelihood:
    """Return the likelihood that `Likelihood.config` described."""
    kinds = {"categorical": Categorical}
    require_choice("likelihood", config["kind"], list(kinds))
    return kinds[config["kind"]](config["n"])
