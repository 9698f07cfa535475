"""What teacher forcing costs at test time: a network that was always fed the truth drifts alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from bptt.errors import BpttError, require_choice, require_kind, require_whole
from bptt.gradient.exact.truncation import batch_axes, side_by_side, states_before
from bptt.gradient.sequences import Sequences, device_of
from bptt.model.dropout import every_unit
from bptt.model.encodings import Tokens
from bptt.model.network import Network
from bptt.model.state import FEEDBACKS, Regime

MOST_ROWS, STEPS_AT_ONCE = 512, 1024


@dataclass(frozen=True)
class Exposure:
    """What a free run costs, by the number k = 0 … n of steps since the last true value.

    forced, free: (n + 1), the mean NLL of the true values, in nats per step, when the history is
    true, and when the last k values of it are the network's own; over all starts and sequences.
    excess: (n + 1), free − forced, which is 0 at k = 0; spread: its standard deviation over starts.
    starts: how many there are, over all sequences.
    forced_error, free_error: the root mean square errors of the means; None for symbols.
    true, forced_run, free_run: (n + 1, B, d), the values and the means, from the first start; None
    for symbols.
    """

    forced: Float[np.ndarray, " k"]
    free: Float[np.ndarray, " k"]
    excess: Float[np.ndarray, " k"]
    spread: Float[np.ndarray, " k"]
    starts: int
    forced_error: Float[np.ndarray, " k"] | None
    free_error: Float[np.ndarray, " k"] | None
    true: Float[np.ndarray, "k B d"] | None
    forced_run: Float[np.ndarray, "k B d"] | None
    free_run: Float[np.ndarray, "k B d"] | None


@torch.no_grad()
def exposure(
    net: Network,
    y: Shaped[Tensor | np.ndarray, "T B *y"],
    *,
    x: Shaped[Tensor | np.ndarray, "T B *x"] | None = None,
    steps: int,
    starts: int = 100,
    feedback: str = "sample",
    seed: int = 0,
) -> Exposure:
    """Measure the error of a free run against teacher forcing, by steps since the last true value.

    y, x: held-out data. steps: how long to run freely. starts: from how many places, evenly
    spread, in each sequence. feedback: what the network feeds itself, a "sample" or the "mean".
    seed: of the samples; torch's own random numbers stay what they were.

    (The exposure bias of Ranzato et al. 2016, measured.)

    >>> import bptt
    >>> net = bptt.Network(bptt.Categorical(3), hidden=4)
    >>> result = exposure(net, torch.randint(3, (50, 2)), steps=10)
    >>> len(result.excess), bool(abs(result.excess[0]) < 1e-6)
    (11, True)
    """
    require_kind("net", net, Network, "a bptt.Network")
    require_whole("seed", seed, 0)
    require_whole("steps", steps, 0)
    require_whole("starts", starts, 1)
    require_choice("feedback", feedback, FEEDBACKS)
    sequences = Sequences.checked(y, x, Regime(), None, device_of(net))
    last = sequences.T - steps - 1  # the last start from which there are enough steps
    if last < 1:
        raise BpttError(
            f"y has {sequences.T} steps; expected at least steps + 2 = {steps + 2}: one before the "
            "free run, and those that it is scored on"
        )
    stride = max(1, (last - 1) // max(1, starts - 1))
    places = range(1, last + 1, stride)[:starts]
    with torch.random.fork_rng(), every_unit(net):
        torch.manual_seed(seed)
        rows = _runs(net, sequences, places, steps, feedback)
    return _summary(rows, sequences.B)


def _runs(
    net: Network, sequences: Sequences, places: range, steps: int, feedback: str
) -> list[dict[str, Tensor]]:
    """Run from all places, a group at a time; return what came out, (steps + 1, rows, ...)."""
    axes = batch_axes(net, sequences)
    group = max(1, MOST_ROWS // sequences.B)
    known: dict[int, Any] = {0: None}
    results = []
    for first in range(0, len(places), group):
        starts = places[first : first + group]
        known = states_before(net, sequences, known, starts, STEPS_AT_ONCE)
        part = sequences.windows(starts, steps + 1, 0).part(0, steps + 1)
        state = side_by_side(list(known.values()), axes)
        runs = [
            net(part.y, x=part.x, state=state, forcing=forcing, feedback=feedback)
            for forcing in (1.0, 0.0)
        ]
        one = {"forced": runs[0].nll, "free": runs[1].nll}
        if not isinstance(net.likelihood.encoding, Tokens):
            means = (net.likelihood.mean(run.outputs) for run in runs)
            one |= dict(zip(("forced_run", "free_run"), means, strict=True), true=part.y)
        results.append(one)
        known = {starts[-1]: known[starts[-1]]}
    return results


def _summary(rows: list[dict[str, Tensor]], B: int) -> Exposure:
    joined = {name: torch.cat([one[name] for one in rows], 1).double() for name in rows[0]}
    values = {name: rows_.cpu().numpy() for name, rows_ in joined.items()}
    excess = values["free"] - values["forced"]
    errors: dict[str, Any] = {"forced_error": None, "free_error": None}
    runs: dict[str, Any] = {"true": None, "forced_run": None, "free_run": None}
    if "true" in values:
        for name in ("forced", "free"):
            squares = (values[f"{name}_run"] - values["true"]) ** 2
            errors[f"{name}_error"] = np.sqrt(squares.mean(axis=(1, 2)))
        runs = {name: values[name][:, :B] for name in runs}
    return Exposure(
        forced=values["forced"].mean(1),
        free=values["free"].mean(1),
        excess=excess.mean(1),
        spread=excess.std(1),
        starts=excess.shape[1],
        **errors,
        **runs,
    )
