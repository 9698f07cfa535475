"""How the weights of a network start: what keeps the gradient's size at first."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from bptt.cells.cell import Cell
from bptt.errors import BpttError, require_choice, require_number, require_whole
from bptt.model.encodings import Tokens
from bptt.model.loop_options import LoopOptions
from bptt.model.modules import Modules

STARTS = ("orthogonal", "identity", "gaussian")
STD = 0.1
"""The spread of Gaussian weights, unless told."""
SMALL = 0.001
"""The spread of all weights but W where W starts as the identity (Le, Jaitly and Hinton 2015)."""


@dataclass(frozen=True, kw_only=True)
class Initial:
    """The first weights of a network.

    W: "orthogonal", each gate by itself, so that W keeps the norm of what it carries through time
    while the units are near the linear part of f (Saxe et al. 2014, section 3); "identity", with
    all other weights near 0 (Le, Jaitly and Hinton 2015); or "gaussian": all weights from
    N(0, std²), std 0.1 unless told, biases 0, as in Pascanu, Mikolov and Bengio 2013.
    radius: what the spectral radius of W, or of each gate's, is then scaled to; None for as it is.
    With skips, W and their matrices are at last divided by how many there are, unless they are
    Gaussian without a radius.
    forget_bias: what the bias of the gate that keeps the state starts at (Gers et al. 2000;
    Jozefowicz et al. 2015 have 1). chrono: the longest dependency that is expected, in steps: the
    gates' biases start as log u and −log u, u uniform from 1 to chrono − 1, so that units forget
    over times of all lengths up to it (Tallec and Ollivier 2018). Both are for gru and lstm.
    """

    W: Literal["orthogonal", "identity", "gaussian"] = "orthogonal"
    radius: float | None = None
    std: float | None = None
    forget_bias: float | None = None
    chrono: int | None = None

    def __post_init__(self) -> None:
        require_choice("the first W", self.W, STARTS)
        for name in ("radius", "std"):
            value = getattr(self, name)
            if value is not None:
                require_number(name, value, "a number above 0")
            if value is not None and not 0 < value < math.inf:
                raise BpttError(f"{name} is {value}; expected a number above 0")
        if self.std is not None and self.W != "gaussian":
            raise BpttError(
                f'std is {self.std} where W starts "{self.W}"; expected none, or W "gaussian"'
            )
        if self.forget_bias is not None:
            require_number("forget_bias", self.forget_bias, "a finite number")
        if self.forget_bias is not None and not math.isfinite(self.forget_bias):
            raise BpttError(f"forget_bias is {self.forget_bias}; expected a finite number")
        if self.chrono is not None:
            require_whole("chrono", self.chrono, 3)
        if self.chrono is not None and self.forget_bias is not None:
            raise BpttError(
                "chrono and forget_bias both set the gates' biases; expected one of them"
            )

    def radius_of(self, H: int) -> float:
        """Return the spectral radius of a W of H units; if it is Gaussian, as it is on average."""
        if self.radius is not None:
            return self.radius
        return self.spread * math.sqrt(H) if self.W == "gaussian" else 1.0

    @property
    def spread(self) -> float:
        """The standard deviation of weights that start Gaussian."""
        return STD if self.std is None else self.std

    def require(self, cell: str, kind: type[Cell], recurrence: str) -> None:
        """Raise BpttError unless this goes with the cell and the recurrence."""
        if not kind.is_torchs and self != Initial():
            raise BpttError(
                f'init is given with cell "{cell}"; expected none, for that cell starts itself'
            )
        is_gated = kind.keeps is not None
        if self.W == "identity" and is_gated:
            raise BpttError(
                f'W is to start as the identity with cell "{cell}"; expected tanh or relu, or '
                "another start: gates carry the state past W"
            )
        for name in ("forget_bias", "chrono"):
            if getattr(self, name) is not None and not is_gated:
                raise BpttError(f'{name} is given with cell "{cell}"; expected gru or lstm')
        if recurrence == "output" and (self.radius is not None or self.W == "identity"):
            raise BpttError(
                'the start of W is given with recurrence "output"; expected "hidden" or "both", '
                "which have a W"
            )


@torch.no_grad()
def initialise(net: Modules, kind: type[Cell], loop: LoopOptions, initial: Initial) -> None:
    """Give a network its first weights; b starts at 0, and torch's second bias is frozen there.

    So is b where it is normalised away, and the shift has its place. W and the skips' matrices
    share what W alone would have, unless they are Gaussian with a spread that was asked for: what
    they carry together is then no more than that.
    A cell that is none of torch's has started itself.
    Unless they are to be small or Gaussian, columns of U and R that stand for a token are drawn
    from N(0, 1), as in torch.nn.Embedding, and the rest of U and R, V and c uniformly within
    ±1/√H, as in torch.nn.Linear.
    """
    layer = net.recurrent
    for path, parameter in layer.named_parameters() if kind.is_torchs else ():
        name = _last(path)
        if name.startswith("bias"):
            nn.init.zeros_(parameter)
            parameter.requires_grad_(not name.startswith("bias_hh") and not loop.norm)
        elif name.startswith(("weight_hh", "weight_skip")):
            for gate in parameter.split(layer.hidden_size):
                _first_w(gate, initial)
            if initial.W != "gaussian" or initial.radius is not None:
                parameter.div_(len(loop.delays))
    _first_others(net, initial)
    if initial.forget_bias is not None or initial.chrono is not None:
        for name, parameter in layer.named_parameters():
            if _last(name).startswith("bias_ih"):
                _gate_biases(kind, parameter, initial)


def _last(name: str) -> str:
    """Return the name of a parameter without that of the cell that it is in."""
    return name.rpartition(".")[2]


def _first_others(net: Modules, initial: Initial) -> None:
    spread = {"identity": SMALL, "gaussian": initial.spread}.get(initial.W)
    if spread is None:
        for encoding, weight in ((net.inputs, net.U), (net.likelihood.encoding, net.R)):
            if isinstance(encoding, Tokens):
                nn.init.normal_(weight)
        return
    layer = net.recurrent.named_parameters()
    inputs = [weight for name, weight in layer if _last(name).startswith("weight_ih")]
    for weight in (*inputs, net.readout.weight):
        nn.init.normal_(weight, std=spread)
    nn.init.zeros_(net.readout.bias)


def _first_w(W: Tensor, initial: Initial) -> None:
    if initial.W == "orthogonal":
        nn.init.orthogonal_(W)
    elif initial.W == "identity":
        nn.init.eye_(W)
    else:
        nn.init.normal_(W, std=initial.spread)
    if initial.radius is not None:
        W *= initial.radius / float(torch.linalg.eigvals(W).abs().max())


def _gate_biases(kind: type[Cell], bias: Tensor, initial: Initial) -> None:
    """Set the biases of the gate that keeps the state, and of the one that lets in what is new."""
    gates = bias.chunk(kind.gates)
    start = torch.full_like(gates[0], initial.forget_bias or 0.0)
    if initial.chrono is not None:
        start = torch.empty(len(start)).uniform_(1, initial.chrono - 1).log().to(start)
    assert kind.keeps is not None  # Initial.require has seen to it
    gates[kind.keeps].copy_(start)
    if kind.lets_in is not None and initial.chrono is not None:
        gates[kind.lets_in].copy_(-start)
