"""How a value enters the network: as a vector of features, or as one token of n."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from bptt.errors import BpttError, require_shape, require_whole
from bptt.kernel import plain_loop

BLANK = -1
"""The token that stands for none: it encodes to the zero vector."""


@dataclass(frozen=True)
class Features:
    """A vector of `width` real numbers at every step."""

    width: int
    kind: ClassVar[str] = "features"

    def __post_init__(self) -> None:
        require_whole("the number of features", self.width, 0)

    def checked(
        self, name: str, values: Tensor, T: int, B: int, like: Tensor, alive: Tensor | None = None
    ) -> Tensor:
        """Return `values`, 0 where not alive, or raise BpttError unless they are (T, B, width)."""
        require_shape(name, values.shape, "(T, B, features)", (T, B, self.width))
        require_dtype(name, values, like)
        require_device(name, values, like)
        return values if alive is None else values.masked_fill(~alive.unsqueeze(-1), 0)

    def blank(self, B: int, like: Tensor) -> Float[Tensor, "B width"]:
        """Return what stands for no value: zeros."""
        return like.new_zeros(B, self.width)

    def zeros(self, T: int, B: int, like: Tensor) -> Float[Tensor, "T B width"]:
        """Return zero vectors, with the dtype and device of `like`."""
        return like.new_zeros(T, B, self.width)

    def project(
        self, values: Float[Tensor, "T B width"], weight: Float[Tensor, "G width"]
    ) -> Float[Tensor, "T B G"]:
        """Return `weight` times every value."""
        return values @ weight.t()


@dataclass(frozen=True)
class Tokens:
    """One of `width` symbols at every step, numbered from 0; −1 is none, the zero vector.

    >>> import bptt
    >>> net = bptt.Network(bptt.Categorical(5), inputs=bptt.Tokens(3), recurrence="hidden")
    """

    width: int
    kind: ClassVar[str] = "tokens"

    def __post_init__(self) -> None:
        require_whole("the number of tokens", self.width, 1)

    def checked(
        self,
        name: str,
        values: Tensor,
        T: int,
        B: int,
        like: Tensor,
        alive: Tensor | None = None,
        *,
        least: int = BLANK,
    ) -> Tensor:
        """Return `values`, 0 where not alive, or raise BpttError unless they are tokens, (T, B).

        They are whole numbers from `least` to width − 1, and come back as torch.int64; the dtype of
        `like` plays no part.
        """
        require_shape(name, values.shape, "(T, B)", (T, B))
        require_device(name, values, like)
        values = values if alive is None else values.masked_fill(~alive, 0)
        if values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
            raise BpttError(
                f"{name} has dtype {values.dtype}; expected integer tokens (torch.int64)"
            )
        values = values.long()
        if values.numel() == 0:
            return values
        lowest, highest = (int(extreme) for extreme in torch.aminmax(values))
        if lowest < least or highest >= self.width:
            none = f", or {BLANK} for none" if least == BLANK else ""
            raise BpttError(
                f"{name} has tokens from {lowest} to {highest}; "
                f"expected 0 to {self.width - 1}{none}"
            )
        return values

    def blank(self, B: int, like: Tensor) -> Int64[Tensor, " B"]:
        """Return what stands for no value."""
        return torch.full((B,), BLANK, dtype=torch.int64, device=like.device)

    def zeros(self, T: int, B: int, like: Tensor) -> Int64[Tensor, "T B"]:
        """Return the first token, everywhere."""
        return torch.zeros(T, B, dtype=torch.int64, device=like.device)

    def project(
        self, values: Shaped[Tensor, "T B ..."], weight: Float[Tensor, "G width"]
    ) -> Float[Tensor, "T B G"]:
        """Return `weight` times the one-hot vector of every token, by looking up its column.

        Values that are real are taken for the vectors themselves: the probabilities of the tokens.
        """
        return plain_loop.project(values, weight)


Encoding = Features | Tokens


def require_dtype(name: str, values: Tensor, like: Tensor) -> None:
    """Raise BpttError unless `values` have the network's dtype."""
    if values.dtype != like.dtype:
        raise BpttError(
            f"{name} has dtype {values.dtype}; expected {like.dtype}, that of the network's "
            f"weights: convert one to the other with .to(...)"
        )


def require_device(name: str, values: Tensor, like: Tensor) -> None:
    """Raise BpttError unless `values` are where the network is."""
    if values.device != like.device:
        raise BpttError(
            f"{name} is on {values.device}; expected it on {like.device}, where the network's "
            "weights are: move one of them with .to(...)"
        )


def as_encoding(inputs: int | Encoding) -> Encoding:
    """Return what a Network's `inputs` argument means."""
    if isinstance(inputs, Features | Tokens):
        return inputs
    require_whole("inputs", inputs, 0)
    return Features(inputs)


def encoding_config(encoding: Encoding) -> dict[str, Any]:
    """Return the encoding as plain values, for a file."""
    return {"kind": encoding.kind, "width": encoding.width}


def encoding_from_config(config: dict[str, Any]) -> Encoding:
    """Return the encoding that `encoding_config` described."""
    kinds: dict[str, type[Encoding]] = {"features": Features, "tokens": Tokens}
    return kinds[config["kind"]](config["width"])
