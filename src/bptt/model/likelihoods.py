"""What the outputs mean: the probability of y given o, how y is fed back, and how to sample.

Sampling is a function of the outputs and of random numbers that are drawn beforehand, so that it
can be a part of a step, which the kernel and the plain loop run alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from bptt.errors import (
    BpttError,
    require_choice,
    require_memory,
    require_number,
    require_whole,
)
from bptt.kernel.choice import choose
from bptt.model.encodings import Encoding, Features, Tokens


class Likelihood(nn.Module):
    """What every likelihood has; a class of its own says what o, (..., O), means for y.

    outputs: O. encoding: how y, or the mean of it, enters as yᵗ⁻¹. random: what the random numbers
    are, of which a sample takes as many as noise_shape says.
    """

    kind: ClassVar[str] = "custom"
    random: ClassVar[Callable[..., Tensor]] = staticmethod(torch.rand)
    noise_shape: tuple[int, ...]
    outputs: int
    encoding: Encoding

    def config(self) -> dict[str, Any]:
        """Return the likelihood as plain values, for a file."""
        raise _missing(self, "config")

    def extra_repr(self) -> str:
        """Return what print(net) shows of it."""
        if type(self).config is Likelihood.config:
            return ""
        return ", ".join(str(value) for key, value in self.config().items() if key != "kind")

    def blank(self, B: int, like: Tensor) -> Shaped[Tensor, "B *y"]:
        """Return the y⁰ of B fresh sequences, which is zero when fed back."""
        return self.encoding.blank(B, like)

    def checked(
        self,
        name: str,
        y: Tensor,
        T: int,
        B: int,
        like: Tensor,
        alive: Bool[Tensor, "T B"] | None = None,
    ) -> Shaped[Tensor, "T B *y"]:
        """Return y, 0 where not alive, or raise BpttError unless p(y | o) can be above 0."""
        raise _missing(self, "checked")

    def nll(
        self, outputs: Float[Tensor, "T B O"], y: Shaped[Tensor, "T B *y"]
    ) -> Float[Tensor, "T B"]:
        """Return −log p(y | o), in nats, constants included."""
        raise _missing(self, "nll")

    def mean(self, outputs: Float[Tensor, "*rows O"]) -> Float[Tensor, "*rows Y"]:
        """Return the mean of y as it is fed back, with its gradient."""
        raise _missing(self, "mean")

    def noise(
        self, T: int, B: int, like: Tensor, generator: torch.Generator | None = None
    ) -> Float[Tensor, "T B *noise"]:
        """Return the random numbers from which `draw` makes T samples of B sequences."""
        shape = (T, B, *self.noise_shape)
        return self.random(shape, dtype=like.dtype, device=like.device, generator=generator)

    def draw(
        self,
        outputs: Float[Tensor, "*rows O"],
        noise: Float[Tensor, "..."],
        temperature: float = 1.0,
    ) -> Shaped[Tensor, "..."]:
        """Return the y that the random numbers make of the outputs, to which no gradient goes.

        temperature: below 1 makes likely values likelier; 0 takes the likeliest.
        """
        raise _missing(self, "draw")

    @torch.no_grad()
    def sample(
        self,
        outputs: Float[Tensor, "B O"],
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Shaped[Tensor, "B *y"]:
        """Draw y from p(y | o), at a temperature as in `draw`."""
        require_temperature(temperature)
        noise = self.noise(1, len(outputs), outputs, generator)[0]
        return self.draw(outputs, noise, temperature)


def _missing(likelihood: Likelihood, method: str) -> BpttError:
    return BpttError(
        f"{type(likelihood).__name__} has no {method}; expected a method of that name, as "
        "bptt.Likelihood describes it, for this call"
    )


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
        self.n = n
        self.noise_shape = ()
        self.outputs = n
        self.encoding: Tokens = Tokens(n)

    def config(self) -> dict[str, Any]:
        """Return the likelihood as plain values, for a file."""
        return {"kind": self.kind, "n": self.n}

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
        if temperature < torch.finfo(outputs.dtype).tiny:  # 0, as far as these numbers can tell
            return outputs.argmax(dim=-1)
        below_best = outputs - outputs.amax(dim=-1, keepdim=True)  # so that no quotient overflows
        weights = torch.exp(below_best / temperature)
        return choose(weights, noise)


class Vectors(Likelihood):
    """What the likelihoods of d numbers a step share: y is (T, B, d), and so are the outputs."""

    def __init__(self, d: int) -> None:
        super().__init__()
        require_whole("the number of dimensions d", d, 1)
        self.d, self.outputs, self.noise_shape = d, d, (d,)
        self.encoding = Features(d)

    def checked(
        self,
        name: str,
        y: Tensor,
        T: int,
        B: int,
        like: Tensor,
        alive: Bool[Tensor, "T B"] | None = None,
    ) -> Float[Tensor, "T B d"]:
        """Return y, 0 where not alive, or raise BpttError unless p(y | o) can be above 0.

        Booleans and whole numbers become the network's dtype.
        """
        y = y if y.is_floating_point() else y.to(like.dtype)
        y = self.encoding.checked(name, y, T, B, like, alive)
        self.require_support(name, y)
        return y

    def require_support(self, name: str, y: Float[Tensor, "T B d"]) -> None:
        """Raise BpttError unless p(y | o) can be above 0."""
        raise NotImplementedError


class Bernoulli(Vectors):
    """d independent bits at every step: p(yᵢ = 1 | o) = σ(oᵢ).

    y is (T, B, d) of zeros and ones. Its mean, as it is fed back, are the d probabilities.

    >>> import torch
    >>> float(Bernoulli(2).nll(torch.zeros(1, 1, 2), torch.ones(1, 1, 2)))  # 2 log 2 nats
    1.3862943649291992
    """

    kind = "bernoulli"

    def config(self) -> dict[str, Any]:
        """Return the likelihood as plain values, for a file."""
        return {"kind": self.kind, "d": self.d}

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
        if temperature < torch.finfo(outputs.dtype).tiny:
            return (outputs > 0).to(outputs.dtype)
        return (noise < torch.sigmoid(outputs / temperature)).to(outputs.dtype)


class Gaussian(Vectors):
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

    def __init__(self, d: int, *, scale: str = "learned") -> None:
        super().__init__(d)
        require_choice("scale", scale, ("learned", "fixed"))
        require_memory(f"a Gaussian({d:,})", 4 * d)
        self.scale = scale
        self.log_scale = nn.Parameter(torch.zeros(d), requires_grad=scale == "learned")

    def config(self) -> dict[str, Any]:
        """Return the likelihood as plain values, for a file."""
        return {"kind": self.kind, "d": self.d, "scale": self.scale}

    def require_support(self, name: str, y: Float[Tensor, "T B d"]) -> None:
        """Raise BpttError unless y holds finite numbers."""
        if not bool(y.sum().isfinite()) and not bool(y.isfinite().all()):
            t, b, i = (~y.isfinite()).nonzero()[0].tolist()
            raise BpttError(
                f"{name} is {float(y[t, b, i])} at step {t} of sequence {b}, dimension {i}; "
                "expected finite numbers (where there is no target, any, with loss_weights 0)"
            )

    def nll(
        self, outputs: Float[Tensor, "T B d"], y: Float[Tensor, "T B d"]
    ) -> Float[Tensor, "T B"]:
        """Return Σᵢ (yᵢ − oᵢ)² / 2sᵢ² + log sᵢ + log(2π) / 2, in nats."""
        z = (y - outputs) * torch.exp(-self.log_scale)
        constant = self.log_scale.sum() + self.d * math.log(2 * math.pi) / 2
        return 0.5 * z.square().sum(dim=-1) + constant

    def mean(self, outputs: Float[Tensor, "*rows d"]) -> Float[Tensor, "*rows d"]:
        """Return o."""
        return outputs

    def draw(
        self,
        outputs: Float[Tensor, "*rows d"],
        noise: Float[Tensor, "*rows d"],
        temperature: float = 1.0,
    ) -> Float[Tensor, "*rows d"]:
        """Return o plus the noise times s times the temperature."""
        return (outputs + noise * (temperature * self.log_scale.exp())).detach()


KINDS: dict[str, type[Likelihood]] = {
    "categorical": Categorical,
    "bernoulli": Bernoulli,
    "gaussian": Gaussian,
}


def likelihood_from_config(config: dict[str, Any]) -> Likelihood:
    """Return the likelihood that `Likelihood.config` described."""
    rest = dict(config)
    kind = rest.pop("kind")
    require_choice("likelihood", kind, list(KINDS))
    return KINDS[kind](**rest)


def require_temperature(temperature: float) -> None:
    """Raise BpttError unless samples can be drawn at this temperature."""
    require_number("temperature", temperature)
    if not 0 <= temperature < math.inf:
        raise BpttError(f"temperature is {temperature}; expected a finite number of at least 0")
