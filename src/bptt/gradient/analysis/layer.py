"""One layer of a run: the derivative of its step at every time step, and its parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from bptt.gradient.analysis.derivative import (
    Block,
    Derivative,
    StepDerivative,
    StepPassed,
    Use,
)
from bptt.gradient.analysis.parameters import Parameters, Site
from bptt.gradient.analysis.plain_derivative import PlainDerivative
from bptt.kernel import ops
from bptt.kernel.blueprint import copy_of
from bptt.kernel.layout import Layout
from bptt.kernel.native_step import Source
from bptt.kernel.ops import Recipe
from bptt.kernel.plain_loop import Parts, run_steps
from bptt.model.stack import Stack


class Rows(NamedTuple):
    """What enters a layer: rows, (T, B, Z), and which columns of its U they meet; None: all.

    Of tokens only those that occur have a column.
    """

    rows: Shaped[Tensor, "T B Z"]
    columns: Tensor | None = None

    def to(self, dtype: torch.dtype) -> Rows:
        """Return them as numbers."""
        return Rows(self.rows.to(dtype), self.columns)


@dataclass(frozen=True)
class Layer:
    """One layer of a run: the derivative of its step, its parameters, and where these enter.

    U: what its input enters by. mask: what dropout has multiplied that by.
    """

    derivative: StepDerivative
    parameters: Parameters
    sites: list[Site]
    U: Float[Tensor, "G I"]
    mask: Float[Tensor, "T B I"] | None = None

    def down(self, passed: StepPassed, steps: slice) -> Float[Tensor, "J B I"]:
        """Return the gradient of what entered, from the layer below."""
        below = passed.p @ self.U
        return below if self.mask is None else below * self.mask[steps]


def back_through(layers: list[Layer], d: list[Parts], steps: slice) -> list[StepPassed]:
    """Take the gradients of all layers' states after some steps into these, from the top down."""
    passed: list[StepPassed] = []
    down: Tensor | None = None
    for layer, (h, *others) in zip(reversed(layers), reversed(d), strict=True):
        reached = (h if down is None else h + down, *others)
        passed.append(layer.derivative.back(reached, steps))
        down = layer.down(passed[-1], steps) if layer is not layers[0] else None
    return passed[::-1]


def layer_at(
    module: Stack,
    suffix: str,
    enters: list[Rows],
    start: tuple[Float[Tensor, "B _"], ...],
    *,
    resets: Bool[Tensor, "T B"] | None = None,
    mask: Float[Tensor, "T B I"] | None = None,
) -> tuple[Layer, Float[Tensor, "T B H"]]:
    """Run a layer, (T, B), forward in time; return it at every step, and its h.

    start: the parts of the state before the first step. mask: what dropout has multiplied the input
    by.
    """
    parameters = _parameters(module, suffix)
    seen = copy_of(module)
    seen.__dict__.update(parameters)
    with torch.enable_grad():
        recipe = seen.recipe(suffix)
    U = parameters[f"weight_ih{suffix}"]
    biases = [parameters[name + suffix] for name in seen.biases if name + suffix in parameters]
    p = _project(enters, U, biases)
    before, h = _run(recipe, p, start, resets)
    derivative = derivative_at(recipe, p, before)
    weights = [*derivative.weights, U, *biases]
    is_turned = [*derivative.is_turned, True, *[False for _ in biases]]
    made_of = Parameters(parameters, weights, is_turned)
    by_input = _by_input(derivative, [e.to(U.dtype) for e in enters], len(biases))
    sites = made_of.sites(derivative, [*by_input, *derivative.uses()])
    return Layer(derivative, made_of, sites, U.detach(), mask), h


def derivative_at(
    recipe: Recipe, p: Float[Tensor, "T B G"], before: Sequence[Tensor]
) -> StepDerivative:
    """Return a step's derivative where its input and the state before it are these."""
    with torch.enable_grad():
        step = ops.traced(recipe, p.shape[-1], tuple(part.shape[-1] for part in before), p.dtype)
        if isinstance(step, str):
            return PlainDerivative(recipe, p, before)
        return Derivative(step, p, before, step.prepare(recipe.tensors))


def _by_input(derivative: StepDerivative, enters: list[Rows], biases: int) -> list[Use]:
    """Return where U and the biases enter, the weights after those of the step."""
    G, first = derivative.width(derivative.of_p), len(derivative.weights)
    whole = slice(0, G)
    uses = []
    for rows, columns in enters:
        met = slice(0, rows.shape[-1]) if columns is None else columns
        uses.append(Use(derivative.of_p, rows, [Block(first, whole, slice(0), whole, met)]))
    one = enters[0].rows.new_ones(1).expand(derivative.T, derivative.B, 1)
    for i in range(1, biases + 1):
        block = Block(first + i, whole, slice(0), whole, None)
        uses.append(Use(derivative.of_p, one, [block]))
    return uses


def _parameters(module: Stack, suffix: str) -> dict[str, Tensor]:
    """Return a layer's parameters, or what is computed in their place, as leaves of a graph.

    Those that are trained ask for a gradient; if none is, all do.
    """
    ours = module.parts_of(suffix)
    trained = {name for name, value in ours.items() if value.requires_grad} or set(ours)
    return {name: t.detach().requires_grad_(name in trained) for name, t in ours.items()}


@torch.no_grad()
def _project(enters: list[Rows], U: Tensor, biases: list[Tensor]) -> Float[Tensor, "T B G"]:
    """Return b + U x, summed over what enters."""
    p = sum(biases, U.new_zeros(len(U)))
    for rows, columns in enters:
        p = p + rows.to(U.dtype) @ (U if columns is None else U[:, columns]).t()
    return p


@torch.no_grad()
def _run(
    recipe: Recipe, p: Float[Tensor, "T B G"], start: Parts, resets: Bool[Tensor, "T B"] | None
) -> tuple[Before, Float[Tensor, "T B H"]]:
    """Return the state before every step, and h after it."""
    layout = Layout(resets=resets)
    step = ops.traced(recipe, p.shape[-1], tuple(part.shape[-1] for part in start), p.dtype)
    lengths = (1,) * len(start) if isinstance(step, str) else step.lengths
    if isinstance(step, str) or (len(lengths) > 1 and max(lengths) > 1):
        parts, _ = run_steps(recipe.step, p, start, layout, len(start))
        states = [parts[sum(lengths[:state])] for state in range(len(lengths))]
    else:
        states = list(
            ops.run_every(recipe._replace(every=len(lengths)), Source(p), start, layout)[0]
        )
    return Before(start, states, lengths, resets), states[0]


class Before(Sequence[Tensor]):
    """The parts of the state before every step of a run, (T, B, width), each when it is asked for.

    start: the parts before the first. states: after each step, of so many parts each, of which the
    later ones are what the first was before.
    """

    def __init__(
        self,
        start: Parts,
        states: list[Float[Tensor, "T B _"]],
        lengths: tuple[int, ...],
        resets: Bool[Tensor, "T B"] | None,
    ) -> None:
        self.start, self.resets = start, resets
        self.places = [(k, delay) for k, n in enumerate(lengths) for delay in range(1, n + 1)]
        ends = [sum(lengths[: k + 1]) for k in range(len(lengths))]
        self.histories = [
            torch.cat([torch.stack(start[end - n : end][::-1]), state])
            for state, n, end in zip(states, lengths, ends, strict=True)
        ]
        self.lengths = lengths

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, part: int) -> Float[Tensor, "T B _"]:  # type: ignore[override]
        if part >= len(self):
            raise IndexError(part)
        state, delay = self.places[part]
        history, length = self.histories[state], self.lengths[state]
        T = len(history) - length
        rows = history[length - delay :][:T]
        for back in range(min(delay, T) if self.resets is not None else 0):
            assert self.resets is not None  # a reset at any step between cuts what was before it
            cut = torch.cat([torch.zeros_like(self.resets[:back]), self.resets[: T - back]])
            rows = rows.masked_fill(cut.unsqueeze(-1), 0)
        return rows
