"""What the likelihoods of d numbers a step share."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from bptt.errors import BpttError, require_choice, require_memory, require_whole
from bptt.model.encodings import Features
from bptt.model.likelihoods.likelihood import Likelihood


class Vectors(Likelihood):
    """What they all have: y is (T, B, d).

    per_dimension: how many outputs there are for each; each kind of them comes in a block of d.
    filler: what stands beyond a sequence's end, where it has to have a probability too.
    """

    filler: ClassVar[float] = 0.0

    def __init__(self, d: int, per_dimension: int = 1) -> None:
        super().__init__()
        require_whole("the number of dimensions d", d, 1)
        self.d, self.outputs, self.noise_shape = d, per_dimension * d, (d,)
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
        if alive is not None and self.filler != 0:
            y = y.masked_fill(~alive.unsqueeze(-1), self.filler)
        self.require_support(name, y)
        return y

    def require_support(self, name: str, y: Float[Tensor, "T B d"]) -> None:
        """Raise BpttError unless p(y | o) can be above 0: here, unless y holds finite numbers."""
        if not bool(y.sum().isfinite()) and not bool(y.isfinite().all()):
            t, b, i = (~y.isfinite()).nonzero()[0].tolist()
            raise BpttError(
                f"{name} is {float(y[t, b, i])} at step {t} of sequence {b}, dimension {i}; "
                "expected finite numbers (where there is no target, any, with loss_weights 0)"
            )


class Located(Vectors):
    """Those whose outputs are the d means, beside a scale for each dimension.

    scale: "learned" for one parameter log s a dimension; "fixed" for s = 1.
    """

    def __init__(self, d: int, *, scale: str = "learned") -> None:
        super().__init__(d)
        require_choice("scale", scale, ("learned", "fixed"))
        require_memory(f"a {type(self).__name__}({d:,})", 4 * d)
        self.scale = scale
        self.log_scale = nn.Parameter(torch.zeros(d), requires_grad=scale == "learned")

    def mean(self, outputs: Float[Tensor, "*rows d"]) -> Float[Tensor, "*rows d"]:
        """Return o."""
        return outputs
