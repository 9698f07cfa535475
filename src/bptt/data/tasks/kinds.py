"""What the tasks are: how their sequences are drawn, and when they count as solved."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from bptt.data.criterion import Criterion
from bptt.model.encodings import Encoding, Tokens
from bptt.model.likelihoods.categorical import Categorical
from bptt.model.likelihoods.gaussian import Gaussian
from bptt.model.likelihoods.likelihood import Likelihood


class Drawn(NamedTuple):
    """B sequences of T steps; the first `unscored` steps have no loss."""

    y: Tensor
    x: Tensor | None
    unscored: int = 0


@dataclass(frozen=True)
class Kind:
    """What a task is.

    draw: sequences for a length. likelihood, inputs: of a network for it. criterion: for a length.
    shortest: the least length that makes sense. source: where it is from.
    """

    draw: Callable[[int, int, torch.Generator], Drawn]
    likelihood: Callable[[], Likelihood]
    inputs: int | Encoding
    criterion: Callable[[int], Criterion]
    shortest: int
    source: str


def adding(T: int, B: int, generator: torch.Generator) -> Drawn:
    """Return the sum of the two marked numbers; one lies in each half."""
    numbers = torch.rand(T, B, generator=generator)
    first = torch.randint(T // 2, (B,), generator=generator)
    second = torch.randint(T // 2, T, (B,), generator=generator)
    marks, row = torch.zeros(T, B), torch.arange(B)
    marks[first, row] = marks[second, row] = 1
    y = torch.zeros(T, B, 1)
    y[-1, :, 0] = numbers[first, row] + numbers[second, row]
    return Drawn(y, torch.stack([numbers, marks], -1), T - 1)


COPIED, ALPHABET = 10, 8
BLANK, NOW = ALPHABET, ALPHABET + 1


def copy_memory(T: int, B: int, generator: torch.Generator) -> Drawn:
    """Return ten symbols that are to be output again when, T steps later, they are asked for."""
    symbols = torch.randint(ALPHABET, (COPIED, B), generator=generator)
    x = torch.full((T + 2 * COPIED, B), BLANK)
    x[:COPIED] = symbols
    x[T + COPIED - 1] = NOW
    y = torch.full_like(x, BLANK)
    y[-COPIED:] = symbols
    return Drawn(y, x)


DISTRACTORS = 4


def temporal_order(
    T: int, B: int, generator: torch.Generator, places: tuple[tuple[float, float], ...]
) -> Drawn:
    """Return which of two symbols stood at a few places, in their order, among distractors.

    places: the shares of the length between which each lies.
    """
    x = torch.randint(2, 2 + DISTRACTORS, (T, B), generator=generator)
    answer, row = torch.zeros(B, dtype=torch.int64), torch.arange(B)
    for low, high in places:
        at = torch.randint(int(low * T), int(high * T) + 1, (B,), generator=generator)
        symbol = torch.randint(2, (B,), generator=generator)
        x[at, row] = symbol
        answer = 2 * answer + symbol
    y = torch.zeros(T, B, dtype=torch.int64)
    y[-1] = answer
    return Drawn(y, x, T - 1)


TWO, THREE = ((0.1, 0.2), (0.4, 0.5)), ((0.1, 0.2), (0.33, 0.43), (0.66, 0.76))
PARITY_BITS = 3


def delayed_parity(T: int, B: int, generator: torch.Generator) -> Drawn:
    """Return the parity of three bits, T steps after the last of them, at every step."""
    steps = 3 * T + 20
    x = torch.randint(2, (steps, B), generator=generator)
    y = torch.zeros_like(x)
    unscored = T + PARITY_BITS - 1
    for k in range(PARITY_BITS):
        y[unscored:] ^= x[unscored - T - k : steps - T - k]
    return Drawn(y, x.unsqueeze(-1).float(), unscored)


PULSE = 0.05


def flip_flop(T: int, B: int, generator: torch.Generator) -> Drawn:
    """Return of three channels with rare pulses of ±1 the sign of the last one of each."""
    signs = torch.randint(2, (T, B, 3), generator=generator) * 2.0 - 1
    pulses = torch.rand(T, B, 3, generator=generator) < PULSE
    pulses[0] = True
    x = signs * pulses
    last = torch.where(pulses, torch.arange(T).view(T, 1, 1), 0).cummax(0).values
    return Drawn(x.gather(0, last), x)


NOISE, SPIN_UP = 0.1, 10


def sine(T: int, B: int, generator: torch.Generator) -> Drawn:
    """Return noisy sines of unknown phase and a period from 20 to 40 steps, to be predicted."""
    phase, chance = torch.rand(2, B, generator=generator)
    angle = 2 * math.pi * (torch.arange(T).unsqueeze(1) / (20 + 20 * chance) + phase)
    noise = NOISE * torch.randn(T, B, generator=generator)
    return Drawn((torch.sin(angle) + noise).unsqueeze(-1), None, min(SPIN_UP, T - 1))


LORENZ_MEAN, LORENZ_SPREAD = (0.0, 0.0, 23.55), (7.93, 9.01, 8.62)
LORENZ_STEP, LORENZ_INNER, LORENZ_START = 0.05, 2, 60


def lorenz(T: int, B: int, generator: torch.Generator) -> Drawn:
    """Return noisy, standardised paths of the Lorenz system, to be predicted."""
    state = torch.randn(B, 3, generator=generator, dtype=torch.float64) * 5
    state[:, 2] += 25
    rows = []
    for _ in range(T + LORENZ_START):
        for _ in range(LORENZ_INNER):
            state = _runge_kutta(state, LORENZ_STEP / LORENZ_INNER)
        rows.append(state)
    path = torch.stack(rows[LORENZ_START:])
    path = (path - torch.tensor(LORENZ_MEAN)) / torch.tensor(LORENZ_SPREAD)
    noise = NOISE * torch.randn(T, B, 3, generator=generator)
    return Drawn(path.float() + noise, None, min(SPIN_UP, T - 1))


def _runge_kutta(state: Tensor, dt: float) -> Tensor:
    def slope(v: Tensor) -> Tensor:
        x, y, z = v.unbind(-1)
        return torch.stack([10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z], -1)

    k1 = slope(state)
    k2 = slope(state + dt / 2 * k1)
    k3 = slope(state + dt / 2 * k2)
    return state + dt / 6 * (k1 + 2 * k2 + 2 * k3 + slope(state + dt * k3))


TRIED = 250
"""Sequences on which the baseline of a trajectory is measured."""


def _persistence(draw: Callable[[int, int, torch.Generator], Drawn], length: int) -> float:
    """Return the squared error of expecting the value before."""
    y, _, unscored = draw(length, TRIED, torch.Generator().manual_seed(0))
    return float((y[1:] - y[:-1])[unscored:].square().mean())


def _order(places: tuple[tuple[float, float], ...]) -> Kind:
    answers = 2 ** len(places)
    return Kind(
        lambda T, B, generator: temporal_order(T, B, generator, places),
        lambda: Categorical(answers),
        Tokens(2 + DISTRACTORS),
        lambda T: Criterion("wrong", 0.01, 1 - 1 / answers),
        10,
        "Hochreiter and Schmidhuber 1997, experiment 6; Pascanu, Mikolov and Bengio 2013",
    )


def _trajectory(draw: Callable[[int, int, torch.Generator], Drawn], d: int, source: str) -> Kind:
    return Kind(
        draw,
        lambda: Gaussian(d),
        0,
        lambda T: Criterion("squared error", 2 * NOISE**2, _persistence(draw, T)),
        20,
        source,
    )


TASKS: dict[str, Kind] = {
    "adding": Kind(
        adding,
        lambda: Gaussian(1, scale="fixed"),
        2,
        lambda T: Criterion("squared error", 0.01, 1 / 6),
        2,
        "Hochreiter and Schmidhuber 1997, experiment 4; as in Le, Jaitly and Hinton 2015",
    ),
    "copy": Kind(
        copy_memory,
        lambda: Categorical(ALPHABET + 1),
        Tokens(ALPHABET + 2),
        lambda T: Criterion(
            "nats",
            0.1 * COPIED * math.log(ALPHABET) / (T + 2 * COPIED),
            COPIED * math.log(ALPHABET) / (T + 2 * COPIED),
        ),
        1,
        "Hochreiter and Schmidhuber 1997; as in Arjovsky, Shah and Bengio 2016",
    ),
    "order": _order(TWO),
    "order3": _order(THREE),
    "parity": Kind(
        delayed_parity,
        lambda: Categorical(2),
        1,
        lambda T: Criterion("wrong", 0.01, 0.5),
        0,
        "Bertschinger and Natschläger 2004",
    ),
    "flipflop": Kind(
        flip_flop,
        lambda: Gaussian(3, scale="fixed"),
        3,
        lambda T: Criterion("squared error", 0.05, 1.0),
        2,
        "Sussillo and Barak 2013",
    ),
    "sine": _trajectory(sine, 1, "noisy sines"),
    "lorenz": _trajectory(lorenz, 3, "Lorenz 1963, with noise"),
}
