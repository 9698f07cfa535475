"""Rate units in continuous time, as neuroscience has them (Song, Yang and Wang 2016)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from bptt.cells.cell import Activation, Cell
from bptt.errors import BpttError, require_choice, require_flag, require_number

RATES: dict[str, Activation] = {
    "tanh": torch.tanh,
    "relu": torch.relu,
    "softplus": functional.softplus,
    "hardtanh": functional.hardtanh,
}


class CTRNN(Cell):
    """h ← (1 − α) h + α f(p + W h), α = Δt / τ (Song, Yang and Wang 2016).

    While it trains, √(2/α) σ ξᵗ is added to p, ξᵗ standard Gaussian: noise of strength σ in
    continuous time, whatever Δt is.

    alpha: α. f: the rate as a function of the input current. excitatory: by Dale's principle, the
    share of units whose outgoing weights are all positive, those of the others negative; None for
    weights of both signs. masked: whether W is multiplied by the buffer `mask`, (H, H), which is
    then yours to fill: 0 where there is no connection. sigma: σ.
    """

    closed_by = "more"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        alpha: float = 0.2,
        f: Literal["tanh", "relu", "softplus", "hardtanh"] = "tanh",
        *,
        excitatory: float | None = None,
        masked: bool = False,
        sigma: float = 0.0,
    ) -> None:
        super().__init__(input_size, hidden_size)
        for name, value in (("alpha", alpha), ("excitatory", excitatory)):
            if value is not None:
                require_number(name, value, "a number from 0 to 1")
                if not 0 <= value <= 1:
                    raise BpttError(f"{name} is {value}; expected a number from 0 to 1")
        require_number("sigma", sigma, "a number of at least 0")
        if not 0 <= sigma < math.inf or (sigma > 0 and alpha == 0):
            raise BpttError(
                f"sigma is {sigma} with alpha {alpha}; expected a number of at least 0, and alpha "
                "above 0 where there is noise"
            )
        require_choice("f", f, list(RATES))
        require_flag("masked", masked)
        self.alpha, self.rate = float(alpha), f
        self.noise = math.sqrt(2 / alpha) * sigma if sigma > 0 else 0.0
        self.weight_hh = self.matrix(hidden_size, hidden_size)
        self.sign: Float[Tensor, " H"] | None
        self.mask: Bool[Tensor, "H H"] | None
        signs = None
        if excitatory is not None:
            units = torch.arange(hidden_size)
            signs = torch.where(units < round(excitatory * hidden_size), 1.0, -1.0)
        self.register_buffer("sign", signs)
        self.register_buffer("mask", torch.ones(hidden_size, hidden_size) if masked else None)

    def step(self, p: Float[Tensor, "B H"], h: Float[Tensor, "B H"]) -> Float[Tensor, "B H"]:
        """Return the new h."""
        W: Tensor = self.weight_hh
        if self.sign is not None:
            W = W.abs() * self.sign  # a unit's outgoing weights are a column
        if self.mask is not None:
            W = W * self.mask
        return torch.lerp(h, RATES[self.rate](torch.addmm(p, h, W.t())), self.alpha)
