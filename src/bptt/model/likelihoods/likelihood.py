"""What every likelihood is: the probability of y given o, how y is fed back, and how to sample.

Sampling is a function of the outputs and of random numbers that are drawn beforehand, so that it
can be a part of a step, which the kernel and the plain loop run alike.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from bptt.errors import BpttError, require_number, shown
from bptt.kernel.blueprint import note_arguments
from bptt.model.encodings import Encoding

LIKELIHOODS: dict[str, type[Likelihood]] = {}
"""The classes by their names, which a file that tells of a network has."""


class Likelihood(nn.Module):
    """What o, (..., O), says of y: a class of its own for each likelihood, which may be a user's.

    kind: a name, if files are to name it. outputs: O. encoding: how y, or the mean of it, enters as
    yᵗ⁻¹. random: what the random numbers are, of which a sample takes as many as noise_shape says.

    A class has an nll and, for what it is to be used for, a mean (that is fed back, or shown) and a
    draw (a sample). They are functions of rows, written in torch; see docs/extending.md.
    """

    kind: ClassVar[str] = "custom"
    random: ClassVar[Callable[..., Tensor]] = staticmethod(torch.rand)
    noise_shape: tuple[int, ...]
    outputs: int
    encoding: Encoding
    arguments: dict[str, Any]

    def __init_subclass__(cls, **more: Any) -> None:
        """Register a class that has a name of its own."""
        super().__init_subclass__(**more)
        name = vars(cls).get("kind")
        if name is None:
            return
        other = LIKELIHOODS.get(name, cls)
        if (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
            raise BpttError(
                f"{other.__qualname__} and {cls.__qualname__} are both of kind {name!r}; expected "
                "another name for one of them"
            )
        LIKELIHOODS[name] = cls

    def __new__(cls, *args: Any, **options: Any) -> Likelihood:
        """Note the arguments, from which the same can be made again."""
        made = super().__new__(cls)
        note_arguments(made, args, options)
        return made

    def config(self) -> dict[str, Any]:
        """Return the likelihood as plain values, for a file."""
        if LIKELIHOODS.get(self.kind) is not type(self):
            raise BpttError(
                f"{type(self).__name__} has no kind of its own; expected a name, as in "
                f'kind = "{type(self).__name__.lower()}", by which a file can name it'
            )
        return {"kind": self.kind, **self.arguments}

    def extra_repr(self) -> str:
        """Return what print(net) shows of it."""
        return ", ".join(map(str, self.arguments.values()))

    def blank(self, B: int, like: Tensor) -> Shaped[Tensor, " B *y"]:
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
        return self.encoding.checked(name, y, T, B, like, alive)

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
    ) -> Shaped[Tensor, " B *y"]:
        """Draw y from p(y | o), at a temperature as in `draw`."""
        require_temperature(temperature)
        noise = self.noise(1, len(outputs), outputs, generator)[0]
        return self.draw(outputs, noise, temperature)


def _missing(likelihood: Likelihood, method: str) -> BpttError:
    return BpttError(
        f"{type(likelihood).__name__} has no {method}; expected a method of that name, as "
        "bptt.Likelihood describes it, for this call"
    )


def likelihood_from_config(config: object) -> Likelihood:
    """Return the likelihood that `Likelihood.config` described, or raise BpttError."""
    if not isinstance(config, dict) or not isinstance(config.get("kind"), str):
        raise BpttError(f"the likelihood is {shown(config)}; expected its kind and its arguments")
    rest = dict(config)
    kind = rest.pop("kind")
    if kind not in LIKELIHOODS:
        near = "of a class of your own, import that first" if kind.isidentifier() else "a known one"
        raise BpttError(
            f"likelihood is {kind!r}; expected one of {', '.join(LIKELIHOODS)}; or {near}"
        )
    try:
        inspect.signature(LIKELIHOODS[kind]).bind(**rest)
    except TypeError as error:
        raise BpttError(f"the likelihood {kind!r} has other arguments: {error}") from None
    return LIKELIHOODS[kind](**rest)


def is_zero(temperature: float, like: Tensor) -> bool:
    """Return whether a temperature is 0, as far as numbers of this dtype can tell."""
    return temperature < torch.finfo(like.dtype).tiny


def require_temperature(temperature: float) -> None:
    """Raise BpttError unless samples can be drawn at this temperature."""
    require_number("temperature", temperature)
    if not 0 <= temperature < math.inf:
        raise BpttError(f"temperature is {temperature}; expected a finite number of at least 0")


def require_0_or_1(likelihood: Likelihood, temperature: float) -> None:
    """Raise BpttError for a temperature between, at which there is no such distribution."""
    if temperature not in (0, 1):
        raise BpttError(
            f"temperature is {temperature} for {type(likelihood).__name__}; expected 1, for its "
            "samples, or 0, for the likeliest value"
        )
