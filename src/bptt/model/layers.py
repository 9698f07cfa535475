"""Layers with torch's parameters by torch's names, run from the projected input on.

A layer's first product, pᵗ = b + U xᵗ + R yᵗ⁻¹, stands apart from its loop over time: it needs no
loop, and for a token it is no product but a look-up (see `bptt.model.encodings`).
"""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.rnn import RNNBase

from bptt.kernel import ops, reference
from bptt.kernel.layout import DENSE, Layout
from bptt.kernel.reference import State

Hidden = Float[Tensor, "layers B H"] | tuple[Float[Tensor, "layers B H"], ...] | None
"""What a layer carries from step to step: h; (h, c) for an LSTM; None where nothing loops."""

ACTIVATIONS = {"tanh": torch.tanh, "relu": torch.relu}


class Recurrent(RNNBase):
    """A stack of layers in which hᵗ depends on hᵗ⁻¹, with the parameters of torch.nn's."""

    states: ClassVar[int] = 1
    weight_ih_l0: Tensor
    weight_hh_l0: Tensor

    def __init__(self, mode: str, input_size: int, hidden_size: int, num_layers: int) -> None:
        super().__init__(mode, max(input_size, 1), hidden_size, num_layers)
        if input_size == 0:  # nothing comes in but the state; torch.nn's would refuse
            self.input_size = 0
            self.weight_ih_l0 = nn.Parameter(self.weight_ih_l0.detach()[:, :0])

    def layer(
        self, k: int, projected: Tensor, state: State, layout: Layout
    ) -> tuple[Tensor, State]:
        """Run layer k over time: what makes a subclass."""
        raise NotImplementedError

    def input_bias(self, k: int) -> Float[Tensor, " G"]:
        """Return what layer k adds to its projected input: torch's two biases in one."""
        both: Tensor = getattr(self, f"bias_ih_l{k}") + getattr(self, f"bias_hh_l{k}")
        return both

    def zero_state(self, B: int) -> Hidden:
        """Return the state of B fresh sequences."""
        h = self.weight_hh_l0.new_zeros(self.num_layers, B, self.hidden_size)
        return (h,) * self.states if self.states > 1 else h

    def run(
        self, projected: Float[Tensor, "... G"], hidden: Hidden, layout: Layout = DENSE
    ) -> tuple[Float[Tensor, "... H"], Hidden]:
        """Return the top layer's h at every step, and every layer's last state of each sequence."""
        assert hidden is not None
        starts = hidden if isinstance(hidden, tuple) else (hidden,)
        ends = []
        for k in range(self.num_layers):
            if k > 0:
                weight = getattr(self, f"weight_ih_l{k}")
                projected = nn.functional.linear(projected, weight, self.input_bias(k))
            projected, end = self.layer(k, projected, tuple(start[k] for start in starts), layout)
            ends.append(end)
        stacked = tuple(torch.stack(layers) for layers in zip(*ends, strict=True))
        return projected, stacked if isinstance(hidden, tuple) else stacked[0]


class RNN(Recurrent):
    """hᵗ = f(pᵗ + W hᵗ⁻¹), where f is tanh or relu (Elman 1990)."""

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, *, nonlinearity: str = "tanh"
    ) -> None:
        super().__init__(f"RNN_{nonlinearity.upper()}", input_size, hidden_size, num_layers)
        self.nonlinearity = nonlinearity

    def layer(
        self, k: int, projected: Tensor, state: State, layout: Layout
    ) -> tuple[Tensor, State]:
        """Run layer k over time."""
        W, relu = getattr(self, f"weight_hh_l{k}"), self.nonlinearity == "relu"
        h, last = ops.elman(projected, W, state[0], relu=relu, layout=layout)
        return h, (last,)


class GRU(Recurrent):
    """A gated recurrent unit (Cho et al. 2014), in torch's form."""

    def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1) -> None:
        super().__init__("GRU", input_size, hidden_size, num_layers)

    def input_bias(self, k: int) -> Float[Tensor, " G"]:
        """Return the first bias alone: the second sits inside the reset gate's product."""
        bias: Tensor = getattr(self, f"bias_ih_l{k}")
        return bias

    def layer(
        self, k: int, projected: Tensor, state: State, layout: Layout
    ) -> tuple[Tensor, State]:
        """Run layer k over time."""
        W, bias = getattr(self, f"weight_hh_l{k}"), getattr(self, f"bias_hh_l{k}")
        h, last = ops.gru(projected, W, bias, state[0], layout=layout)
        return h, (last,)


class LSTM(Recurrent):
    """A long short-term memory (Hochreiter and Schmidhuber 1997; Gers et al. 2000)."""

    states: ClassVar[int] = 2

    def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1) -> None:
        super().__init__("LSTM", input_size, hidden_size, num_layers)

    def layer(
        self, k: int, projected: Tensor, state: State, layout: Layout
    ) -> tuple[Tensor, State]:
        """Run layer k over time, by the reference."""
        step = reference.lstm(getattr(self, f"weight_hh_l{k}"))
        return reference.unroll(step, projected, state, layout)


class Feedforward(nn.Module):
    """hᵗ = f(pᵗ): a stack of layers without hidden-to-hidden recurrence, hence without a loop."""

    weight_ih_l0: Tensor

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, *, nonlinearity: str = "tanh"
    ) -> None:
        super().__init__()
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.nonlinearity = nonlinearity
        for k in range(num_layers):
            columns = input_size if k == 0 else hidden_size
            self.register_parameter(
                f"weight_ih_l{k}", nn.Parameter(torch.empty(hidden_size, columns))
            )
            self.register_parameter(f"bias_ih_l{k}", nn.Parameter(torch.empty(hidden_size)))
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -(hidden_size**-0.5), hidden_size**-0.5)

    def extra_repr(self) -> str:
        """Return what print(net) shows of it."""
        return f"{self.input_size}, {self.hidden_size}, num_layers={self.num_layers}"

    def input_bias(self, k: int) -> Float[Tensor, " H"]:
        """Return what layer k adds to its projected input."""
        bias: Tensor = getattr(self, f"bias_ih_l{k}")
        return bias

    def zero_state(self, B: int) -> Hidden:
        """Return the state of B fresh sequences: there is none."""
        return None

    def run(
        self, projected: Float[Tensor, "... H"], hidden: Hidden, layout: Layout = DENSE
    ) -> tuple[Float[Tensor, "... H"], Hidden]:
        """Return every h at once; where the rows lie in time plays no part."""
        f = ACTIVATIONS[self.nonlinearity]
        for k in range(self.num_layers):
            if k > 0:
                weight = getattr(self, f"weight_ih_l{k}")
                projected = nn.functional.linear(projected, weight, self.input_bias(k))
            projected = f(projected)
        return projected, None
