"""The loop closed through the output: what the network generates is fed back.

It is a cell like any other. Its state is what was generated, and what the layers have; its step is
the layers', the read-out, and the mean of the likelihood, or what it draws from random numbers that
come with the input:

    aᵗ = b + U xᵗ + R ȳᵗ⁻¹,    hᵗ = f(aᵗ, hᵗ⁻¹),    oᵗ = c + V hᵗ,    ȳᵗ = mean(oᵗ) or draw(oᵗ, uᵗ)

So it runs natively, whatever the layers are, and has the exact gradient: of what is drawn none.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from itertools import islice
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from bptt.kernel import ops
from bptt.kernel.blueprint import Blueprint, names_of
from bptt.kernel.layout import Layout, Packing
from bptt.kernel.native_step import Source
from bptt.kernel.ops import Recipe
from bptt.kernel.plain import is_transformed
from bptt.kernel.plain_loop import Parts, Step, run_steps
from bptt.model.call import Call, where
from bptt.model.encodings import BLANK, Tokens
from bptt.model.hidden import Hidden, parts
from bptt.model.likelihoods.likelihood import Likelihood
from bptt.model.modules import Modules
from bptt.model.stack import Stack


class MeanRun(NamedTuple):
    """What a loop of means gives.

    outputs: oᵗ, (T, B, O); states: the top layer's hᵗ, (T, B, H), of no meaning beyond a sequence's
    end. generated: what the network generated at every step, (T, B, ...), beyond the end what it
    generated last. last: each sequence's hidden state at its own end.
    """

    outputs: Float[Tensor, "T B O"]
    states: Float[Tensor, "T B H"]
    generated: Shaped[Tensor, "T B *y"]
    last: Hidden


def mean_loop(net: Modules, call: Call) -> MeanRun:
    """Run with the mean of y fed back where it is not forced; the gradient goes through it."""
    like = net.V.new_empty(0, net.likelihood.encoding.width)
    first = as_rows(call.generated0, like).squeeze(0)
    (generated, outputs, states), last = _run(net, call, first)
    if not outputs.requires_grad:  # where no sequence has a step, it still is the read-out's
        outputs = net.outputs_of(states)
    return MeanRun(outputs, states, generated, last)


@torch.no_grad()
def sample_loop(
    net: Modules, call: Call, noise: Float[Tensor, "T B *noise"], temperature: float = 1.0
) -> tuple[Shaped[Tensor, "T B *y"], Hidden]:
    """Return the samples that the network generates, and the last hidden state.

    They are fed back where it is not forced.
    """
    first, dtype = call.generated0, noise.dtype
    is_number = isinstance(net.likelihood.encoding, Tokens)
    if is_number:  # of a symbol, in one column; where a mean is to enter first, it enters with x
        number = dtype if dtype in ops.FLOATS else torch.int64
        is_mean = first.is_floating_point()
        first = first.new_zeros(first.shape[:1]) if is_mean else first.clamp(min=0)
        first = first.unsqueeze(1).to(number)
    (generated,), last = _run(net, call, first, noise, temperature)
    return generated.squeeze(-1).long() if is_number else generated, last


class LayerKind(NamedTuple):
    """What a layer's step is made by, of how many tensors, with which options; see Recipe."""

    make: Callable[..., Step]
    tensors: int
    options: tuple[Hashable, ...]


class Plan(NamedTuple):
    """A closed loop but for its tensors.

    G: how wide the first layer's projected input is. parts: how many parts each layer's state has.
    temperature: of what is drawn, or None where the mean is fed back.
    """

    layers: tuple[LayerKind, ...]
    parts: int
    G: int
    likelihood: Blueprint
    temperature: float | None


def closed(*arguments: Any) -> Step:
    """Return the step of a closed loop.

    Of R, or None, V, c; of every layer U, b and what its step is made of; of the likelihood's
    tensors; and of a Plan. Its input is b + U x, 1 where what was generated is fed back and 0
    where not, and random numbers; its state what was generated, with means also o, and the layers'
    states, the top one's first.
    """
    R, V, c, *rest, plan = arguments
    tensors = iter(rest)
    layers = [
        (next(tensors), next(tensors), kind.make(*islice(tensors, kind.tensors), *kind.options))
        for kind in plan.layers
    ]
    likelihood: Likelihood = plan.likelihood.of(list(tensors))
    is_mean, G = plan.temperature is None, plan.G
    is_number = isinstance(likelihood.encoding, Tokens) and not is_mean

    def step(p: Tensor, state: Parts) -> Parts:
        previous, hidden = state[0], state[2:] if is_mean else state[1:]
        h, fed = p[:, :G], p[:, G : G + 1]
        if R is not None and is_number:
            h = h + fed * torch.nn.functional.embedding(previous[:, 0].long(), R.t())
        elif R is not None:
            h = h + torch.nn.functional.linear(torch.where(fed > 0, previous, 0.0), R)
        moved: list[Tensor] = []
        for k, (U, b, move) in enumerate(layers):
            first = (len(layers) - 1 - k) * plan.parts
            a = h if k == 0 else torch.nn.functional.linear(h, U, b)
            now = move(a, hidden[first : first + plan.parts])
            h = now[0]
            moved = [*now, *moved]
        o = torch.nn.functional.linear(h, V, c)
        if is_mean:
            return (likelihood.mean(o), o, *moved)
        noise = _as_noise(p[:, G + 1 :], likelihood.noise_shape)
        generated = likelihood.draw(o, noise, plan.temperature)
        return (generated.unsqueeze(1).to(previous.dtype) if is_number else generated, *moved)

    return step


def mean_step(net: Modules) -> Recipe:
    """Return what makes the mean of y from the top layer's h, as a step without a loop."""
    blueprint, tensors = _blueprint(net.likelihood)
    return Recipe(_mean, (net.V, net.readout.bias, *tensors), (blueprint,))


def _blueprint(likelihood: Likelihood) -> tuple[Blueprint, list[Tensor | None]]:
    """Return a likelihood but for its tensors, and these."""
    names = names_of(likelihood)
    return Blueprint(likelihood, names), [getattr(likelihood, name) for name in names]


def _mean(*arguments: Any) -> Step:
    V, c, *tensors, blueprint = arguments
    likelihood: Likelihood = blueprint.of(tensors)
    return lambda h, _: (likelihood.mean(torch.nn.functional.linear(h, V, c)),)


def _as_noise(columns: Float[Tensor, "B n"], shape: tuple[int, ...]) -> Float[Tensor, " B *noise"]:
    if len(shape) == 1:
        return columns
    return columns[:, 0] if not shape else columns.reshape(-1, *shape)


def _run(
    net: Modules,
    call: Call,
    first: Float[Tensor, "B Y"],
    noise: Float[Tensor, "T B *noise"] | None = None,
    temperature: float | None = None,
) -> tuple[tuple[Tensor, ...], Hidden]:
    """Return what was generated, with means also o and the top h; and the last hidden state."""
    layer, R = net.recurrent, net.feedback_weight(call.x)
    base, forced = _base(net, call, R)
    fed, is_drawn = ~forced, noise is not None
    if not call.generated0.is_floating_point():  # what stands for no symbol is not fed back
        fed = torch.cat([fed[:1] & (call.generated0 != BLANK), fed[1:]])
    elif is_drawn and R is not None and isinstance(net.likelihood.encoding, Tokens):
        by_mean = torch.nn.functional.linear(_unless(forced[0], call.generated0), R)
        base = torch.cat([base[:1] + by_mean, base[1:]])
        fed = torch.cat([torch.zeros_like(fed[:1]), fed[1:]])
    columns = [base, fed.unsqueeze(-1).to(base.dtype)]
    if noise is not None:
        columns.append(noise.unsqueeze(-1) if noise.ndim == 2 else noise.flatten(2))
    p = torch.cat(columns, dim=-1)
    recipe = _recipe(net, R, base.shape[-1], temperature)
    outputs = () if is_drawn else (base.new_zeros(call.B, net.likelihood.outputs),)
    state = (first, *outputs, *_parts_of(layer, call, base))
    every, last = _over_time(recipe, p, state, call)
    moved = _hidden(last[1 + len(outputs) :], call.hidden, layer.num_layers)
    if call.alive is not None:
        every = (where(call.alive, every[0], last[0].expand_as(every[0])), *every[1:])
    return every, moved


def _recipe(net: Modules, R: Tensor | None, G: int, temperature: float | None) -> Recipe:
    """Return what makes the closed loop's step."""
    layer, (blueprint, of_likelihood) = net.recurrent, _blueprint(net.likelihood)
    tensors: list[Tensor | None] = [R, net.V, net.readout.bias]
    kinds = []
    for k, suffix in enumerate(f"_l{k}" for k in range(layer.num_layers)):
        make, of, options, *_ = layer.recipe(suffix)
        U, b = layer.part("weight_ih", suffix), layer.input_bias(suffix)
        tensors += [*((None, None) if k == 0 else (U, b)), *of]
        kinds.append(LayerKind(make, len(of), options))
    count = len(layer.state_sizes) or 1
    plan = Plan(tuple(kinds), count, G, blueprint, temperature)
    every = 3 if temperature is None else 1
    return Recipe(closed, (*tensors, *of_likelihood), (plan,), every)


def _over_time(
    recipe: Recipe, p: Float[Tensor, "T B _"], state: Parts, call: Call
) -> tuple[tuple[Float[Tensor, "T B _"], ...], Parts]:
    """Run a step over sequences, each up to its end."""
    if call.alive is None:
        return _steps(recipe, p, state, Layout(resets=call.resets))
    packing = Packing.of(call.alive)
    resets = None if call.resets is None else packing.pack(call.resets)
    layout = Layout(packing.layout.batch_sizes, resets)
    sorted_state = tuple(part[packing.order] for part in state)
    every, last = _steps(recipe, packing.pack(p), sorted_state, layout)
    back = packing.order.argsort()
    unpacked = tuple(packing.unpack(rows, call.T) for rows in every)
    return unpacked, tuple(part[back] for part in last)


def _steps(recipe: Recipe, p: Tensor, state: Parts, layout: Layout) -> tuple[Any, Parts]:
    if torch.compiler.is_compiling():
        return run_steps(recipe.step, p, state, layout, recipe.every)
    return ops.run_every(recipe, Source(p), state, layout)


def _base(
    net: Modules, call: Call, R: Tensor | None
) -> tuple[Float[Tensor, "T B G"], Bool[Tensor, "T B"]]:
    """Return b + U xᵗ, with R yᵗ⁻¹ where it is forced, and where that is, resets included."""
    base = net.project_x(call.x)
    base = base.expand(call.T, call.B, base.shape[-1])
    forced = call.not_generated
    assert forced is not None
    is_concrete = not (torch.compiler.is_compiling() or is_transformed())
    if R is None or (is_concrete and not bool(forced.any())):
        return base, forced
    previous = call.previous(net.likelihood.blank(call.B, base))
    return base + net.likelihood.encoding.project(_unless(~forced, previous), R), forced


def as_rows(generated0: Tensor, generated: Shaped[Tensor, "T B *y"]) -> Shaped[Tensor, "1 B *y"]:
    """Return what was generated first, in the form of what was generated later."""
    if generated0.is_floating_point() == generated.is_floating_point():
        return generated0.unsqueeze(0)
    return (
        (generated0.unsqueeze(-1) == torch.arange(generated.shape[-1], device=generated0.device))
        .to(generated.dtype)
        .unsqueeze(0)
    )


def _unless(mask: Bool[Tensor, "*rows"], values: Tensor) -> Tensor:
    """Return the values, none at all where the mask is set."""
    nothing = 0 if values.is_floating_point() else BLANK
    mask = mask.view(*mask.shape, *[1] * (values.ndim - mask.ndim))
    return values.masked_fill(mask, nothing)


def _parts_of(layer: Stack, call: Call, like: Tensor) -> list[Tensor]:
    """Return the parts of every layer's state, the top one's first."""
    depth = range(layer.num_layers)
    if call.hidden is None:  # nothing loops over h, which is there to be returned
        return [like.new_zeros(call.B, layer.hidden_size) for _ in depth]
    return [part[k] for k in reversed(depth) for part in parts(call.hidden)]


def _hidden(flat: Sequence[Tensor], hidden: Hidden, layers: int) -> Hidden:
    """Return the layers' states as one, in the form that `hidden` has."""
    if hidden is None:
        return None
    count = len(flat) // layers
    stacked = tuple(torch.stack(list(flat[j::count])[::-1]) for j in range(count))
    return stacked if isinstance(hidden, tuple) else stacked[0]
