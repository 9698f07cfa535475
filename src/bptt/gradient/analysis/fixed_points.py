"""The network by itself, under a constant input: where it comes to rest, and how it composes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Complex, Float
from torch import Tensor

from bptt.errors import BpttError, require_number, require_whole
from bptt.gradient.analysis.layer import Layer, back_through, derivative_at
from bptt.gradient.analysis.parameters import Parameters
from bptt.kernel import plain_loop
from bptt.kernel.ops import Recipe
from bptt.kernel.plain_loop import Parts
from bptt.model.call import as_numbers
from bptt.model.encodings import Encoding
from bptt.model.entry import enter
from bptt.model.hidden import parts
from bptt.model.modules import Modules
from bptt.model.network import Network

DESCENT, LEARNING_RATE, NEWTON = 300, 0.05, 40
MOST_BYTES = 64 << 20
"""What the Jacobians that Newton's method works on at once may take."""


class StateMap:
    """s → F(s) of a network under a constant input, for states (N, S) side by side, in float64.

    S counts the full state: every layer's h, one after the other, and then every layer's c.
    """

    def __init__(self, net: Modules, base: Float[Tensor, " G"]) -> None:
        layer = net.recurrent
        self.base = base.detach().double()
        self.layers = int(layer.num_layers)
        self.widths = [part.shape[-1] for part in parts(layer.zero_state(1))]
        suffixes = [f"_l{k}" for k in range(self.layers)]
        self.recipes = [_exact(layer.recipe(suffix)) for suffix in suffixes]
        self.inputs = [
            (layer.part("weight_ih", suffix).detach().double(), layer.input_bias(suffix))
            for suffix in suffixes
        ]

    @classmethod
    def of(cls, net: Network, x: Any, y: Any) -> StateMap:
        """Return the step with x and the fed back y held constant; by default none."""
        if not isinstance(net, Network):
            raise BpttError(f"got a {type(net).__name__}; expected a bptt.Network")
        if net.recurrence == "output":
            raise BpttError(
                'the recurrence is "output"; expected "hidden" or "both": without a state of its '
                "own the network rests at once"
            )
        if not all(bool(p.isfinite().all()) for p in net.parameters()):
            raise BpttError("the network's weights are not finite; expected no NaN or infinity")
        modules = enter(net.parts)
        base = modules.project_x(None)
        if x is not None:
            base = modules.project_x(_constant("x", x, net.inputs, modules.V))[0, 0]
        R = modules.feedback_weight(None if x is None else torch.empty(0))
        if y is not None and R is not None:
            encoding = net.likelihood.encoding
            base = base + encoding.project(_constant("y", y, encoding, modules.V), R)[0, 0]
        return cls(modules, base)

    @property
    def size(self) -> int:
        """How many numbers the state has."""
        return self.layers * sum(self.widths)

    def __call__(self, s: Float[Tensor, "N S"]) -> Float[Tensor, "N S"]:
        """Return the states a step later."""
        p, moved = self.base.expand(len(s), -1), list[Parts]()
        for k, (recipe, before) in enumerate(zip(self.recipes, self._split(s), strict=True)):
            p = self._project(k, moved[-1][0]) if k > 0 else p
            moved.append(recipe.step(p, before))
        return self._join(moved)

    def jacobian(self, s: Float[Tensor, "N S"]) -> Float[Tensor, "N S S"]:
        """Return ∂F/∂s at every state."""
        p, layers = self.base.expand(1, len(s), -1), list[Layer]()
        for k, (recipe, before) in enumerate(zip(self.recipes, self._split(s), strict=True)):
            derivative = derivative_at(recipe, p, [part.unsqueeze(0) for part in before])
            layers.append(Layer(derivative, Parameters({}, [], []), [], self.inputs[k][0]))
            if k + 1 < self.layers:
                p = self._project(k + 1, recipe.step(p[0], before)[0]).unsqueeze(0)
        eye = torch.eye(self.size, dtype=s.dtype, device=s.device).unsqueeze(1)
        passed = back_through(layers, self._split(eye.expand(-1, len(s), -1)), slice(0, 1))
        return self._join([one.before for one in passed]).transpose(0, 1)

    def _project(self, k: int, h: Float[Tensor, "N H"]) -> Float[Tensor, "N G"]:
        U, b = self.inputs[k]
        return plain_loop.project(h, U, None if b is None else b.detach().double())

    def _split(self, s: Float[Tensor, "... S"]) -> list[Parts]:
        """Return the parts of every layer's state."""
        sizes = [width for width in self.widths for _ in range(self.layers)]
        pieces = s.split(sizes, dim=-1)
        return [pieces[k :: self.layers] for k in range(self.layers)]

    def _join(self, states: list[Parts]) -> Float[Tensor, "... S"]:
        return torch.cat([part for same in zip(*states, strict=True) for part in same], dim=-1)


def _exact(recipe: Recipe) -> Recipe:
    """Return what makes a step, in float64."""
    exact = [None if t is None else t.detach().double() for t in recipe.tensors]
    return recipe._replace(tensors=tuple(exact))


def _constant(name: str, values: Any, encoding: Encoding, like: Tensor) -> Tensor:
    """Return one sequence of one step."""
    numbers = as_numbers(name, values).to(like.device)
    numbers = numbers if not numbers.is_floating_point() else numbers.to(like.dtype)
    return encoding.checked(name, numbers[None, None], 1, 1, like)


@dataclass(frozen=True)
class FixedPoints:
    """Where F(s) = s, stable ones first, and among these the slowest to leave or return last.

    points: (N, S). speed: (N,), q = ½ |F(s) − s|². eigenvalues: (N, S), of ∂F/∂s there, by falling
    modulus. stable: (N,), whether all of them lie within the unit circle.
    """

    points: Float[np.ndarray, "N S"]
    speed: Float[np.ndarray, " N"]
    eigenvalues: Complex[np.ndarray, "N S"]
    stable: Bool[np.ndarray, " N"]


def fixed_points(
    net: Network,
    states: Float[Tensor | np.ndarray, "*N S"],
    *,
    x: Any = None,
    y: Any = None,
    tolerance: float = 1e-12,
    apart: float = 1e-3,
) -> FixedPoints:
    """Find where a network rests under a constant input (Sussillo and Barak 2013).

    From many states at once the speed q(s) = ½ |F(s) − s|² is made smaller, by gradient descent and
    then by Newton's method on F(s) − s; those that come to rest are kept.

    states: where to start, (..., S), such as out.hidden of a run: the full state, every layer's h
    and then, for an LSTM, every layer's c. x, y: the constant input, and the constant y that is fed
    back, for one sequence; by default none. tolerance: the largest q that counts as rest. apart:
    points nearer to each other than this, relative to √S, are the same.

    >>> import bptt
    >>> net = bptt.Network(bptt.Categorical(5), hidden=8)
    >>> with torch.no_grad():
    ...     _ = net.recurrent.weight_hh_l0.mul_(0.5)  # what shrinks has one place to rest
    >>> bptt.fixed_points(net, torch.randn(20, 8)).stable.tolist()
    [True]
    """
    step = StateMap.of(net, x, y)
    for name, value in (("tolerance", tolerance), ("apart", apart)):
        require_number(name, value)
    start = as_numbers("states", states).detach().to(step.base)
    if start.ndim < 1 or start.shape[-1] != step.size or start.numel() == 0:
        raise BpttError(
            f"states has shape {tuple(start.shape)}; expected (..., S) with S = {step.size}, the "
            "full state, and at least one"
        )
    if not bool(start.isfinite().all()):
        raise BpttError("states are not finite; expected numbers to start from")
    s = _newton(step, _descend(step, start.reshape(-1, step.size)))
    speed = _speed(step, s)
    s = _merged(s[speed <= tolerance], apart * step.size**0.5)
    eigenvalues = torch.linalg.eigvals(step.jacobian(s)) if len(s) else s.to(torch.complex128)
    eigenvalues = eigenvalues.gather(-1, eigenvalues.abs().argsort(-1, descending=True))
    radius = eigenvalues.abs()[:, 0]
    order = radius.argsort()
    return FixedPoints(
        s[order].cpu().numpy(),
        _speed(step, s)[order].cpu().numpy(),
        eigenvalues[order].cpu().numpy(),
        (radius < 1)[order].cpu().numpy(),
    )


@torch.no_grad()
def _speed(step: StateMap, s: Float[Tensor, "N S"]) -> Float[Tensor, " N"]:
    """Return q."""
    return 0.5 * (step(s) - s).square().sum(-1)


@torch.enable_grad()
def _descend(step: StateMap, s: Float[Tensor, "N S"]) -> Float[Tensor, "N S"]:
    """Make q smaller by Adam's steps, each state by itself."""
    s = s.clone().requires_grad_()
    optimizer = torch.optim.Adam([s], lr=LEARNING_RATE)
    for i in range(DESCENT):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * (1 - i / DESCENT)
        q = 0.5 * (step(s) - s).square().sum()
        (s.grad,) = torch.autograd.grad(q, s)
        optimizer.step()
    return s.detach()


@torch.no_grad()
def _newton(step: StateMap, s: Float[Tensor, "N S"]) -> Float[Tensor, "N S"]:
    """Solve F(s) = s from nearby; leave states that are there, or that get no nearer."""
    s, S = s.clone(), s.shape[1]
    q = _speed(step, s)
    at_once = max(1, MOST_BYTES // (S * S * s.element_size()))
    going = q.isfinite().nonzero().squeeze(1)
    for _ in range(NEWTON):
        going = going[q[going] > S * torch.finfo(s.dtype).eps ** 2]
        for rows in going.split(at_once):
            s[rows] = _newton_step(step, s[rows], q[rows])
        now = _speed(step, s[going])
        nearer = now < q[going]
        q[going] = now
        going = going[nearer]
    return s


def _newton_step(
    step: StateMap, s: Float[Tensor, "N S"], q: Float[Tensor, " N"]
) -> Float[Tensor, "N S"]:
    """Return the states a step of Newton's nearer, halved for as long as it makes q larger."""
    eye = torch.eye(s.shape[1], dtype=s.dtype, device=s.device)
    off = (step(s) - s).unsqueeze(-1)
    way = torch.linalg.lstsq(step.jacobian(s) - eye, off).solution.squeeze(-1)
    scale = torch.ones_like(q)
    for _ in range(8):
        worse = ~(_speed(step, s - scale[:, None] * way) < q)
        scale = torch.where(worse, scale / 2, scale)
    tried = s - scale[:, None] * way
    return torch.where((_speed(step, tried) < q)[:, None], tried, s)


def _merged(s: Float[Tensor, "N S"], apart: float) -> Float[Tensor, "M S"]:
    """Return one of each group of states that are nearer to it than `apart`."""
    representatives = s[:0]
    for one in s:
        if bool(((representatives - one).norm(dim=1) > apart).all()):
            representatives = torch.cat([representatives, one[None]])
    return representatives


@dataclass(frozen=True)
class CompositionProfile:
    """A projection of the state after 0, 1, … n steps, against where on a line it started.

    coordinate: (points,), along the line; values: (n + 1, points).
    """

    coordinate: Float[np.ndarray, " points"]
    values: Float[np.ndarray, "steps points"]


@torch.no_grad()
def composition_profile(
    net: Network,
    *,
    steps: int,
    points: int = 200,
    span: float = 4.0,
    x: Any = None,
    y: Any = None,
    seed: int = 0,
) -> CompositionProfile:
    """Return how non-linear the same step becomes when it is composed with itself.

    (Goodfellow et al. 2016, figure 10.15.) The start moves along a random line in state space, from
    −span to span times √S on either side of a random point √S away from 0; what is shown is the
    projection of the state after each number of steps on another random direction. x, y: as in
    `fixed_points`. seed: chooses the three directions.

    >>> import bptt
    >>> net = bptt.Network(bptt.Categorical(5), hidden=8)
    >>> bptt.composition_profile(net, steps=5).values.shape
    (6, 200)
    """
    require_whole("steps", steps, 0)
    require_whole("points", points, 2)
    step = StateMap.of(net, x, y)
    require_number("span", span, "a number above 0")
    require_whole("seed", seed, 0)
    if not 0 < span < float("inf"):
        raise BpttError(f"span is {span}; expected a number above 0")
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(3, step.size, generator=generator, dtype=torch.float64)
    # Not through 0, where without biases every unit changes its sign at once.
    line, direction, middle = (drawn / drawn.norm(dim=1, keepdim=True)).to(step.base.device)
    coordinate = torch.linspace(-span, span, points, dtype=torch.float64)
    s = (coordinate.to(line)[:, None] * line + middle) * step.size**0.5
    values = [s @ direction]
    for _ in range(steps):
        s = step(s)
        values.append(s @ direction)
    return CompositionProfile(coordinate.numpy(), torch.stack(values).cpu().numpy())
