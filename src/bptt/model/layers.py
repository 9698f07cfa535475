"""RNN, GRU and LSTM layers: torch.nn's, faster."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.rnn import RNNBase
from torch.nn.utils.rnn import PackedSequence

from bptt.cells.cell import Activation
from bptt.cells.elman import NONLINEARITIES, elman
from bptt.cells.gru import GRUCell, gru
from bptt.cells.lstm import LSTMCell, lstm
from bptt.cells.torch_cell import TorchCell, step_natively
from bptt.errors import BpttError, require_choice, require_kind
from bptt.kernel import binding, ops
from bptt.kernel.fused import FUSED
from bptt.kernel.layout import Layout
from bptt.kernel.ops import Recipe, Run
from bptt.kernel.plain import PLAIN_TYPES, are_plain, is_traced, is_transformed
from bptt.model.stack import Stack

Module = TypeVar("Module", bound=nn.Module)

LARGE_LSTM = 1000
"""From how many units, and rows, on torch's LSTM is faster than ours."""


class TorchLayer(Stack, RNNBase):
    """What RNN, GRU and LSTM share: layers and directions, on the parameters of torch.nn's."""

    torch_layer: ClassVar[type[RNNBase]]
    cell: type[TorchCell]
    states: ClassVar[int] = 1
    is_cast_down: ClassVar[bool] = False
    """Whether torch's layer gives autocast's dtype whatever its input's is."""
    biases: ClassVar[tuple[str, ...]] = ("bias_ih", "bias_hh")
    weight_ih_l0: Tensor
    weight_hh_l0: Tensor

    @property
    def f(self) -> Activation | None:
        """What h is of a + W h, in layers without gates."""
        return self.cell.f

    def part(self, name: str, suffix: str = "") -> Any:
        """Return a parameter, such as weight_hh, or None for a bias that is missing."""
        key = name + suffix
        value = self.__dict__.get(key)  # as getattr looks, but ten times as fast
        if value is None:
            value = self._parameters.get(key)
        return getattr(self, key, None) if value is None else value

    def parts_of(self, suffix: str) -> dict[str, Tensor]:
        """Return what a layer is made of, by names with its suffix: parameters, or as computed."""
        attributes = {n for n, value in vars(self).items() if isinstance(value, Tensor)}
        names = sorted(n for n in {*self._parameters, *attributes} if n.endswith(suffix))
        tensors = {name: getattr(self, name) for name in names}
        return {name: value for name, value in tensors.items() if value is not None}

    @property
    def state_sizes(self) -> tuple[int, ...]:
        """How many numbers each part of a layer's state has."""
        H = self.hidden_size
        return (self.proj_size or H, *[H] * (self.states - 1))

    def forward(
        self,
        input: Any,  # noqa: A002 (torch's name)
        hx: Any = None,
        *,
        lengths: Tensor | None = None,
        resets: Tensor | None = None,
    ) -> Any:
        """Return the outputs and the last state, as torch.nn's layer of the same name does.

        Whatever our computation is not for (other devices and dtypes, autocast, tracing, subclasses
        of Tensor, shapes that do not fit) goes by torch's, which also has the right error.
        lengths: (B,), where each sequence ends if that is before T; beyond, h is 0. resets: as many
        steps and sequences as the input, true before a step where a sequence's state is zeroed.
        torch's layers have neither.
        """
        if lengths is not None or resets is not None:
            return self.over_sequences(input, hx, lengths, resets)
        if torch.is_autocast_enabled("cpu"):
            made = self._under_autocast(input, hx)
            return self._by_torch(input, hx) if made is None else made
        if binding.used == "native" and self._is_one_step(input, hx):
            moved = self._move(input, hx)
            if moved is not None:
                return moved
        packed = isinstance(input, PackedSequence)
        starts = () if hx is None else tuple(hx) if isinstance(hx, tuple | list) else (hx,)
        is_torchs = not packed and self._is_torchs(input)
        run = None if is_torchs else self._ours(input.data if packed else input, starts)
        if packed and not torch.compiler.is_compiling() and not _is_whole(input):
            run = None
        if run is None:
            return self._by_torch(input, hx)
        return (self._forward_packed if packed else self._forward_padded)(input, starts, run)

    def _under_autocast(self, given: Any, hx: Any) -> Any:
        """Return what torch's layer would, computed in float32, and then in torch's dtype.

        None where it cannot be had so, or where somebody records torch's own operations. Of LSTMs
        torch has none on processors without products of half precision.
        """
        rows = given.data if isinstance(given, PackedSequence) else given
        starts = () if hx is None else tuple(hx) if isinstance(hx, tuple | list) else (hx,)
        low = torch.get_autocast_dtype("cpu")
        if (
            torch.compiler.is_compiling()
            or is_traced()
            or is_transformed()
            or binding.native is None
            or binding.used != "native"
            or not isinstance(rows, Tensor)
            or rows.dtype not in (torch.float32, low)
            or not are_plain([rows, *starts], rows.dtype)
            or not are_plain(self._weights(), torch.float32)
        ):
            return None
        parts = tuple([start.float() for start in starts])
        with torch.autocast("cpu", enabled=False):
            out, last = self.forward(given.to(torch.float32), self._as_hidden(parts))
        dtype = low if self.is_cast_down else rows.dtype
        ends = tuple([end.to(dtype) for end in last]) if isinstance(last, tuple) else last.to(dtype)
        return out.to(dtype), ends

    def _by_torch(self, *arguments: Any) -> Any:
        return self.torch_layer.forward(self, *arguments)

    def _is_torchs(self, rows: Any) -> bool:
        """Return whether torch's layer is the faster one for these, as layers.py measures it."""
        return bool(
            self.states > 1
            and self.hidden_size >= LARGE_LSTM
            and isinstance(rows, Tensor)
            and rows.dtype not in ops.HALVES
            and not is_traced()
            and not is_transformed()
            and not rows.is_nested
            and rows.ndim in (2, 3)
            and rows.shape[:-1].numel() >= LARGE_LSTM
        )

    def _ours(self, rows: Any, starts: tuple[Any, ...]) -> Run | None:
        """Return what runs our layers on these rows and this state; None where torch's layer does.

        What is checked here, one call after the other, need not be checked again layer by layer.
        """
        if (
            len(starts) not in (0, self.states)
            or not isinstance(rows, Tensor)
            or is_traced()
            or binding.used == "torch"
        ):
            return None
        weights = self._weights()
        tensors = [rows, *starts, *weights]
        if torch.compiler.is_compiling() or is_transformed():
            all_cpu = all([isinstance(t, Tensor) and t.is_cpu for t in tensors])  # noqa: C419
            is_alike = all_cpu and all([t.dtype == rows.dtype for t in tensors])  # noqa: C419
            is_single = rows.dtype in ops.FLOATS
            return ops.run if is_alike and is_single and self._takes(rows) else None
        if are_plain(tensors, rows.dtype) and self._takes(rows) and self._has_its_shapes(weights):
            is_native = binding.native is not None and binding.used == "native"
            if rows.dtype in ops.HALVES:
                return ops.run if is_native else None
            return ops.run_checked if is_native else ops.run
        return None

    def _takes(self, rows: Tensor) -> bool:
        return (
            not rows.is_nested
            and rows.ndim in (2, 3)
            and rows.numel() > 0
            and rows.shape[-1] == self.input_size
            and rows.dtype in (*ops.FLOATS, *ops.HALVES)
        )

    def _weights(self) -> list[Any]:
        return [self.part(name) for names in self._all_weights for name in names]

    def _has_its_shapes(self, weights: list[Any]) -> bool:
        """Return whether each weight has the shape that it was made with."""
        heads = 2 if self.bidirectional else 1
        G = self.hidden_size * self.cell.gates
        sizes = self.input_size, self.hidden_size, G, self.proj_size
        return [w.shape for w in weights] == _shapes(sizes, self.num_layers, heads, self.bias)

    def _forward_padded(
        self, inputs: Tensor, starts: tuple[Tensor, ...], run: Run
    ) -> tuple[Tensor, Any]:
        batch = 0 if self.batch_first else 1
        is_single = inputs.ndim == 2
        for start in starts:
            if start.ndim != inputs.ndim:
                return self._by_torch(inputs, self._as_hidden(starts))  # type: ignore[no-any-return]
        if is_single:
            inputs = inputs.unsqueeze(batch)
            starts = tuple(start.unsqueeze(1) for start in starts)
        B = inputs.shape[batch]
        if starts and [start.shape for start in starts] != self.state_shapes(B)[: len(starts)]:
            self.check_forward_args(inputs, self._as_hidden(starts), None)
        hidden = self._as_hidden(starts) if starts else self.zero_state(B)
        rows = inputs.transpose(0, 1) if self.batch_first else inputs
        outs, last = self.run(rows, hidden, through=run)
        out = ops.as_output(outs[-1], batch_first=self.batch_first)
        if not is_single:
            return out, last
        ends = last if isinstance(last, tuple) else (last,)
        return out.squeeze(batch), self._as_hidden(tuple(end.squeeze(1) for end in ends))  # type: ignore[union-attr]

    def _is_one_step(self, inputs: Any, hx: Any) -> bool:
        """Return whether this is a step for `_move`: of shapes that fit, and run as it is."""
        parts = hx if self.states > 1 else (hx,)
        if (
            type(inputs) is not Tensor
            or (hx is not None and (type(parts) is not tuple or len(parts) != self.states))
            or inputs.is_nested
            or len(shape := inputs.shape) != 3
            or shape[1 if self.batch_first else 0] != 1
            or shape[2] != self.input_size
            or is_traced()
            or is_transformed()
            or self.proj_size
            or (self.dropout and self.training)
        ):
            return False
        if hx is None:
            return True
        as_state = (len(self._all_weights), shape[0] * shape[1], self.hidden_size)
        for part in parts:
            if type(part) is not Tensor or part.shape != as_state or part.dtype is not inputs.dtype:
                return False
        return True

    def _move(self, inputs: Tensor, hx: Any) -> tuple[Tensor, Any] | None:
        """Return what a single step gives: natively if no gradient is wanted, or by torch's cell.

        The loop takes longer to look at its tensors than that takes for all (steps.py). None where
        a weight is a subclass of Tensor, which torch's layer may know what to do with.
        """
        rows = inputs[:, 0] if self.batch_first else inputs[0]
        hx = self.zero_state(len(rows)) if hx is None else hx
        heads, ends = list[Tensor](), list[Any]()
        is_h = self.states == 1
        for i, names in enumerate(self._all_weights):
            state = hx[i] if is_h else tuple([part[i] for part in hx])
            weights = [self.part(name) for name in names]
            for weight in weights:
                if type(weight) not in PLAIN_TYPES:
                    return None
            end = self._moved(rows, state, weights)
            ends.append(end)
            heads.append(end if is_h else end[0])
            if len(heads) == (2 if self.bidirectional else 1):
                rows = torch.cat(heads, dim=-1) if self.bidirectional else heads[0]
                heads = []
        last = torch.stack(ends) if is_h else tuple(map(torch.stack, zip(*ends, strict=True)))
        out = rows[:, None] if self.batch_first else rows[None]
        if torch.is_grad_enabled():  # a user may change it in place, which a view is not for
            out = out.clone()
        return out, last

    def _moved(self, rows: Tensor, state: Any, weights: list[Tensor]) -> Any:
        """Return one layer's state after a step; torch's own has no less speed without gates."""
        if self.cell.gates > 1 and not torch.is_grad_enabled():
            U, W, b_ih, b_hh = weights if len(weights) > 2 else (*weights, None, None)
            moved = step_natively(self.cell.by_torch, rows, state, (U, W, b_ih, b_hh))
            if moved is not None:
                return moved if len(moved) > 1 else moved[0]
        assert self.cell.by_torch is not None  # these cells are torch's
        return self.cell.by_torch(rows, state, *weights)

    def _as_hidden(self, parts: tuple[Tensor, ...]) -> Any:
        """Return a state as torch's layer has it: None, h, or (h, c)."""
        if not parts:
            return None
        return parts if self.states > 1 else parts[0]

    def _forward_packed(
        self, packed: PackedSequence, starts: tuple[Tensor, ...], run: Run
    ) -> tuple[Any, Any]:
        rows, sizes, order, back = packed
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


class RNN(TorchLayer):
    """torch.nn.RNN, faster on a CPU: hᵗ = f(b + U xᵗ + W hᵗ⁻¹), f = tanh or relu (Elman 1990).

    Arguments, parameters, initialisation, state_dict and results are those of torch.nn.RNN.

    >>> rnn = RNN(10, 20, num_layers=2, bidirectional=True)
    >>> output, h_n = rnn(torch.randn(5, 3, 10))  # T = 5 steps of B = 3 sequences
    >>> output.shape, h_n.shape
    (torch.Size([5, 3, 40]), torch.Size([4, 3, 20]))
    """

    torch_layer = nn.RNN
    is_cast_down = True

    @property
    def cell(self) -> type[TorchCell]:  # type: ignore[override]
        """What a step of it is."""
        return NONLINEARITIES[self.nonlinearity]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        *options: Any,
        **named_options: Any,
    ) -> None:
        require_choice("nonlinearity", nonlinearity, list(NONLINEARITIES))
        mode = f"RNN_{nonlinearity.upper()}"
        super().__init__(mode, input_size, hidden_size, num_layers, *options, **named_options)
        self.nonlinearity = nonlinearity
        _refuse_projection(self)

    def recipe(self, suffix: str) -> Recipe:
        """Return what makes an Elman layer's step."""
        W, fused = self.part("weight_hh", suffix), FUSED[self.cell.by_torch]
        return Recipe(elman, (W,), (self.cell.f,), fused=fused)


class GRU(TorchLayer):
    """torch.nn.GRU, faster on a CPU: a gated recurrent unit (Cho et al. 2014) in torch's form.

    Arguments, parameters, initialisation, state_dict and results are those of torch.nn.GRU.
    """

    torch_layer = nn.GRU
    cell = GRUCell
    biases = ("bias_ih",)
    closed_by = "gates"

    def __init__(self, input_size: int, hidden_size: int, *options: Any, **named: Any) -> None:
        super().__init__("GRU", input_size, hidden_size, *options, **named)
        _refuse_projection(self)

    def recipe(self, suffix: str) -> Recipe:
        """Return what makes a gated recurrent unit's step."""
        tensors = self.part("weight_hh", suffix), self.part("bias_hh", suffix)
        return Recipe(gru, tensors, fused=FUSED[self.cell.by_torch])


class LSTM(TorchLayer):
    """torch.nn.LSTM, faster on a CPU: Hochreiter and Schmidhuber 1997; Gers et al. 2000.

    Arguments, parameters, initialisation, state_dict and results are those of torch.nn.LSTM.
    """

    states = 2
    torch_layer = nn.LSTM
    cell = LSTMCell
    closed_by = "gates"
    get_expected_cell_size = nn.LSTM.get_expected_cell_size
    check_forward_args = nn.LSTM.check_forward_args  # type: ignore[assignment]
    permute_hidden = nn.LSTM.permute_hidden  # type: ignore[assignment]

    def __init__(self, input_size: int, hidden_size: int, *options: Any, **named: Any) -> None:
        super().__init__("LSTM", input_size, hidden_size, *options, **named)

    def recipe(self, suffix: str) -> Recipe:
        """Return what makes a long short-term memory's step."""
        tensors = self.part("weight_hh", suffix), self.part("weight_hr", suffix)
        return Recipe(lstm, tensors, fused=FUSED[self.cell.by_torch])

    def _by_torch(self, *arguments: Any) -> Any:
        if not torch.compiler.is_compiling() and not self._has_its_shapes(self._weights()):
            raise BpttError(
                "a weight of the LSTM has another shape than it was made with, for which "
                "torch.nn.LSTM would read what is not there; expected "
                f"{super().extra_repr()}"
            )
        return super()._by_torch(*arguments)


def _refuse_projection(layer: TorchLayer) -> None:
    """Raise torch's error for a state that is projected, which only LSTMs have."""
    if layer.proj_size:
        raise BpttError("proj_size argument is only supported for LSTM, not RNN or GRU")


FASTER: Mapping[type, type[TorchLayer]] = {nn.RNN: RNN, nn.GRU: GRU, nn.LSTM: LSTM}
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


def unaccelerate(model: Module) -> Module:
    """Turn the layers inside a model back into torch.nn's, in place; the undoing of `accelerate`.

    >>> unaccelerate(accelerate(nn.GRU(3, 4))).__class__
    <class 'torch.nn.modules.rnn.GRU'>
    """
    require_kind("model", model, nn.Module, "a torch module with RNN, GRU or LSTM layers")
    theirs: dict[type, Any] = {ours: its for its, ours in FASTER.items()}
    for module in model.modules():
        if type(module) in theirs:
            module.__class__ = theirs[type(module)]
    return model
