"""RNN, GRU and LSTM layers: torch.nn's, faster; and a layer without recurrence.

A layer's first product, pᵗ = b + U xᵗ + R yᵗ⁻¹, stands apart from its loop over time: it needs no
loop, and for a token it is no product but a look-up (see `bptt.model.encodings`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from types import MappingProxyType
from typing import Any, ClassVar, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.rnn import RNNBase
from torch.nn.utils.rnn import PackedSequence

from bptt.cells.elman import feedforward, feedforward_rows
from bptt.cells.kind import Activation
from bptt.cells.registry import CELLS
from bptt.errors import BpttError, require_choice, require_kind
from bptt.kernel import binding, ops
from bptt.kernel.layout import DENSE, Layout
from bptt.kernel.native_step import Source
from bptt.kernel.omega import OmegaTerm
from bptt.kernel.ops import Recipe, Run
from bptt.kernel.plain import are_plain, is_traced, is_transformed, leave_to_python
from bptt.kernel.plain_loop import State

Hidden = Float[Tensor, "layers B H"] | tuple[Float[Tensor, "layers B H"], ...] | None
"""What a layer carries from step to step: h; (h, c) for an LSTM; None where nothing loops."""

Listener = Callable[["Recurrent", str, Tensor, Tensor, Tensor, Layout], None]
"""Told of a layer, its suffix, projected input p, states h, state h⁰ before them, and layout."""

Module = TypeVar("Module", bound=nn.Module)

KINDS = {kind.mode: kind for kind in CELLS.values()}
"""The cells by torch's names."""
ELMAN = [name for name, kind in CELLS.items() if kind.f is not None]
"""Those without gates."""
ROWS_OF_ONE_STEP = 4
"""Up to how many sequences torch's RNN and GRU take one step of faster than ours."""
LARGE_LSTM = 1000
"""From how many units, and rows, on torch's LSTM is faster than ours."""


class Recurrent(RNNBase):
    """What RNN, GRU and LSTM share: layers and directions, on the parameters of torch.nn's.

    biases: what is added to the projected input, outside the loop. closed_by: what closes the loop:
    "W" alone, with "gates", or with "more".
    """

    states: int = 1
    torch_layer: ClassVar[type[RNNBase]]
    listener: Listener | None = None
    omega: OmegaTerm | None = None
    biases: ClassVar[tuple[str, ...]] = ("bias_ih", "bias_hh")
    closed_by: ClassVar[str] = "W"
    dropped: Mapping[str, Tensor] = MappingProxyType({})  # of one call: see bptt.model.entry
    weight_ih_l0: Tensor
    weight_hh_l0: Tensor

    def layer(
        self,
        suffix: str,
        rows: Tensor,
        state: State,
        layout: Layout,
        *,
        is_projected: bool,
        through: Run | None = None,
    ) -> tuple[Tensor, State]:
        """Run one layer in one direction over time, on its input or on the projection of it."""
        recipe, source = self.recipe(suffix), Source(rows)
        if not is_projected:
            biases = [self.part(name, suffix) for name in self.biases]
            source = Source(rows, self.part("weight_ih", suffix), *biases)
        if self.omega is not None:
            h, ends = self._layer_with_omega(suffix, recipe, source, state, layout)
            return h, ends
        return self._layer(suffix, recipe, source, state, layout, through)

    @leave_to_python("omega is given under fullgraph=True; expected torch.compile without")
    def _layer_with_omega(
        self, suffix: str, recipe: Recipe, source: Source, state: State, layout: Layout
    ) -> tuple[Tensor, State]:
        """Run a layer whose Ω counts, which the compiler leaves as it is."""
        if ops.can_omega(recipe, source, state, layout):
            return ops.run(recipe, source, state, layout, self.omega)
        return self._layer(suffix, recipe, source, state, layout)

    def _layer(
        self,
        suffix: str,
        recipe: Recipe,
        source: Source,
        state: State,
        layout: Layout,
        through: Run | None = None,
    ) -> tuple[Tensor, State]:
        """Run a layer, and let a listener hear of it."""
        if self.listener is not None and source.U is not None:
            source = Source(source.p)
        h, ends = (through or ops.run)(recipe, source, state, layout)
        if self.listener is not None:
            self.listener(self, suffix, source.x, h, state[0], layout)
        return h, ends

    def part(self, name: str, suffix: str = "") -> Any:
        """Return a parameter, such as weight_hh_l0_reverse, or None for a missing bias."""
        key = name + suffix
        value = self.__dict__.get(key)  # as getattr looks, but ten times as fast
        if value is None:
            value = self._parameters.get(key)
        return getattr(self, key, None) if value is None else value

    def input_bias(self, suffix: str = "_l0") -> Tensor | None:
        """Return what is added to a layer's projected input: torch's two biases in one."""
        b_ih, b_hh = self.part("bias_ih", suffix), self.part("bias_hh", suffix)
        return None if b_ih is None or b_hh is None else b_ih + b_hh

    def recipe(self, suffix: str) -> Recipe:
        """Return what makes the step of one layer."""
        return KINDS[self.mode].recipe(self.part("weight_hh", suffix))

    def zero_state(self, B: int) -> Hidden:
        """Return the state of B fresh sequences."""
        parts = [self.part("weight_hh_l0").new_zeros(size) for size in self._sizes(B)]
        return tuple(parts) if self.states > 1 else parts[0]

    def _sizes(self, B: int) -> list[tuple[int, int, int]]:
        """Return the shape of each part of a state."""
        depth, H = self.num_layers * (2 if self.bidirectional else 1), self.hidden_size
        return [(depth, B, self.proj_size or H), *[(depth, B, H)] * (self.states - 1)]

    def run(
        self,
        rows: Tensor,
        hidden: Hidden,
        layout: Layout = DENSE,
        *,
        is_projected: bool = False,
        through: Run | None = None,
    ) -> tuple[list[Float[Tensor, "... D"]], Hidden]:
        """Return each layer's h at every step, and every layer's last state of each sequence.

        rows: the input, (T, B, I) or (N, I), or tokens, (T, B) or (N), or the first layer's
        projection of it, (…, G). through: what runs each layer's step over time.
        D is H, or 2H where bidirectional.
        """
        assert hidden is not None
        starts = hidden if isinstance(hidden, tuple) else (hidden,)
        every: list[Tensor] = []
        ends: list[State] = []
        for k in range(self.num_layers):
            if k > 0 and self.dropout > 0:
                rows = nn.functional.dropout(rows, self.dropout, self.training)
            heads = []
            for reverse in (False, True)[: 1 + self.bidirectional]:
                suffix = f"_l{k}" + ("_reverse" if reverse else "")
                state = tuple([start[len(ends)] for start in starts])
                h, end = self.layer(
                    suffix,
                    rows,
                    state,
                    replace(layout, reverse=True) if reverse else layout,
                    is_projected=is_projected and k == 0,
                    through=through,
                )
                heads.append(h)
                ends.append(end)
            rows = torch.cat(heads, dim=-1) if self.bidirectional else heads[0]
            every.append(rows)
        lasts = [
            torch.stack(parts)
            for parts in zip(*ends, strict=True)  # no view, of one either
        ]
        return every, tuple(lasts) if isinstance(hidden, tuple) else lasts[0]

    def forward(self, input: Any, hx: Any = None) -> Any:  # noqa: A002 (torch's name)
        """Return the outputs and the last state, as torch.nn's layer of the same name does.

        Whatever our computation is not for (other devices and dtypes, autocast, tracing, subclasses
        of Tensor, shapes that do not fit) goes by torch's, which also has the right error.
        """
        packed = isinstance(input, PackedSequence)
        if not packed and self._is_torchs(input):
            return self._by_torch(input, hx)
        starts = () if hx is None else tuple(hx) if isinstance(hx, tuple | list) else (hx,)
        run = self._ours(input.data if packed else input, starts)
        if run is None:
            return self._by_torch(input, hx)
        if not packed:
            return self._forward_padded(input, starts, run)
        if not torch.compiler.is_compiling() and not _is_whole(input):
            return self._by_torch(input, hx)
        return self._forward_packed(input, starts, run)

    def _by_torch(self, *arguments: Any) -> Any:
        return self.torch_layer.forward(self, *arguments)

    def _is_torchs(self, rows: Any) -> bool:
        """Return whether torch's layer is the faster one for these, as benchmarks/ measure it.

        It is for one step of a few sequences, to which no gradient goes, since that takes as long
        as our checks alone (steps.py); but for LSTMs, for many steps of large ones (layers.py).
        """
        if not isinstance(rows, Tensor) or is_traced() or rows.is_nested or rows.ndim not in (2, 3):
            return False
        sequences = 1 if rows.ndim == 2 else rows.shape[0 if self.batch_first else 1]
        steps = len(rows) if rows.ndim == 2 else rows.shape[1 if self.batch_first else 0]
        if self.states > 1:
            return bool(self.hidden_size >= LARGE_LSTM and steps * sequences >= LARGE_LSTM)
        return steps == 1 and sequences <= ROWS_OF_ONE_STEP and not torch.is_grad_enabled()

    def _ours(self, rows: Any, starts: tuple[Any, ...]) -> Run | None:
        """Return what runs our layers on these rows and this state; None where torch's layer does.

        What is checked here, one call after the other, need not be checked again layer by layer.
        """
        if (
            len(starts) not in (0, self.states)
            or not isinstance(rows, Tensor)
            or torch.is_autocast_enabled("cpu")
            or is_traced()
        ):
            return None
        weights = self._weights()
        tensors = [rows, *starts, *weights]
        if torch.compiler.is_compiling() or is_transformed():
            all_cpu = all([isinstance(t, Tensor) and t.is_cpu for t in tensors])  # noqa: C419
            is_alike = all_cpu and all([t.dtype == rows.dtype for t in tensors])  # noqa: C419
            return ops.run if is_alike and self._takes(rows) else None
        if are_plain(tensors, rows.dtype) and self._takes(rows) and self._has_its_shapes(weights):
            return ops.run if binding.native is None else ops.run_checked
        return None

    def _takes(self, rows: Tensor) -> bool:
        return (
            not rows.is_nested
            and rows.ndim in (2, 3)
            and rows.numel() > 0
            and rows.shape[-1] == self.input_size
            and rows.dtype in ops.FLOATS
        )

    def _weights(self) -> list[Any]:
        return [self.part(name) for names in self._all_weights for name in names]

    def _has_its_shapes(self, weights: list[Any]) -> bool:
        """Return whether each weight has the shape that it was made with."""
        heads = 2 if self.bidirectional else 1
        G = self.hidden_size * KINDS[self.mode].gates
        sizes = self.input_size, self.hidden_size, G, self.proj_size
        return [w.shape for w in weights] == _shapes(sizes, self.num_layers, heads, self.bias)

    def _forward_padded(
        self, given: Tensor, starts: tuple[Tensor, ...], run: Run
    ) -> tuple[Tensor, Any]:
        batch = 0 if self.batch_first else 1
        is_single = given.ndim == 2
        for start in starts:
            if start.ndim != given.ndim:
                return self._by_torch(given, self._as_hidden(starts))  # type: ignore[no-any-return]
        if is_single:
            given = given.unsqueeze(batch)
            starts = tuple(start.unsqueeze(1) for start in starts)
        B = given.shape[batch]
        if [start.shape for start in starts] != self._sizes(B)[: len(starts)]:
            self.check_forward_args(given, self._as_hidden(starts), None)
        hidden = self._as_hidden(starts) if starts else self.zero_state(B)
        rows = given.transpose(0, 1) if self.batch_first else given
        outs, last = self.run(rows, hidden, through=run)
        out = ops.as_output(outs[-1], batch_first=self.batch_first)
        if not is_single:
            return out, last
        ends = last if isinstance(last, tuple) else (last,)
        return out.squeeze(batch), self._as_hidden(tuple(end.squeeze(1) for end in ends))  # type: ignore[union-attr]

    def _as_hidden(self, parts: tuple[Tensor, ...]) -> Any:
        """Return a state as torch's layer has it: None, h, or (h, c)."""
        if not parts:
            return None
        return parts if self.states > 1 else parts[0]

    def _forward_packed(
        self, given: PackedSequence, starts: tuple[Tensor, ...], run: Run
    ) -> tuple[Any, Any]:
        rows, sizes, order, back = given
        hidden = self._as_hidden(starts)
        if hidden is None:
            hidden = self.zero_state(int(sizes[0]))
        else:
            hidden = self.permute_hidden(hidden, order)
        self.check_forward_args(rows, hidden, sizes)
        outs, last = self.run(rows, hidden, Layout(sizes), through=run)
        out = ops.as_output(outs[-1], batch_first=False)
        return PackedSequence(out, sizes, order, back), self.permute_hidden(last, back)  # type: ignore[arg-type]

    def __prepare_scriptable__(self) -> nn.Module:
        """Return torch's layer on the same weights, which is what torch.jit.script can compile."""
        twin: nn.Module = copy.copy(self)
        twin.__class__ = self.torch_layer
        return twin


@lru_cache(maxsize=1024)
def _shapes(
    sizes: tuple[int, int, int, int], layers: int, heads: int, has_bias: bool
) -> list[tuple[int, ...]]:
    """Return the shapes of the weights, one layer and direction after the other.

    sizes: I, H, G, and how wide h is projected, or 0.
    """
    inputs, H, G, projected = sizes
    R, shapes = projected or H, list[tuple[int, ...]]()
    for i in range(layers * heads):
        shapes += [(G, inputs if i < heads else R * heads), (G, R)]
        shapes += [(G,), (G,)] if has_bias else []
        shapes += [(R, H)] if projected else []
    return shapes


def _is_whole(packed: PackedSequence) -> bool:
    """Return whether a PackedSequence is one, as pack_padded_sequence makes them."""
    return packed.data.ndim == 2 and Layout(packed.batch_sizes).is_whole(len(packed.data))


class RNN(Recurrent):
    """torch.nn.RNN, faster on a CPU: hᵗ = f(b + U xᵗ + W hᵗ⁻¹), f = tanh or relu (Elman 1990).

    Arguments, parameters, initialisation, state_dict and results are those of torch.nn.RNN.

    >>> rnn = RNN(10, 20, num_layers=2, bidirectional=True)
    >>> output, h_n = rnn(torch.randn(5, 3, 10))  # T = 5 steps of B = 3 sequences
    >>> output.shape, h_n.shape
    (torch.Size([5, 3, 40]), torch.Size([4, 3, 20]))
    """

    torch_layer = nn.RNN

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        *options: Any,
        **named_options: Any,
    ) -> None:
        require_choice("nonlinearity", nonlinearity, ELMAN)
        super().__init__(
            CELLS[nonlinearity].mode, input_size, hidden_size, num_layers, *options, **named_options
        )
        self.nonlinearity = nonlinearity
        _refuse_projection(self)


class GRU(Recurrent):
    """torch.nn.GRU, faster on a CPU: a gated recurrent unit (Cho et al. 2014) in torch's form.

    Arguments, parameters, initialisation, state_dict and results are those of torch.nn.GRU.
    """

    torch_layer = nn.GRU
    biases = ("bias_ih",)
    closed_by = "gates"

    def __init__(self, input_size: int, hidden_size: int, *options: Any, **named: Any) -> None:
        super().__init__("GRU", input_size, hidden_size, *options, **named)
        _refuse_projection(self)

    def input_bias(self, suffix: str = "_l0") -> Tensor | None:
        """Return the first bias alone: the second sits inside the reset gate's product."""
        bias: Tensor | None = self.part("bias_ih", suffix)
        return bias

    def recipe(self, suffix: str) -> Recipe:
        """Return what makes a gated recurrent unit's step."""
        return KINDS[self.mode].recipe(self.part("weight_hh", suffix), self.part("bias_hh", suffix))


class LSTM(Recurrent):
    """torch.nn.LSTM, faster on a CPU: Hochreiter and Schmidhuber 1997; Gers et al. 2000.

    Arguments, parameters, initialisation, state_dict and results are those of torch.nn.LSTM.
    """

    states = 2
    torch_layer = nn.LSTM
    closed_by = "gates"
    get_expected_cell_size = nn.LSTM.get_expected_cell_size
    check_forward_args = nn.LSTM.check_forward_args  # type: ignore[assignment]
    permute_hidden = nn.LSTM.permute_hidden  # type: ignore[assignment]

    def __init__(self, input_size: int, hidden_size: int, *options: Any, **named: Any) -> None:
        super().__init__("LSTM", input_size, hidden_size, *options, **named)

    def recipe(self, suffix: str) -> Recipe:
        """Return what makes a long short-term memory's step."""
        W, V = self.part("weight_hh", suffix), self.part("weight_hr", suffix)
        return KINDS[self.mode].recipe(W, V)

    def _by_torch(self, *arguments: Any) -> Any:
        if not torch.compiler.is_compiling() and not self._has_its_shapes(self._weights()):
            raise BpttError(
                "a weight of the LSTM has another shape than it was made with, for which "
                "torch.nn.LSTM would read what is not there; expected "
                f"{super().extra_repr()}"
            )
        return super()._by_torch(*arguments)


def _refuse_projection(layer: Recurrent) -> None:
    """Raise torch's error for a state that is projected, which only LSTMs have."""
    if layer.proj_size:
        raise BpttError("proj_size argument is only supported for LSTM, not RNN or GRU")


FASTER: Mapping[type, type[Recurrent]] = {nn.RNN: RNN, nn.GRU: GRU, nn.LSTM: LSTM}
"""torch's layers, and this package's of the same names."""


def accelerate(model: Module) -> Module:
    """Turn the torch.nn.RNN, GRU and LSTM layers inside a model into this package's, in place.

    Parameters, hooks, buffers and modes stay what and where they are, so that optimizers and
    checkpoints go on working. Subclasses of torch's layers are left alone. Returns the model.

    >>> model = accelerate(nn.Sequential(nn.GRU(3, 4)))
    >>> model
    Sequential(
      (0): GRU(3, 4)
    )
    """
    require_kind("model", model, nn.Module, "a torch module with RNN, GRU or LSTM layers")
    for module in model.modules():
        if type(module) in FASTER:
            module.__class__ = FASTER[type(module)]
    return model


class Feedforward(nn.Module):
    """hᵗ = f(pᵗ): a stack of layers without hidden-to-hidden recurrence, hence without a loop."""

    biases: ClassVar[tuple[str, ...]] = ("bias_ih",)
    closed_by: ClassVar[str] = "output"
    weight_ih_l0: Tensor
    bias_ih_l0: Tensor

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

    @property
    def f(self) -> Activation:
        """What it is called by."""
        f = CELLS[self.nonlinearity].f
        assert f is not None
        return f

    def extra_repr(self) -> str:
        """Return what print(net) shows of it."""
        return f"{self.input_size}, {self.hidden_size}, num_layers={self.num_layers}"

    def part(self, name: str, suffix: str) -> Any:
        """Return a parameter, such as weight_ih_l0, or None for a W, which there is not."""
        return getattr(self, name + suffix, None)

    def input_bias(self, suffix: str = "_l0") -> Tensor:
        """Return what is added to a layer's projected input."""
        bias: Tensor = self.part("bias_ih", suffix)
        return bias

    def recipe(self, suffix: str) -> Recipe:
        """Return what makes h ← f(p), whatever the state."""
        return Recipe(feedforward, (), (self.f,))

    def zero_state(self, B: int) -> Hidden:
        """Return the state of B fresh sequences: there is none."""
        return None

    def run(
        self,
        rows: Tensor,
        hidden: Hidden,
        layout: Layout = DENSE,
        *,
        is_projected: bool = False,
    ) -> tuple[list[Float[Tensor, "... H"]], Hidden]:
        """Return every layer's h at once; where the rows lie in time plays no part."""
        every = []
        for k in range(self.num_layers):
            if k == 0 and is_projected:
                rows = self.f(rows)
            else:
                suffix = f"_l{k}"
                U, b = self.part("weight_ih", suffix), self.input_bias(suffix)
                rows = feedforward_rows(self.f, rows, U, b)
            every.append(rows)
        return every, None
