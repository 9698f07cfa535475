"""The tasks on which recurrent networks are tried, drawn on the fly from a seed."""

from __future__ import annotations

import difflib
import hashlib
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bptt.errors import BpttError, require_whole
from bptt.model.encodings import Encoding, Tokens
from bptt.model.likelihoods import Categorical, Gaussian, Likelihood
from bptt.model.network import Network
from bptt.training.batches import Batch, Batches, Data

EPOCH, HELD_OUT, HELD_OUT_BATCH = 100, 2000, 250
"""Batches of an epoch; held-out sequences, and how many of them are run side by side."""
PREFIX, DEFAULT_LENGTH = "task:", 100


class Drawn(NamedTuple):
    """B sequences of T steps; the first `unscored` steps have no loss."""

    y: Tensor
    x: Tensor | None
    unscored: int = 0


class Criterion(NamedTuple):
    """When a task counts as solved: when `measure` is below `solved`.

    measure: "squared error" (mean, over dimensions too), "wrong" (the share of answers) or "nats"
    (per scored step). baseline: of it, what a network without memory reaches at best.
    """

    measure: str
    solved: float
    baseline: float


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
    """Return ten symbols that are to be said again when, T steps later, they are asked for."""
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


def _persistence(draw: Callable[[int, int, torch.Generator], Drawn], length: int) -> float:
    """Return the squared error of expecting the value before."""
    y, _, unscored = draw(length, HELD_OUT_BATCH, torch.Generator().manual_seed(0))
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


KINDS: dict[str, Kind] = {
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


@dataclass(frozen=True)
class Task(Data):
    """A task of a length, or of lengths from the first to the second, one drawn a batch.

    Held out are sequences of the longest.

    >>> task = Task("adding", (50, 50))
    >>> y, x, *_ = task.training_batches(20, None, seed=0).get(0, 0)
    >>> y.shape, x.shape
    (torch.Size([50, 20, 1]), torch.Size([50, 20, 2]))
    """

    name: str
    lengths: tuple[int, int]
    kind: Kind = field(init=False, repr=False, compare=False)

    unit = "step"
    default_batch = 20
    default_window = None

    def __post_init__(self) -> None:
        if self.name not in KINDS:
            near = difflib.get_close_matches(self.name, KINDS, 1, 0.4)
            hint = f"did you mean {near[0]}? There are" if near else "expected one of"
            raise BpttError(f"there is no task {self.name!r}; {hint} {', '.join(KINDS)}")
        kind = KINDS[self.name]
        low, high = self.lengths
        require_whole("the length", low, kind.shortest, 10**7)
        require_whole("the length", high, low, 10**7)
        object.__setattr__(self, "kind", kind)

    @classmethod
    def parse(cls, name: str, length: str | int) -> Task:
        """Return a task by its name, with or without "task:", and length, as 200 or 50-200."""
        found = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", str(length))
        if found is None:
            raise BpttError(f"the length is {length!r}; expected a number, or two as in 50-200")
        low, high = int(found[1]), int(found[2] or found[1])
        if high < low:
            raise BpttError(f"the length is {length}; expected the smaller number first")
        return cls(name.removeprefix(PREFIX), (low, high))

    @property
    def source(self) -> str:  # type: ignore[override]
        """What to call it."""
        low, high = self.lengths
        return f"{PREFIX}{self.name}, length {low}" + (f" to {high}" if high > low else "")

    @property
    def sha256(self) -> str:  # type: ignore[override]
        """Of what it is called: it has no file."""
        return hashlib.sha256(self.source.encode()).hexdigest()

    @property
    def likelihood(self) -> Likelihood:
        """A fresh likelihood for its y."""
        return self.kind.likelihood()

    @property
    def inputs(self) -> int | Encoding:
        """What its x is."""
        return self.kind.inputs

    @property
    def criterion(self) -> Criterion:
        """When it counts as solved, at its longest."""
        return self.kind.criterion(self.lengths[1])

    def training_batches(self, batch: int, steps: int | None, seed: int) -> Drawing:
        """Return fresh sequences in every batch; steps plays no part, as they are whole."""
        return Drawing(self, batch, EPOCH, seed)

    def validation_batches(self, batch: int) -> Drawing:
        """Return held-out sequences, always the same ones."""
        size = min(HELD_OUT_BATCH, max(1, 2**17 // self.lengths[1]))
        return Drawing(self, size, max(1, HELD_OUT // size), None)

    def config(self) -> dict[str, Any]:
        """Return what it takes to make the task again."""
        mine = {"name": self.name, "lengths": list(self.lengths), "sha256": self.sha256}
        return {"kind": "task", "path": None, **mine}

    def judge(self, net: Network) -> float:
        """Return what the criterion measures, on the held-out sequences, under teacher forcing."""
        return judge(net, self.validation_batches(1), self.criterion.measure)


class Drawing(Batches):
    """Batches that are drawn when they are asked for.

    seed: None for the held-out ones, which are of the longest length and the same every epoch.
    """

    def __init__(self, task: Task, batch: int, count: int, seed: int | None) -> None:
        self.task, self.batch, self.count, self.seed = task, batch, count, seed
        y, _, unscored = task.kind.draw(task.lengths[1], 1, torch.Generator().manual_seed(0))
        self.steps = (len(y) - unscored) * batch * count

    def __len__(self) -> int:
        """How many batches an epoch has."""
        return self.count

    def get(self, epoch: int, index: int) -> Batch:
        """Return a batch of an epoch."""
        generator, (low, high) = torch.Generator(), self.task.lengths
        if self.seed is None:
            generator.manual_seed(2**40 + index)
            T = high
        else:
            generator.manual_seed((self.seed * 1_000_003 + epoch * self.count + index) % 2**40)
            T = low + int(torch.randint(high - low + 1, (), generator=generator))
        y, x, unscored = self.task.kind.draw(T, self.batch, generator)
        return Batch(y, x, None, True, unscored)


@torch.no_grad()
def judge(net: Network, batches: Batches, measure: str) -> float:
    """Return a criterion's measure: the mean over all scored steps."""
    mode, total, count = net.training, 0.0, 0
    net.eval()
    for i in range(len(batches)):
        batch = batches.get(0, i)
        each = _judged(net, batch, measure)[batch.unscored :]
        total += float(each.sum(dtype=torch.float64))
        count += each.numel()
    net.train(mode)
    return total / count


def _judged(net: Network, batch: Batch, measure: str) -> Tensor:
    """Return the measure at every step, (T, B)."""
    out = net(batch.y, batch.x, lengths=batch.lengths)
    if measure == "wrong":
        wrong: Tensor = out.outputs.argmax(-1) != batch.y
        return wrong.double()
    if measure == "squared error":
        off: Tensor = net.likelihood.mean(out.outputs) - batch.y
        return off.square().mean(-1)
    assert out.nll is not None
    nll: Tensor = out.nll
    return nll
