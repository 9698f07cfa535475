"""A run of recurrent layers, ready to be taken back in time from any number of losses at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from bptt.errors import BpttError
from bptt.gradient.precision import require_precision
from bptt.gradient.sequences import Sequences
from bptt.gradient.steps import Elman, Gru, Layer, Looped, Lstm, Parts, Passed, Site, Slopes
from bptt.model.closed_loop import as_rows
from bptt.model.entry import enter
from bptt.model.given import checked, where
from bptt.model.likelihoods import Likelihood, require_mean_backward
from bptt.model.looped import LoopedRNN
from bptt.model.network import Network
from bptt.model.reading import Reading, read, run_layers
from bptt.model.state import parts

NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
CELLS = {"RNN_TANH": "tanh", "RNN_RELU": "relu", "GRU": "gru", "LSTM": "lstm"}


Entry = tuple[str, Tensor, Tensor | None]
"""A parameter, what it is multiplied by, and which of its columns that meets; None: all."""


class Enters(NamedTuple):
    """What enters a layer: rows, (T, B, Z), and which columns of its weight they meet; None: all.

    Of tokens only those that occur have a column.
    """

    rows: Float[Tensor, "T B Z"]
    columns: Tensor | None = None


class Closed(NamedTuple):
    """The loop that closes through the output: the mean of y, fed back by R where fed is 1."""

    R: Float[Tensor, "G Y"]
    V: Float[Tensor, "O H"]
    fed: Float[Tensor, "T B 1"]
    likelihood: Likelihood
    means: Float[Tensor, "T B Y"]

    def back(self, delta: Float[Tensor, "J B G"], steps: slice) -> Float[Tensor, "J B H"]:
        """Take δp of some steps to the top layer's h of the steps before them."""
        grad_own = (delta @ self.R) * self.fed[steps]
        before = slice(steps.start - 1, steps.stop - 1)
        means = self.means[before].expand_as(grad_own)
        return self.likelihood.mean_backward(grad_own, means) @ self.V


@dataclass(frozen=True)
class Chain:
    """Layers at every step, and the gradient of each step's loss with respect to its own states.

    seeds: ∂Lⱼ/∂sⱼ of each layer, (T, B, H) a part; the state is what goes on to the next step, so
    that a layer's h has no part in its seed by way of the layers above, which are states too.
    kept: (T, B, 1), 0 before which steps the state is zeroed. scored: which steps have a loss.
    """

    layers: list[Layer]
    seeds: list[Parts]
    scored: Bool[Tensor, "T B"]
    kept: Float[Tensor, "T B 1"] | None = None
    closed: Closed | None = None

    @property
    def T(self) -> int:
        """The number of steps."""
        return len(self.scored)

    @property
    def has_path(self) -> bool:
        """Whether anything leads from one step to the next."""
        return self.T > 1 and (self.closed is not None or self.layers[0].W is not None)

    @property
    def closed_by(self) -> str:
        """What closes the loop: "W" alone, W with "gates" or with "more", or the "output"."""
        first = self.layers[0]
        if first.W is None:
            return "output"
        if isinstance(first.slopes, Gru | Lstm):
            return "gates"
        return "more" if isinstance(first.slopes, Looped) else "W"

    def require_finite(self) -> Chain:
        """Return the chain, or raise BpttError unless its states and inputs are numbers."""
        sites = [site for layer in self.layers for site in layer.sites]
        if not all(bool(site.z.isfinite().all()) for site in sites):
            raise BpttError(
                "the states are not finite; expected a network and data without NaN or infinity: "
                "look at its weights and x, and at the growth of its states"
            )
        return self

    def back(self, d: list[Parts], steps: slice) -> tuple[list[Passed], list[Parts]]:
        """Take ∂L/∂s after some steps to the steps before; there is none before the first."""
        passed: list[Passed] = []
        before: list[Parts] = []
        down: Tensor | None = None
        for layer, parts_ in zip(reversed(self.layers), reversed(d), strict=True):
            reached = parts_ if down is None else (parts_[0] + down, *parts_[1:])
            through, earlier = layer.back(reached, steps)
            passed.append(through)
            before.append(earlier)
            down = layer.down(through, steps) if layer is not self.layers[0] else None
        passed, before = passed[::-1], before[::-1]
        first = 1 if steps.start == 0 else 0
        if self.kept is not None:
            kept = self.kept[steps]
            before = [tuple(part * kept for part in some) for some in before]
        before = [tuple(part[first:] for part in some) for some in before]
        if self.closed is not None:
            later = slice(steps.start + first, steps.stop)
            h, *others = before[-1]
            before[-1] = (h + self.closed.back(passed[0].p[first:], later), *others)
        return passed, before

    def seed(self, first: int, stop: int) -> list[Parts]:
        """Return ∂Lⱼ/∂sⱼ of the losses from first to stop − 1."""
        return [tuple(part[first:stop] for part in some) for some in self.seeds]


def layer_at(
    module: nn.Module,
    suffix: str,
    cell: str,
    enters: list[Enters],
    h: Float[Tensor, "T B H"],
    start: tuple[Tensor, ...],
    *,
    kept: Float[Tensor, "T B 1"] | None = None,
    mask: Float[Tensor, "T B I"] | None = None,
) -> Layer:
    """Return a layer at every step of a run, from what entered, its states and those before.

    start: h⁰, (B, H), or h⁰ and c⁰; none where nothing loops over h. mask: what dropout has
    multiplied the input by.
    """
    weights = {name: getattr(module, name + suffix, None) for name in NAMES}
    U, W, b_ih, b_hh = (None if w is None else w.detach() for w in weights.values())
    assert U is not None
    inputs = [(f"weight_ih{suffix}", *one) for one in enters]
    loop: list[Entry] = []
    before = h.new_empty(0)
    if W is not None:
        before = torch.cat([start[0].unsqueeze(0), h[:-1]])
        before = before if kept is None else before * kept
        loop = [(f"weight_hh{suffix}", before, None)]
    one = h.new_ones(*h.shape[:2], 1)
    inputs += [] if b_ih is None else [(f"bias_ih{suffix}", one, None)]
    loop += [] if b_hh is None else [(f"bias_hh{suffix}", one, None)]
    slopes: Slopes = Elman.at(cell, h)
    apart: list[tuple[str, list[Entry]]] = []
    skips: dict[int, Tensor] = {}
    if isinstance(module, LoopedRNN):
        apart += _scales_at(module, suffix, h)
        delayed, skips = _skips_at(module, suffix, h, start, kept)
        loop += delayed
        p = _project([(e.rows, _columns(U, e.columns)) for e in enters], b_ih, h)
        assert W is not None
        met = [before, *(rows for _, rows, _ in delayed)]
        a = p + _project(list(zip(met, (W, *skips.values()), strict=True)), b_hh, h)
        slopes = Looped.at(cell, module.loop(suffix).each(Tensor.detach), a, before)
    elif cell in ("gru", "lstm"):
        assert W is not None
        p = _project([(e.rows, _columns(U, e.columns)) for e in enters], b_ih, h)
        a = _project([(before, W)], b_hh, h)
        slopes = Gru.at(p, a, before) if cell == "gru" else Lstm.at(p + a, start[1], kept)
    apart += [("p", inputs), ("a", loop)] if cell == "gru" else [("both", inputs + loop)]
    asks = {e[0] for _, some in apart for e in some if getattr(module, e[0]).requires_grad}
    sites = [_site(which, [e for e in some if not asks or e[0] in asks]) for which, some in apart]
    return Layer(slopes, U, W, [site for site in sites if site is not None], mask, skips)


def _scales_at(
    module: LoopedRNN, suffix: str, h: Float[Tensor, "T B H"]
) -> list[tuple[str, list[Entry]]]:
    """Return where the parameters enter that are no matrices, by their names in a Site."""
    one = h.new_ones(*h.shape[:2], 1)
    names = ["gain", "shift"] * module.options.norm + ["leak"] * module.options.learn_leak
    return [(name, [(f"{name}{suffix}", one, None)]) for name in names]


def _skips_at(
    module: LoopedRNN,
    suffix: str,
    h: Float[Tensor, "T B H"],
    start: tuple[Tensor, ...],
    kept: Float[Tensor, "T B 1"] | None,
) -> tuple[list[Entry], dict[int, Tensor]]:
    """Return where the skips' matrices enter and the states they meet; and these by delay."""
    T, history = len(h), torch.cat([torch.stack(start[::-1]), h])
    entries, weights = list[Entry](), dict[int, Tensor]()
    for delay in module.options.skips:
        rows = history[len(start) - delay :][:T]
        for k in range(min(delay, T) if kept is not None else 0):  # a reset at any step between
            assert kept is not None
            rows = rows * torch.cat([torch.ones_like(kept[:k]), kept[: T - k]])
        weights[delay] = getattr(module, f"weight_skip{delay}{suffix}").detach()
        entries.append((f"weight_skip{delay}{suffix}", rows, None))
    return entries, weights


def _project(
    enters: list[tuple[Tensor, Tensor]], bias: Tensor | None, h: Float[Tensor, "T B H"]
) -> Float[Tensor, "T B G"]:
    """Return the bias and what enters through its weights."""
    total = h.new_zeros(()) if bias is None else bias
    for rows, weight in enters:
        total = total + rows @ weight.t()
    return total


def _columns(weight: Tensor, columns: Tensor | None) -> Tensor:
    return weight if columns is None else weight[:, columns]


def _site(which: str, enters: list[Entry]) -> Site | None:
    if not enters:
        return None
    at, owners = 0, []
    for name, rows, columns in enters:
        owners.append((name, at, at + rows.shape[-1], columns))
        at += rows.shape[-1]
    return Site(which, torch.cat([rows for _, rows, _ in enters], -1), owners)


@torch.no_grad()
def chain_of(net: Network, sequences: Sequences, state: Any) -> Chain:
    """Run the network over the sequences, and return the run."""
    require_precision(net, "be looked into")
    net = enter(net)
    part = sequences.part(0, sequences.T)
    regime = part.regime
    given = checked(net, part.y, part.x, state, regime)
    reading, R = read(net, given, regime.feedback, every=True), net.feedback_weight(given.x)
    kept = None if given.resets is None else (~given.resets).unsqueeze(-1).to(net.U.dtype)
    enters, states = _enters(net, reading), reading.states
    is_closed = given.forced is not None and regime.feedback == "mean"
    if is_closed:
        states = run_layers(net, _previous(net, reading), given, every=True)[0]  # of every layer
    starts: list[tuple[Tensor, ...]] = list(zip(*parts(given.hidden), strict=True))
    layers = []
    for k, h in enumerate(states):
        start = starts[k] if starts else ()
        layers.append(layer_at(net.recurrent, f"_l{k}", net.cell, enters, h, start, kept=kept))
        enters = [Enters(h)]
    closed, not_own = None, given.not_own
    if is_closed:
        require_mean_backward(net.likelihood)
    if is_closed and R is not None and not_own is not None and reading.said is not None:
        fed = (~not_own).unsqueeze(-1).to(R.dtype)
        V = net.readout.weight.detach()
        closed = Closed(R.detach(), V, fed, net.likelihood, reading.said[1:])
    count = max(1, len(parts(given.hidden)))
    seeds, scored = _seeds(net, part.y, part.weights, states, given.alive, count)
    return Chain(layers, seeds, scored, kept, closed)


def _previous(net: Network, reading: Reading) -> Shaped[Tensor, "T B *y"] | None:
    """Return what entered as yᵗ⁻¹: the true one, or the network's own."""
    given, encoding = reading.given, net.likelihood.encoding
    if net.feedback_weight(given.x) is None:
        return None
    true = given.previous(net.likelihood.blank(given.B, net.readout.weight))
    not_own = given.not_own
    if reading.said is None or not_own is None:
        return true
    said = reading.said[:-1]
    if said.is_floating_point() and not true.is_floating_point():
        true = as_rows(true, said.new_empty(0, encoding.width)).squeeze(0)
    return where(not_own, true, said)


def _enters(net: Network, reading: Reading) -> list[Enters]:
    """Return what entered the first layer."""
    at, found = 0, list[Enters]()
    given = reading.given
    if given.x is not None:
        found.append(_as_columns(given.x, 0, net.inputs.width))
        at = net.inputs.width
    previous = _previous(net, reading)
    if previous is not None:
        found.append(_as_columns(previous, at, net.likelihood.encoding.width))
    dtype = net.readout.weight.dtype
    return [Enters(one.rows.to(dtype), one.columns) for one in found]


def _as_columns(values: Tensor, offset: int, width: int) -> Enters:
    """Return numbers as they are, and tokens as one-hot rows of those that occur."""
    if values.is_floating_point():
        return Enters(values, offset + torch.arange(width, device=values.device))
    tokens = values[values >= 0].unique()
    return Enters(values.unsqueeze(-1) == tokens, offset + tokens)


def _seeds(
    net: Network,
    y: Tensor,
    weights: Float[Tensor, "T B"] | None,
    states: list[Float[Tensor, "T B H"]],
    alive: Bool[Tensor, "T B"] | None,
    count: int,
) -> tuple[list[Parts], Bool[Tensor, "T B"]]:
    """Return ∂(w · nll)/∂sⱼ of every layer, in `count` parts, and which steps have a loss."""
    top = states[-1]
    scored = torch.ones(top.shape[:2], dtype=torch.bool, device=top.device)
    if weights is not None:
        scored = weights != 0
    y = net.likelihood.checked("y", y, len(y), y.shape[1], top, alive)
    with torch.enable_grad():
        outputs = net.readout(top).detach().requires_grad_()
        nll = net.likelihood.nll(outputs, y)
        loss = nll if weights is None else nll * weights.to(nll.dtype)
        loss.masked_fill(~scored, 0).sum().backward(inputs=[outputs])
    assert outputs.grad is not None
    grad_top = outputs.grad @ net.readout.weight.detach()
    if not bool(grad_top.isfinite().all()):
        raise BpttError(
            "the gradient of the losses is not finite; expected a network and data without NaN or "
            "infinity: look at its weights, x and y"
        )
    zeros = torch.zeros_like(top)
    seeds: list[Parts] = [(zeros,) * count for _ in states[:-1]]
    return [*seeds, (grad_top, *(zeros,) * (count - 1))], scored
