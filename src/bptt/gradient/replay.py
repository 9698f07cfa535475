"""A call of a recurrent layer inside a user's model, noted and run again, for `bptt.watch`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn
from torch.nn.modules.rnn import RNNBase
from torch.nn.utils.rnn import PackedSequence

from bptt.errors import BpttError
from bptt.gradient.chain import CELLS, Chain, Enters, layer_at
from bptt.gradient.steps import Parts
from bptt.kernel.layout import Layout, Packing
from bptt.model.layers import GRU, LSTM, RNN, Recurrent
from bptt.model.state import parts

CLASSES = {"tanh": RNN, "relu": RNN, "gru": GRU, "lstm": LSTM}
RTOL, ATOL = 1e-2, 1e-4
"""How far a state that is computed again may lie from the first: other code, the same numbers."""


@dataclass
class Call:
    """A call of a layer: what it was given, its weights then, and the gradients that came back.

    grads: of the output, and of the last h (and c).
    """

    layer: RNNBase
    given: Any
    hx: Any
    weights: dict[str, Tensor]
    random: Tensor | None
    output: Any = None
    grads: dict[int, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, layer: RNNBase, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        """Note a call that is about to be made."""
        given = args[0] if args else kwargs["input"]
        hx = args[1] if len(args) > 1 else kwargs.get("hx")
        weights = {
            name: weight.detach().clone().requires_grad_(weight.requires_grad)
            for name, weight in _weights(layer).items()
        }
        is_random = layer.training and layer.dropout > 0 and layer.num_layers > 1
        return cls(layer, given, hx, weights, torch.get_rng_state() if is_random else None)

    def listen(self, output: Any) -> None:
        """Keep the gradients that will reach what the layer has returned."""
        out, last = output
        data = out.data if isinstance(out, PackedSequence) else out
        self.output = data.detach()
        for i, tensor in enumerate((data, *parts(last))):
            if tensor.requires_grad:
                tensor.register_hook(lambda grad, i=i: self._keep(i, grad))

    def _keep(self, i: int, grad: Tensor) -> None:
        grad = grad.detach()
        self.grads[i] = self.grads[i] + grad if i in self.grads else grad.clone()

    @property
    def is_reached(self) -> bool:
        """Whether a gradient has come back."""
        return bool(self.grads)


def _weights(layer: RNNBase) -> dict[str, Tensor]:
    """Return the layer's weights by name, also where they are computed from others."""
    names = [name for names in layer._all_weights for name in names]
    return {name: getattr(layer, name) for name in names}


class Form(NamedTuple):
    """The call's sequences, time first, padded: alive is None where all have T steps."""

    rows: Float[Tensor, "T B I"]
    hidden: tuple[Float[Tensor, "layers B H"], ...]
    alive: Bool[Tensor, "T B"] | None
    output: Float[Tensor, "T B D"]
    grad: Float[Tensor, "T B D"]
    grad_ends: tuple[Float[Tensor, "layers B H"], ...]


@torch.no_grad()
def _form(call: Call, twin: Recurrent) -> Form:
    """Bring whatever form the call had into one."""
    packed = call.given if isinstance(call.given, PackedSequence) else None
    order = None if packed is None else packed.sorted_indices
    is_single = packed is None and call.given.ndim == 2
    alive = None

    def series(values: Tensor) -> Tensor:
        if packed is not None:
            return _padded(values, packed.batch_sizes)
        if is_single:
            return values.unsqueeze(1)
        return values.transpose(0, 1) if call.layer.batch_first else values

    def ends(values: Tensor) -> Tensor:
        values = values.unsqueeze(1) if is_single else values
        return values if order is None else values[:, order]

    if packed is not None:
        alive = _padded(packed.data.new_ones(len(packed.data), 1), packed.batch_sizes)[..., 0] > 0
    rows = series((call.given.data if packed is not None else call.given).detach())
    starts = parts(twin.zero_state(rows.shape[1]))
    if call.hx is not None:
        starts = tuple(ends(part.detach()) for part in parts(call.hx))
    grads = [call.grads.get(i + 1) for i in range(len(starts))]
    at_ends = tuple(
        torch.zeros_like(start) if grad is None else ends(grad)
        for start, grad in zip(starts, grads, strict=True)
    )
    grad = call.grads.get(0)
    output = series(call.output)
    reached = torch.zeros_like(output) if grad is None else series(grad)
    return Form(rows, starts, alive, output, reached, at_ends)


def _padded(rows: Shaped[Tensor, "N ..."], sizes: Int[Tensor, " T"]) -> Shaped[Tensor, "T B ..."]:
    """Return packed rows, longest sequence first, padded with zeros."""
    padded = rows.new_zeros(len(sizes), int(sizes[0]), *rows.shape[1:])
    for t, step in enumerate(rows.split(sizes.tolist())):
        padded[t, : len(step)] = step
    return padded


def chains_of(name: str, call: Call) -> dict[str, Chain]:
    """Run a call again; return its chains, by what to append to the layer's name.

    A stack in one direction is one chain. Where both directions meet between the layers, no order
    of the states is left: each layer and direction is a chain of its own, with the gradient that
    arrives at its output.
    """
    with torch.random.fork_rng(devices=[]):
        twin = _twin(call)
        form = _form(call, twin)
        if call.random is not None:
            torch.set_rng_state(call.random)
        with torch.set_grad_enabled(twin.bidirectional):
            runs, out = _run(twin, form)
    if not torch.allclose(out, form.output, RTOL, ATOL, equal_nan=True):
        raise BpttError(
            f"{name} gave other states when it was run again; expected a layer that computes what "
            "torch.nn's does, with dropout drawn from torch's CPU generator"
        )
    if not twin.bidirectional:
        return {"": _stack(twin, runs, form)}
    roots = [out, *(part for run in runs for part in run.last)]
    grads = [form.grad, *(grad for run in runs for grad in run.grad_last)]
    torch.autograd.backward(roots, grads)
    return {run.suffix.replace("_l", ".l", 1): _alone(twin, run, form) for run in runs}


def _twin(call: Call) -> Recurrent:
    """Return a layer of ours with the weights that the call had."""
    layer, cell = call.layer, CELLS[call.layer.mode]
    like = next(iter(call.weights.values()))
    more = {"nonlinearity": cell} if cell in ("tanh", "relu") else {}
    twin: Recurrent = CLASSES[cell](
        layer.input_size,
        layer.hidden_size,
        num_layers=layer.num_layers,
        bias=layer.bias,
        dropout=layer.dropout,
        bidirectional=layer.bidirectional,
        device=like.device,
        dtype=like.dtype,
        **more,
    )
    for weight_name, weight in call.weights.items():
        setattr(twin, weight_name, nn.Parameter(weight.detach(), weight.requires_grad))
    twin.train(layer.training)
    return twin


class Ran(NamedTuple):
    """One layer in one direction, run again.

    enters: what entered, after dropout's mask. h: its states. start, last: the first h (and c), and
    those at the ends; grad_last: the gradient that reached the last.
    """

    suffix: str
    enters: Float[Tensor, "T B I"]
    mask: Float[Tensor, "T B I"] | None
    h: Float[Tensor, "T B H"]
    start: tuple[Float[Tensor, "B H"], ...]
    last: tuple[Float[Tensor, "B H"], ...]
    grad_last: tuple[Float[Tensor, "B H"], ...]


def _run(twin: Recurrent, form: Form) -> tuple[list[Ran], Float[Tensor, "T B D"]]:
    """Run the layers; where there are two directions, with a graph from the output to each."""
    rows, runs = form.rows, list[Ran]()
    packing = None if form.alive is None else Packing.of(form.alive)
    for k in range(twin.num_layers):
        mask = None
        if k > 0 and twin.dropout > 0 and twin.training:
            mask = _mask(rows, packing, twin.dropout)
            rows = rows * mask
        heads = []
        for reverse in (False, True)[: 1 + twin.bidirectional]:
            suffix = f"_l{k}" + ("_reverse" if reverse else "")
            start, grads = (
                tuple(part[len(runs)] for part in some) for some in (form.hidden, form.grad_ends)
            )
            h, last = _direction(twin, suffix, rows, start, packing, reverse=reverse)
            if h.requires_grad:
                h.retain_grad()
            runs.append(Ran(suffix, rows.detach(), mask, h, start, last, grads))
            heads.append(h)
        rows = torch.cat(heads, -1)
    return runs, rows


def _mask(rows: Tensor, packing: Packing | None, p: float) -> Tensor:
    """Draw what dropout multiplies by, in the order in which torch draws it."""
    ones = torch.ones_like(rows if packing is None else packing.pack(rows))
    drawn = nn.functional.dropout(ones, p, training=True)
    return drawn if packing is None else packing.unpack(drawn, len(rows))


def _direction(
    twin: Recurrent,
    suffix: str,
    rows: Tensor,
    start: tuple[Tensor, ...],
    packing: Packing | None,
    *,
    reverse: bool,
) -> tuple[Float[Tensor, "T B H"], tuple[Float[Tensor, "B H"], ...]]:
    sizes = None if packing is None else packing.layout.batch_sizes
    entered = rows if packing is None else packing.pack(rows)
    layout = Layout(sizes, None, reverse)
    h, last = twin.layer(suffix, entered, start, layout, is_projected=False)
    return h if packing is None else packing.unpack(h, len(rows)), last


def _stack(twin: Recurrent, runs: list[Ran], form: Form) -> Chain:
    """Return the chain of layers that go the same way."""
    cell, zero = CELLS[twin.mode], torch.zeros_like(form.grad)
    layers = [
        layer_at(twin, run.suffix, cell, [Enters(run.enters)], run.h, run.start, mask=run.mask)
        for run in runs
    ]
    seeds = [_seed(zero, run.grad_last, form.alive) for run in runs[:-1]]
    seeds.append(_seed(form.grad, runs[-1].grad_last, form.alive))
    return Chain(layers, seeds, _scored(seeds))


def _alone(twin: Recurrent, run: Ran, form: Form) -> Chain:
    """Return the chain of one layer in one direction, in its own order of time."""
    grad = torch.zeros_like(run.h) if run.h.grad is None else run.h.grad
    h, enters = run.h.detach(), run.enters
    if run.suffix.endswith("_reverse"):
        h, enters, grad = (_reversed(values, form.alive) for values in (h, enters, grad))
    seeds = [_seed(grad, run.grad_last, form.alive)]
    cell = CELLS[twin.mode]
    layer = layer_at(twin, run.suffix, cell, [Enters(enters)], h, run.start)
    return Chain([layer], seeds, _scored(seeds))


def _ends(alive: Tensor | None, T: int, B: int) -> Int[Tensor, " B"]:
    """Return the last step of each sequence."""
    return torch.full((B,), T - 1) if alive is None else alive.sum(0) - 1


def _seed(grad: Tensor, grad_last: tuple[Tensor, ...], alive: Tensor | None) -> Parts:
    """Return the gradient that arrives at the states: at every h, and at the last h (and c)."""
    T, B = grad.shape[:2]
    at = (_ends(alive, T, B).to(grad.device), torch.arange(B, device=grad.device))
    seed = [grad.clone(), *(torch.zeros_like(grad) for _ in grad_last[1:])]
    for part, last in zip(seed, grad_last, strict=True):
        part[at] += last
    return tuple(seed)


def _scored(seeds: list[Parts]) -> Bool[Tensor, "T B"]:
    """Return at which steps a gradient arrives."""
    arrives = [(part != 0).any(-1) for seed in seeds for part in seed]
    return torch.stack(arrives).any(0)


def _reversed(
    values: Float[Tensor, "T B K"], alive: Bool[Tensor, "T B"] | None
) -> Float[Tensor, "T B K"]:
    """Return each sequence backward, within its own length."""
    T, B = values.shape[:2]
    t = torch.arange(T, device=values.device).unsqueeze(1)
    back = _ends(alive, T, B).to(values.device) - t
    rows = torch.where(back >= 0, back, t)
    return values[rows, torch.arange(B, device=values.device)]
