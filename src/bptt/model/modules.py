"""A network's modules, as one call sees them: what every way to run it works on."""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Float, Shaped
from torch import Tensor, nn

from bptt.model.encodings import Encoding
from bptt.model.likelihoods.likelihood import Likelihood
from bptt.model.stack import Stack
from bptt.model.state import Regime


class Modules(NamedTuple):
    """The recurrent layers, the read-out, the likelihood; and how x and yᵗ⁻¹ enter.

        aᵗ = b + W hᵗ⁻¹ + R yᵗ⁻¹ + U xᵗ,    hᵗ = f(aᵗ),    oᵗ = c + V hᵗ,    Lᵗ = −log p(yᵗ | oᵗ)

    inputs: what x is. recurrence: "hidden", "output" or "both".
    """

    recurrent: Stack
    readout: nn.Linear
    likelihood: Likelihood
    inputs: Encoding
    recurrence: str

    @property
    def feeds_back(self) -> bool:
        """Whether yᵗ⁻¹ enters through R."""
        return self.recurrence != "hidden"

    @property
    def x_can_be_previous_y(self) -> bool:
        """Whether x, when none is given, is taken to be yᵗ⁻¹: U then stands in R's place."""
        return not self.feeds_back and self.inputs == self.likelihood.encoding

    @property
    def U(self) -> Float[Tensor, "G I"]:
        """Input to hidden, of the first layer."""
        U: Tensor = self.recurrent.part("weight_ih", "_l0")
        return U[:, : self.inputs.width]

    @property
    def R(self) -> Float[Tensor, "G Y"]:
        """Output to hidden, of the first layer; without columns where recurrence is "hidden"."""
        U: Tensor = self.recurrent.part("weight_ih", "_l0")
        return U[:, self.inputs.width :]

    @property
    def V(self) -> Float[Tensor, "O H"]:
        """Hidden to output."""
        return self.readout.weight

    def feedback_weight(self, x: Tensor | None) -> Float[Tensor, "G Y"] | None:
        """Return what yᵗ⁻¹ enters by: R, or U where it stands in x's place, or None."""
        if self.feeds_back:
            return self.R
        return self.U if x is None and self.x_can_be_previous_y else None

    def project_x(self, x: Shaped[Tensor, "T B *x"] | None) -> Float[Tensor, "... G"]:
        """Return b + U xᵗ, (T, B, G), or b alone where there is no x."""
        p = self.inputs.project(x, self.U) if x is not None else None
        bias = self.recurrent.input_bias()
        if bias is None:
            bias = self.U.new_zeros(len(self.U))
        return bias if p is None else bias + p

    def outputs_of(self, h: Float[Tensor, "... H"]) -> Float[Tensor, "... O"]:
        """Return o = c + V h."""
        return nn.functional.linear(h, self.V, self.readout.bias)

    def is_parallel(self, regime: Regime) -> bool:
        """Return whether no step waits for the one before: there is no loop, or it is cut."""
        return self.recurrence == "output" and regime.is_forced
