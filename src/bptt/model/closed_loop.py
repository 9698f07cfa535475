"""The loop closed through the output: what the network says itself is fed back.

Nothing here is parallel over time, since every step waits for the output of the one before. A free
run of samples carries no gradient, and has a loop of its own in the kernel; a loop that feeds means
back carries one, through R.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from bptt.kernel import free_run as kernel
from bptt.kernel.plain_loop import State, project
from bptt.model import mean_loop as by_hand
from bptt.model.encodings import BLANK
from bptt.model.given import Given, where
from bptt.model.layers import Feedforward, Hidden, Recurrent
from bptt.model.likelihoods import KINDS
from bptt.model.looped import LoopedRNN
from bptt.model.state import parts

if TYPE_CHECKING:
    from bptt.model.network import Network


class Loop(NamedTuple):
    """What a closed loop gives.

    outputs: oᵗ, (T, B, O); states: the top layer's hᵗ, (T, B, H). said: what the network itself
    said at every step, (T, B, ...), beyond a sequence's end what it said last. last: each
    sequence's hidden state at its own end.
    """

    outputs: Float[Tensor, "T B O"]
    states: Float[Tensor, "T B H"]
    said: Shaped[Tensor, "T B *y"]
    last: Hidden


Say = Callable[[Float[Tensor, "B O"], int], Tensor]
"""What the network says itself, from the outputs of a step and the step's number."""


def mean_loop(net: Network, given: Given) -> Loop:
    """Run with the mean of y fed back where it is not forced; the gradient goes through it."""
    R = net.feedback_weight(given.x)
    is_plain = type(net.likelihood) in KINDS.values() and not isinstance(net.recurrent, LoopedRNN)
    if R is None or not is_plain or not by_hand.can(net.cell, given.alive):
        return plain_loop(net, given, lambda o, t: net.likelihood.mean(o))
    layer = net.recurrent
    base, forced = _base(net, given, R)
    own = as_rows(given.own0, base.new_empty(0, R.shape[1])).squeeze(0)
    kept = None if given.resets is None else (~given.resets).unsqueeze(-1).to(base.dtype)
    fed = (~forced).unsqueeze(-1).to(base.dtype)
    has_loop = given.hidden is not None
    how = by_hand.How(net.cell, net.likelihood, fed, kept, has_loop)
    hidden = given.hidden
    if not isinstance(hidden, Tensor):  # nothing loops over h
        hidden = base.new_zeros(layer.num_layers, given.B, base.shape[-1])
    layers = []
    for k, suffix in enumerate(f"_l{k}" for k in range(layer.num_layers)):
        enters = [R if k == 0 else layer.part("weight_ih", suffix)]
        enters += [layer.part("weight_hh", suffix)] if has_loop else []
        layers.append((torch.cat(enters, dim=1), None if k == 0 else layer.input_bias(suffix)))
    readout = (net.V, net.readout.bias)
    outputs, states, said = by_hand.mean_loop(how, base, own, hidden, readout, layers)
    return Loop(outputs, states[-1], said, states[:, -1] if has_loop else None)


@torch.no_grad()
def free_run(
    net: Network, given: Given, noise: Float[Tensor, "T B *noise"], temperature: float = 1.0
) -> tuple[Shaped[Tensor, "T B *y"], Hidden]:
    """Return the samples that the network itself draws, and the last hidden state.

    They are fed back where it is not forced.
    """
    likelihood = net.likelihood
    is_known = type(likelihood) in KINDS.values()  # a class of the user's own draws as it says
    # A mean that is fed back first, as after feedback "mean", is for the plain loop.
    is_known = is_known and kernel.fits(likelihood.kind, given.own0)
    if is_known and kernel.can(net.recurrent, noise) and given.alive is None:
        return _kernel_run(net, given, noise, temperature)
    loop = plain_loop(net, given, lambda o, t: net.likelihood.draw(o, noise[t], temperature))
    return loop.said, loop.last


def plain_loop(net: Network, given: Given, say: Say) -> Loop:
    """Run one step after the other: the meaning of every closed loop."""
    layer, R = net.recurrent, net.feedback_weight(given.x)
    base, forced = _base(net, given, R)
    own, states = given.own0, _layer_states(layer, given.hidden)
    outputs, tops, said = [], [], []
    for t in range(given.T):
        if given.resets is not None:
            reset = given.resets[t].unsqueeze(1)
            states = [tuple(part.masked_fill(reset, 0) for part in state) for state in states]
        p = base[t]
        if R is not None:
            p = p + project(_unless(forced[t], own), R)
        top, moved = _move(layer, p, states)
        outputs.append(net.outputs_of(top))
        tops.append(top)
        new = say(outputs[-1], t)
        if given.alive is None:
            own, states = new, moved
        else:
            alive = given.alive[t]
            own = where(alive, new, own) if new.dtype == own.dtype else new
            states = [
                tuple(where(alive, a, b) for a, b in zip(now, before, strict=True))
                for now, before in zip(moved, states, strict=True)
            ]
        said.append(own)
    return Loop(
        torch.stack(outputs), torch.stack(tops), torch.stack(said), _joined(given.hidden, states)
    )


def _base(
    net: Network, given: Given, R: Tensor | None
) -> tuple[Float[Tensor, "T B G"], Bool[Tensor, "T B"]]:
    """Return b + U xᵗ, with R yᵗ⁻¹ where it is forced, and where that is, resets included."""
    base = net.project_x(given.x)
    base = base.expand(given.T, given.B, base.shape[-1])
    forced = given.not_own
    assert forced is not None
    if R is None:
        return base, forced
    previous = given.previous(net.likelihood.blank(given.B, base))
    return base + net.likelihood.encoding.project(_unless(~forced, previous), R), forced


def as_rows(own0: Tensor, said: Shaped[Tensor, "T B *y"]) -> Shaped[Tensor, "1 B *y"]:
    """Return what was said first, before what was said later, in the form of that."""
    if own0.is_floating_point() == said.is_floating_point():
        return own0.unsqueeze(0)
    return (own0.unsqueeze(-1) == torch.arange(said.shape[-1])).to(said.dtype).unsqueeze(0)


def _unless(mask: Bool[Tensor, "*rows"], values: Tensor) -> Tensor:
    """Return the values, none at all where the mask is set."""
    nothing = 0 if values.is_floating_point() else BLANK
    mask = mask.view(*mask.shape, *[1] * (values.ndim - mask.ndim))
    return values.masked_fill(mask, nothing)


def _layer_states(layer: Recurrent | Feedforward, hidden: Hidden) -> list[State]:
    return [tuple(part[k] for part in parts(hidden)) for k in range(layer.num_layers)]


def _joined(hidden: Hidden, states: list[State]) -> Hidden:
    """Return the layers' states as one, in the form that `hidden` has."""
    stacked = tuple(torch.stack(same) for same in zip(*states, strict=True))
    if hidden is None:
        return None
    return stacked if isinstance(hidden, tuple) else stacked[0]


def _move(
    layer: Recurrent | Feedforward, p: Float[Tensor, "B G"], states: list[State]
) -> tuple[Float[Tensor, "B H"], list[State]]:
    """Take all layers one step on from the first one's projected input."""
    moved: list[State] = []
    h = p
    for k, state in enumerate(states):
        suffix = f"_l{k}"
        if k > 0:
            p = project(h, layer.part("weight_ih", suffix), layer.input_bias(suffix))
        now = layer.step(suffix)(p, state)
        h = now[0]
        moved.append(now if state else ())
    return h, moved


def _kernel_run(
    net: Network, given: Given, noise: Tensor, temperature: float
) -> tuple[Tensor, Hidden]:
    layer, likelihood = net.recurrent, net.likelihood
    layers = [
        kernel.LayerWeights(
            None if k == 0 else layer.part("weight_ih", suffix),
            layer.part("weight_hh", suffix),
            None if k == 0 else layer.input_bias(suffix),
        )
        for k, suffix in enumerate(f"_l{k}" for k in range(layer.num_layers))
    ]
    is_free = given.forced is None or not bool(given.forced.any())
    hidden = given.hidden if isinstance(given.hidden, Tensor) else None
    run = kernel.FreeRun(
        cell=str(layer.nonlinearity),
        p=net.project_x(given.x),
        layers=layers,
        R=net.feedback_weight(given.x),
        V=net.V,
        c=net.readout.bias,
        hidden=hidden,
        own0=given.own0,
        previous=None if is_free else given.previous(likelihood.blank(given.B, noise)),
        forced=None if is_free else given.forced,
        resets=given.resets,
        kind=likelihood.kind,
        noise=noise,
        temperature=temperature,
        scale=getattr(likelihood, "log_scale", noise.new_zeros(0)).exp() * temperature,
    )
    said, last = kernel.run(run)
    return said, None if hidden is None else last
