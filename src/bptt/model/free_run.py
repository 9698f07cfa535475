"""The free run, step after step; and of a series of numbers many, to see how it may go on."""

from __future__ import annotations

from collections.abc import Iterator
from types import NoneType
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from bptt.errors import BpttError, require_kind, require_memory, require_number, require_whole
from bptt.model.call import (
    Call,
    batch_size,
    checked,
    checked_x,
    fresh_state,
    leading,
    require_tensor,
    start_of,
)
from bptt.model.closed_loop import sample_loop
from bptt.model.encodings import Tokens
from bptt.model.hidden import Hidden, each, parts
from bptt.model.likelihoods.likelihood import require_temperature
from bptt.model.modules import Modules
from bptt.model.reading import state_after
from bptt.model.state import Regime, State

STREAM_STEPS = 64
"""How many steps of a free run are computed at once, at first; then twice as many each time."""
STREAM_ROWS = 4096
"""How many rows of all sequences are computed at once, at most, if that is more steps."""
MOST_STEPS = 1 << 40
"""Which would take days."""


@torch.no_grad()
def stream(
    net: Modules,
    steps: int,
    *,
    x: Shaped[Tensor, "T B *x"] | None = None,
    prompt: Shaped[Tensor, "P B *y"] | None = None,
    state: State | None = None,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> Iterator[Shaped[Tensor, "S B *y"]]:
    """Do what `Network.stream` says."""
    require_whole("steps", steps, 0, MOST_STEPS)
    require_temperature(temperature)
    _require_generator(generator)
    state, x, B = _after_prompt(net, steps, x, prompt, state)
    hidden, y, generated = start_of(net, state, B)
    generated = generated if state is not None and state.y is None else y
    start, T = 0, STREAM_STEPS
    while start < steps:
        T = min(T, steps - start)
        now = None if x is None else x[start : start + T]
        forced = torch.zeros(T, B, dtype=torch.bool, device=generated.device)
        call = Call(T, B, hidden, y, generated, x=checked_x(net, now, T, B), forced=forced)
        noise = net.likelihood.noise(T, B, net.readout.weight, generator)
        drawn, hidden = sample_loop(net, call, noise, temperature)
        generated = drawn[-1]
        _require_numbers(drawn, hidden)
        yield drawn
        start += T
        T = min(2 * T, max(STREAM_STEPS, STREAM_ROWS // max(B, 1)))


def _require_generator(generator: object) -> None:
    kinds = (torch.Generator, NoneType)
    require_kind("generator", generator, kinds, "a torch.Generator, or None")


def _require_numbers(generated: Tensor, hidden: Hidden) -> None:
    """Raise BpttError if a free run has left the numbers, as one with relu units can."""
    if all(bool(part.isfinite().all()) for part in (generated, *parts(hidden))):
        return
    raise BpttError(
        "the free run's state became infinite or not a number: is the network trained, with "
        "weights that are finite? relu units can grow without bound, tanh units cannot"
    )


class Forecast(NamedTuple):
    """What `Network.forecast` returns.

    mean: (steps, B, d), the run that feeds each mean back; the likeliest bits of a Bernoulli.
    paths: (paths, steps, B, d), runs that feed samples back.
    """

    mean: Float[Tensor, "steps B d"]
    paths: Float[Tensor, "paths steps B d"]

    def quantile(self, share: float) -> Float[Tensor, "steps B d"]:
        """Return the value below which this share of the paths lies, at each step by itself."""
        require_number("the quantile's share", share, "a number from 0 to 1")
        if not 0 <= share <= 1:
            raise BpttError(f"the quantile's share is {share}; expected a number from 0 to 1")
        precise = torch.promote_types(self.paths.dtype, torch.float32)  # numpy has no bfloat16
        quantiles = np.quantile(self.paths.to(precise).cpu().numpy(), share, axis=0)
        return torch.from_numpy(np.asarray(quantiles)).to(self.mean)


def forecast(
    net: Modules,
    steps: int,
    *,
    x: Shaped[Tensor, "T B *x"] | None = None,
    prompt: Float[Tensor, "P B d"] | None = None,
    state: State | None = None,
    paths: int = 100,
    generator: torch.Generator | None = None,
) -> Forecast:
    """Do what `Network.forecast` says."""
    require_whole("steps", steps, 1, MOST_STEPS)
    require_whole("paths", paths, 1)
    _require_generator(generator)
    if isinstance(net.likelihood.encoding, Tokens):
        raise BpttError("the likelihood is categorical; expected numbers: for symbols use generate")
    require_memory("the forecast", 4 * (paths + 1) * steps * net.likelihood.outputs)
    state, future, B = _after_prompt(net, steps, x, prompt, state)
    mean = torch.cat([*stream(net, steps, x=future, state=state, temperature=0.0)])
    many = torch.cat(
        [
            *stream(
                net,
                steps,
                x=None if future is None else future.repeat_interleave(paths, dim=1),
                state=_repeated(fresh_state(net, B) if state is None else state, paths),
                generator=generator,
            )
        ]
    )
    return Forecast(mean, many.unflatten(1, (B, paths)).movedim(2, 0))


@torch.no_grad()
def _after_prompt(
    net: Modules, steps: int, x: Tensor | None, prompt: Tensor | None, state: State | None
) -> tuple[State | None, Tensor | None, int]:
    """Return the state after the prompt, x from there on, and B, or raise BpttError."""
    for name, values in (("x", x), ("prompt", prompt)):
        if values is not None:
            require_tensor(name, values)
            leading(values, None, name)
    before = 0 if prompt is None else len(prompt)
    if x is not None and len(x) != before + steps:
        raise BpttError(
            f"x has {len(x)} steps; expected {before + steps}, the prompt's and the free run's"
        )
    future = None if x is None else x[before:]
    if prompt is None:
        return state, future, batch_size(x, state)
    T, B = leading(prompt, None, "prompt")
    prompt = net.likelihood.checked("prompt", prompt, T, B, net.readout.weight)
    call = checked(net, prompt, None if x is None else x[:before], state, Regime())
    return state_after(net, call, Regime()), future, B


def _repeated(state: State, times: int) -> State:
    """Return the state of so many copies of each sequence, one beside the other."""
    rows = [
        None if t is None else t.repeat_interleave(times, dim=0) for t in (state.y, state.generated)
    ]
    return State(each(lambda part: part.repeat_interleave(times, dim=1), state.hidden), *rows)
