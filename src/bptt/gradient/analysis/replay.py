"""A call of a recurrent layer inside a user's model, noted and run again, for `bptt.watch`."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge
from torch.nn.modules.rnn import RNNBase
from torch.nn.utils import parametrize
from torch.nn.utils.rnn import PackedSequence

from bptt.errors import BpttError
from bptt.gradient.analysis.chain import Chain
from bptt.gradient.analysis.layer import Rows, layer_at
from bptt.kernel.blueprint import copy_of, is_computed
from bptt.kernel.layout import Layout, Packing
from bptt.kernel.plain_loop import Parts
from bptt.model.hidden import parts
from bptt.model.layers import FASTER
from bptt.model.masks import steps_alive
from bptt.model.recurrent import Recurrent
from bptt.model.stack import Stack

Layers = RNNBase | Recurrent
"""What can be watched."""

CLOSE = {
    torch.float64: (1e-2, 1e-4),
    torch.float32: (1e-2, 1e-4),
    torch.float16: (5e-2, 1e-2),
    torch.bfloat16: (1e-1, 5e-2),
}
"""How far, relatively and absolutely, states that are computed again may lie from the first."""


class Weight(NamedTuple):
    """A weight as a call used it. node: what its gradient ends in; None where it is computed."""

    value: Tensor
    node: Any


@dataclass(eq=False)
class LayerCall:
    """A call of a layer: what it was given, its weights then, and the gradients that came back.

    versions: how often the tensors that it was given had been changed. random: torch's generator
    before the call, if dropout drew from it. lengths, resets: where sequences end, and before which
    steps a state is zeroed. output: what the layer returned. grads: of the output, and of the last
    h (and c). is_differentiated: whether a backward pass made a graph itself.
    """

    layer: Layers
    x: Tensor | PackedSequence
    hx: tuple[Tensor, ...]
    versions: list[int]
    weights: dict[str, Weight]
    random: Tensor | None
    lengths: Tensor | None
    resets: Tensor | None
    output: Tensor
    on_gradient: Callable[[LayerCall], None]
    grads: dict[int, Tensor] = field(default_factory=dict)
    is_differentiated: bool = False

    @classmethod
    def of(
        cls,
        layer: Layers,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        output: Any,
        random: Tensor | None,
        on_gradient: Callable[[LayerCall], None],
    ) -> LayerCall:
        """Note a call that was made, and wait for the gradients that will come back to it.

        They are taken where the layer's own operations take them: after whatever was done with its
        output, by hooks or in place.
        """
        x = args[0] if args else kwargs["input"]
        hx = args[1] if len(args) > 1 else kwargs.get("hx")
        out, last = output
        starts = () if hx is None else parts(hx)
        call = cls(
            layer,
            x,
            starts,
            [t._version for t in (_data(x), *starts)],
            _weights(layer),
            random,
            kwargs.get("lengths"),
            kwargs.get("resets"),
            _data(out).detach().clone(),
            on_gradient,
        )
        for i, tensor in enumerate((_data(out), *parts(last))):
            if tensor.grad_fn is not None:
                call._wait(i, tensor.grad_fn, tensor.output_nr)
        return call

    def _wait(self, i: int, node: Any, place: int) -> None:
        def keep(grads: tuple[Tensor | None, ...]) -> None:
            grad = grads[place]
            if torch.is_grad_enabled():
                self.is_differentiated = True
            elif grad is not None and self._reaches_weights():
                grad = grad.detach()
                self.grads[i] = self.grads[i] + grad if i in self.grads else grad.clone()
            else:
                return
            self.on_gradient(self)

        node.register_prehook(keep)

    def _reaches_weights(self) -> bool:
        """Whether this backward pass goes on to a weight, and not to a model's input alone."""
        nodes = [weight.node for weight in self.weights.values() if weight.node is not None]
        try:
            return not nodes or any(torch._C._will_engine_execute_node(node) for node in nodes)
        except RuntimeError:  # torch.autograd.grad of the weights themselves
            return True

    def require_clear(self, name: str) -> None:
        """Raise BpttError where what is known of the call does not tell its gradient's flow."""
        if self.is_differentiated:
            raise BpttError(
                f"the gradient through {name} was differentiated itself (create_graph=True), and "
                "its second derivatives do not pass through the states; expected a plain backward"
            )
        now = [t._version for t in (_data(self.x), *self.hx)]
        if now != self.versions:
            raise BpttError(
                f"what {name} was given was changed in place after the call; expected it unchanged "
                "until the next forward pass, to run the call again"
            )
        if not all(bool(grad.isfinite().all()) for grad in self.grads.values()):
            raise BpttError(
                f"the gradient that reached {name} is not finite; expected a loss without NaN or "
                "infinity (of a scaled loss, one whose gradients do not overflow)"
            )


def draws(layer: Layers) -> bool:
    """Return whether a call of the layer draws random numbers."""
    return layer.training and layer.dropout > 0 and layer.num_layers > 1


def _data(x: Tensor | PackedSequence) -> Tensor:
    return x.data if isinstance(x, PackedSequence) else x


def _weights(layer: Layers) -> dict[str, Weight]:
    """Return the layer's weights by name, also where they are computed from others."""
    if isinstance(layer, Recurrent):
        return {name: w for suffix in layer.suffixes for name, w in _of_cell(layer, suffix)}
    names = [name for names in layer._all_weights for name in names]
    return {name: _weight(layer, name) for name in names}


def _of_cell(layer: Recurrent, suffix: str) -> Iterator[tuple[str, Weight]]:
    cell = layer.cell(suffix)
    if is_computed(cell):  # a copy, as in _weight, that shares what cannot be copied
        attributes = [value for module in cell.modules() for value in vars(module).values()]
        shared = {id(value): value for value in attributes if isinstance(value, Tensor)}
        cell = copy.deepcopy(cell, shared).eval()
        with torch.random.fork_rng(devices=[]):
            tensors = {name + suffix: value for name, value in cell.tensors().items()}
    else:
        tensors = layer.parts_of(suffix)
    for name, weight in tensors.items():
        has_node = weight.requires_grad and not is_computed(layer.cell(suffix))
        node = get_gradient_edge(weight).node if has_node else None
        yield name, Weight(weight.detach().clone().requires_grad_(weight.requires_grad), node)


def _weight(layer: RNNBase, name: str) -> Weight:
    if not parametrize.is_parametrized(layer, name):
        weight = getattr(layer, name)
        node = get_gradient_edge(weight).node if weight.requires_grad else None
        return Weight(weight.detach().clone().requires_grad_(weight.requires_grad), node)
    # A copy, and as it is evaluated: to compute it may change what the user's has in its buffers.
    made_of: nn.Module = copy.deepcopy(layer.parametrizations[name]).eval()  # type: ignore
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        weight = made_of()
    return Weight(weight.detach().requires_grad_(weight.requires_grad), None)


class Form(NamedTuple):
    """The call's sequences, time first, padded: alive is None where all have T steps."""

    rows: Float[Tensor, "T B I"]
    hidden: tuple[Float[Tensor, "layers B H"], ...]
    alive: Bool[Tensor, "T B"] | None
    resets: Bool[Tensor, "T B"] | None
    output: Float[Tensor, "T B D"]
    grad: Float[Tensor, "T B D"]
    grad_ends: tuple[Float[Tensor, "layers B H"], ...]


@torch.no_grad()
def _form(call: LayerCall, twin: Stack) -> Form:
    """Bring whatever form the call had into one, in the twin's dtype."""
    packed = call.x if isinstance(call.x, PackedSequence) else None
    order = None if packed is None else packed.sorted_indices
    is_single = packed is None and _data(call.x).ndim == 2
    dtype, alive, resets = twin.part("weight_ih", "_l0").dtype, None, None

    def series(values: Tensor) -> Tensor:
        values = values.to(dtype)
        if packed is not None:
            return _padded(values, packed.batch_sizes)
        if is_single:
            return values.unsqueeze(1)
        return values.transpose(0, 1) if call.layer.batch_first else values

    def ends(values: Tensor) -> Tensor:
        values = values.unsqueeze(1) if is_single else values
        return (values if order is None else values[:, order]).to(dtype)

    if packed is not None:
        alive = _padded(packed.data.new_ones(len(packed.data), 1), packed.batch_sizes)[..., 0] > 0
    rows = series(_data(call.x).detach())
    if call.lengths is not None:
        alive = steps_alive(call.lengths, len(rows), rows.shape[1], rows.device)
    if call.resets is not None:
        resets = call.resets.t() if call.layer.batch_first and not is_single else call.resets
        resets = resets.bool().view(rows.shape[:2])
    starts = parts(twin.fresh_state(rows.shape[1]))
    if call.hx:
        starts = tuple(ends(part.detach()) for part in call.hx)
    grads = [call.grads.get(i + 1) for i in range(len(starts))]
    at_ends = tuple(
        torch.zeros_like(start) if grad is None else ends(grad)
        for start, grad in zip(starts, grads, strict=True)
    )
    grad = call.grads.get(0)
    output = series(call.output)
    reached = torch.zeros_like(output) if grad is None else series(grad)
    return Form(rows, starts, alive, resets, output, reached, at_ends)


def _padded(rows: Shaped[Tensor, "N ..."], sizes: Int[Tensor, " T"]) -> Shaped[Tensor, "T B ..."]:
    """Return packed rows, longest sequence first, padded with zeros."""
    padded = rows.new_zeros(len(sizes), int(sizes[0]), *rows.shape[1:])
    for t, step in enumerate(rows.split(sizes.tolist())):
        padded[t, : len(step)] = step
    return padded


def chains_of(name: str, call: LayerCall) -> dict[str, Chain]:
    """Run a call again; return its chains, by what to append to the layer's name.

    A stack in one direction is one chain. Where both directions meet between the layers, no order
    of the states is left: each layer and direction is a chain of its own, with the gradient that
    arrives at its output.
    """
    call.require_clear(name)
    with torch.random.fork_rng(devices=[]):
        twin = _twin(call)
        form = _form(call, twin)
        if call.random is not None:
            torch.set_rng_state(call.random)
        with torch.set_grad_enabled(twin.bidirectional):
            runs, out = _run(twin, form, call.output.dtype)
    if not torch.allclose(out, form.output, *CLOSE[call.output.dtype], equal_nan=True):
        raise BpttError(
            f"{name} gave other states when it was run again; expected a layer that computes what "
            "torch.nn's does, with dropout drawn from torch's CPU generator, or cells without noise"
        )
    if not twin.bidirectional:
        return {"": _stack(twin, runs, form)}
    roots = [out, *(part for run in runs for part in run.last)]
    grads = [form.grad, *(grad for run in runs for grad in run.grad_last)]
    torch.autograd.backward(roots, grads)
    return {run.suffix.replace("_l", ".l", 1): _alone(twin, run, form) for run in runs}


def _twin(call: LayerCall) -> Stack:
    """Return layers of ours with the weights that the call had, of float32 at least."""
    layer = call.layer
    like = next(iter(call.weights.values())).value
    dtype = torch.promote_types(like.dtype, torch.float32)
    twin: Any = copy_of(layer)
    if isinstance(layer, Recurrent):
        for suffix in layer.suffixes:
            buffers = layer.cell(suffix).named_buffers()
            twin.__dict__.update({f"{name}{suffix}": b.detach().to(dtype) for name, b in buffers})
        for name, (weight, _) in call.weights.items():
            twin.__dict__[name] = weight.detach().to(dtype).requires_grad_(weight.requires_grad)
        return twin  # type: ignore[no-any-return]
    twin.__class__ = next(ours for its, ours in FASTER.items() if isinstance(layer, its | ours))
    for name, (weight, _) in call.weights.items():
        twin.__dict__.pop(name, None)
        twin._parameters[name] = nn.Parameter(weight.detach().to(dtype), weight.requires_grad)
    return twin  # type: ignore[no-any-return]


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


def _run(twin: Stack, form: Form, dtype: torch.dtype) -> tuple[list[Ran], Float[Tensor, "T B D"]]:
    """Run the layers; where there are two directions, with a graph from the output to each.

    dtype: of the first run, in which dropout drew.
    """
    rows, runs = form.rows, list[Ran]()
    packing = None if form.alive is None else Packing.of(form.alive)
    for k in range(twin.num_layers):
        mask = None
        if k > 0 and twin.dropout > 0 and twin.training:
            mask = _mask(rows.to(dtype), packing, twin.dropout).to(rows.dtype)
            rows = rows * mask
        heads = []
        for reverse in (False, True)[: 1 + twin.bidirectional]:
            suffix = f"_l{k}" + ("_reverse" if reverse else "")
            start, grads = (
                tuple(part[len(runs)] for part in state) for state in (form.hidden, form.grad_ends)
            )
            layout = _layout(packing, form.resets, reverse=reverse)
            h, last = _direction(twin, suffix, rows, start, packing, layout)
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
    twin: Stack,
    suffix: str,
    rows: Tensor,
    start: tuple[Tensor, ...],
    packing: Packing | None,
    layout: Layout,
) -> tuple[Float[Tensor, "T B H"], tuple[Float[Tensor, "B H"], ...]]:
    if packing is None:
        return twin.layer(suffix, rows, start, layout, is_projected=False)
    sorted_start = tuple(part[packing.order] for part in start)
    entered = packing.pack(rows)
    h, last = twin.layer(suffix, entered, sorted_start, layout, is_projected=False)
    back = packing.order.argsort()
    return packing.unpack(h, len(rows)), tuple(part[back] for part in last)


def _layout(packing: Packing | None, resets: Tensor | None, *, reverse: bool) -> Layout:
    if packing is None:
        return Layout(None, resets, reverse)
    packed = None if resets is None else packing.pack(resets)
    return Layout(packing.layout.batch_sizes, packed, reverse)


def _stack(twin: Stack, runs: list[Ran], form: Form) -> Chain:
    """Return the chain of layers that go the same way."""
    zero = torch.zeros_like(form.grad)
    layers = [
        layer_at(
            twin, run.suffix, [Rows(run.enters)], run.start, resets=form.resets, mask=run.mask
        )[0]
        for run in runs
    ]
    seeds = [_seed(zero, run.grad_last, form.alive) for run in runs[:-1]]
    seeds.append(_seed(form.grad, runs[-1].grad_last, form.alive))
    return Chain(layers, seeds, _scored(seeds), twin.closed_by, _carried(form.resets, form.grad))


def _carried(resets: Tensor | None, like: Tensor) -> Tensor | None:
    """Return 0 where a state is zeroed before a step, and 1 elsewhere, (T, B, 1)."""
    return None if resets is None else (~resets).unsqueeze(-1).to(like.dtype)


def _alone(twin: Stack, run: Ran, form: Form) -> Chain:
    """Return the chain of one layer in one direction, in its own order of time."""
    grad, enters = torch.zeros_like(run.h) if run.h.grad is None else run.h.grad, run.enters
    resets = form.resets
    if run.suffix.endswith("_reverse"):
        enters, grad = (_reversed(values, form.alive) for values in (enters, grad))
        resets = None if resets is None else _reversed(resets, form.alive)
    seeds = [_seed(grad, run.grad_last, form.alive)]
    layer, _ = layer_at(twin, run.suffix, [Rows(enters)], run.start, resets=resets)
    return Chain([layer], seeds, _scored(seeds), twin.closed_by, _carried(resets, grad))


def _ends(alive: Tensor | None, T: int, B: int) -> Int[Tensor, " B"]:
    """Return the last step of each sequence."""
    return torch.full((B,), T - 1) if alive is None else alive.sum(0) - 1


def _seed(grad: Tensor, grad_last: tuple[Tensor, ...], alive: Tensor | None) -> Parts:
    """Return the gradient that arrives at the states: at every h, and at the last h (and c)."""
    T, B = grad.shape[:2]
    at = (_ends(alive, T, B).to(grad.device), torch.arange(B, device=grad.device))
    seed = [grad.clone(), *(grad.new_zeros(T, B, last.shape[-1]) for last in grad_last[1:])]
    for part, last in zip(seed, grad_last, strict=True):
        part[at] += last
    return tuple(seed)


def _scored(seeds: list[Parts]) -> Bool[Tensor, "T B"]:
    """Return at which steps a gradient arrives."""
    arrives = [(part != 0).any(-1) for seed in seeds for part in seed]
    return torch.stack(arrives).any(0)


def _reversed(
    values: Shaped[Tensor, "T B *K"], alive: Bool[Tensor, "T B"] | None
) -> Shaped[Tensor, "T B *K"]:
    """Return each sequence backward, within its own length."""
    T, B = values.shape[:2]
    t = torch.arange(T, device=values.device).unsqueeze(1)
    back = _ends(alive, T, B).to(values.device) - t
    rows = torch.where(back >= 0, back, t)
    return values[rows, torch.arange(B, device=values.device)]
