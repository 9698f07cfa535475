"""Series read side by side, and how they go on: from any step of each, by paths that are drawn."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from bptt.data.batches import Batch, as_tensor
from bptt.data.tables.series import Series
from bptt.errors import require_whole
from bptt.model.dropout import every_unit
from bptt.model.network import Network
from bptt.model.state import State

STEPS_AT_ONCE = 1024
SERIES_AT_ONCE = 64


class Part(NamedTuple):
    """The steps of a series from `start` to `stop` − 1."""

    series: Series
    start: int
    stop: int

    def cut(self, offset: int) -> Part:
        """Return those of its steps that are read at once, from an offset on; maybe none."""
        start = min(self.start + offset, self.stop)
        return Part(self.series, start, min(start + STEPS_AT_ONCE, self.stop))


class Window(NamedTuple):
    """What follows in a series from step `origin` on; x: the inputs of its steps, if any."""

    series: Series
    origin: int
    x: Float[np.ndarray, "steps i"] | None = None

    def with_true_inputs(self, steps: int) -> Window:
        """Return the same with the inputs that the series has at its steps."""
        return self._replace(x=self.series.x(self.origin, self.origin + steps))


class Sampling(NamedTuple):
    """How far to go on, and by how many paths."""

    steps: int
    paths: int
    generator: torch.Generator

    @classmethod
    def of(cls, steps: int, paths: int, seed: int | None) -> Sampling:
        """Return it with a generator that is seeded, by chance if that is None."""
        require_whole("paths", paths, 1)
        if seed is not None:
            require_whole("seed", seed, 0)
        generator = torch.Generator()
        _ = generator.seed() if seed is None else generator.manual_seed(seed)
        return cls(steps, paths, generator)

    def run(
        self, net: Network, x: Tensor | None, state: State | None
    ) -> tuple[Float[np.ndarray, "steps B d"], Float[np.ndarray, "steps paths B d"]]:
        """Return how sequences go on from a state, in standard units: the mean, and the paths."""
        x = None if x is None else x.to(net.device, net.dtype)
        ahead = net.forecast(
            self.steps, x=x, state=state, paths=self.paths, generator=self.generator
        )
        return ahead.mean.cpu().numpy(), np.moveaxis(ahead.paths.cpu().numpy(), 0, 1)


def go_on(
    net: Network, windows: Iterable[Window], sampling: Sampling, warm_up: int | None = None
) -> Iterator[tuple[Float[np.ndarray, "steps d"], Float[np.ndarray, "steps paths d"]]]:
    """Yield how each window goes on, in the table's units: the mean, and the paths.

    warm_up: how many steps before it the network reads; None for all.
    """
    windows = iter(windows)
    while chosen := list(itertools.islice(windows, SERIES_AT_ONCE)):
        inputs = [as_tensor(window.x) for window in chosen if window.x is not None]
        x = torch.stack(inputs, dim=1) if inputs else None
        mean, paths = sampling.run(net, x, _state_before(net, chosen, warm_up))
        for column, (series, origin, _) in enumerate(chosen):
            yield (
                series.restore(mean[:, column], origin),
                series.restore(paths[:, :, column], origin),
            )


@torch.no_grad()
def _state_before(net: Network, windows: Sequence[Window], warm_up: int | None) -> State | None:
    """Return the state before each window."""
    state, parts = None, []
    for series, origin, _ in windows:
        start = 0 if warm_up is None else max(0, origin - warm_up)
        parts.append(Part(series, start, origin))
    with every_unit(net):
        for batch in side_by_side(net, parts):
            state = net.advance(batch.y, x=batch.x, lengths=batch.lengths, state=state)
    return state


def side_by_side(net: Network, parts: Sequence[Part]) -> Iterator[Batch]:
    """Yield the steps of several parts, as many at a time as memory bears, for a network.

    A part that has come to its end has length 0.
    """
    for offset in range(0, max(part.stop - part.start for part in parts), STEPS_AT_ONCE):
        cut = [part.cut(offset) for part in parts]
        y = pad_sequence([as_tensor(series.y[start:stop]) for series, start, stop in cut])
        features = [series.x(start, stop) for series, start, stop in cut]
        inputs = [as_tensor(each) for each in features if each is not None]
        x = pad_sequence(inputs) if inputs else None
        lengths = torch.tensor([part.stop - part.start for part in cut])
        ends = lengths if int(lengths.min()) < len(y) else None
        yield Batch(y, x, ends, is_start=offset == 0).of(net)
