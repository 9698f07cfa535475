"""A run of recurrent layers, ready to be taken back in time from any number of losses at once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from bptt.errors import BpttError
from bptt.gradient.analysis.derivative import StepDerivative, StepPassed
from bptt.gradient.analysis.layer import Layer, Rows, back_through, derivative_at, layer_at
from bptt.gradient.analysis.parameters import Named, Site
from bptt.gradient.precision import require_precision
from bptt.gradient.sequences import Sequences
from bptt.kernel.plain_loop import Parts
from bptt.model.call import checked, where
from bptt.model.closed_loop import as_rows, mean_step
from bptt.model.entry import enter
from bptt.model.hidden import parts
from bptt.model.modules import Modules
from bptt.model.network import Network
from bptt.model.reading import Reading, read


class Closed(NamedTuple):
    """The loop that closes through the output: the mean of y, fed back by R where fed is 1.

    mean: of what the mean of y is, given the top layer's h.
    """

    R: Float[Tensor, "G Y"]
    fed: Float[Tensor, "T B 1"]
    mean: StepDerivative

    def back(self, delta: Float[Tensor, "J B G"], steps: slice) -> Float[Tensor, "J B H"]:
        """Take δp of some steps to the top layer's h of the steps before them."""
        grad_mean = (delta @ self.R) * self.fed[steps]
        return self.mean.back((grad_mean,), slice(steps.start - 1, steps.stop - 1)).p


@dataclass(frozen=True)
class Chain:
    """Layers at every step, and the gradient of each step's loss with respect to its own states.

    seeds: ∂Lⱼ/∂sⱼ of each layer, (T, B, H) a part; the state is what goes on to the next step, so
    that a layer's h has no part in its seed by way of the layers above, which are states too.
    carried: (T, B, 1), 0 before which steps the state is zeroed. scored: which steps have a loss.
    closed_by: what closes the loop: "W" alone, W with "gates" or with "more", or the "output".
    """

    layers: list[Layer]
    seeds: list[Parts]
    scored: Bool[Tensor, "T B"]
    closed_by: str
    carried: Float[Tensor, "T B 1"] | None = None
    closed: Closed | None = None

    @property
    def T(self) -> int:
        """The number of steps."""
        return len(self.scored)

    @property
    def B(self) -> int:
        """The number of sequences."""
        return int(self.scored.shape[1])

    @property
    def has_path(self) -> bool:
        """Whether anything leads from one step to the next."""
        loops = self.closed is not None or any(one.derivative.has_loop for one in self.layers)
        return self.T > 1 and loops

    @property
    def sites(self) -> list[tuple[int, Site]]:
        """Where parameters enter, each with the number of its layer."""
        return [(k, site) for k, layer in enumerate(self.layers) for site in layer.sites]

    def gradient(self, totals: list[Float[Tensor, "*J N Z"]]) -> Named:
        """Return the gradient of each parameter that is trained, from Σ δ zᵀ at each site."""
        gradients: Named = {}
        for k, layer in enumerate(self.layers):
            its = [total for (at, _), total in zip(self.sites, totals, strict=True) if at == k]
            gradients |= layer.parameters.gradient(layer.sites, its)
        return gradients

    @cached_property
    def are_apart(self) -> bool:
        """Whether every number of Σ δ zᵀ is one of a parameter's gradient; see `Parameters`."""
        return all(layer.parameters.are_apart(layer.sites) for layer in self.layers)

    def require_finite(self) -> Chain:
        """Return the chain, or raise BpttError unless its states and inputs are numbers."""
        if not all(bool(site.z.isfinite().all()) for _, site in self.sites):
            raise BpttError(
                "the states are not finite; expected a network and data without NaN or infinity: "
                "look at its weights and x, and at the growth of its states"
            )
        return self

    def back(self, d: list[Parts], steps: slice) -> tuple[list[StepPassed], list[Parts]]:
        """Take ∂L/∂s after some steps to the steps before; there is none before the first."""
        passed = back_through(self.layers, d, steps)
        before = [one.before for one in passed]
        first = 1 if steps.start == 0 else 0
        if self.carried is not None:
            carried = self.carried[steps]
            before = [tuple(part * carried for part in state) for state in before]
        before = [tuple(part[first:] for part in state) for state in before]
        if self.closed is not None:
            later = slice(steps.start + first, steps.stop)
            h, *others = before[-1]
            before[-1] = (h + self.closed.back(passed[0].p[first:], later), *others)
        return passed, before

    def seed(self, first: int, stop: int) -> list[Parts]:
        """Return ∂Lⱼ/∂sⱼ of the losses from first to stop − 1."""
        return [tuple(part[first:stop] for part in seed) for seed in self.seeds]


@torch.no_grad()
def chain_of(net: Network, sequences: Sequences, state: Any) -> Chain:
    """Run the network over the sequences, and return the run."""
    require_precision(net, "be looked into")
    modules = enter(net.parts)
    part = sequences.part(0, sequences.T)
    regime = part.regime
    call = checked(modules, part.y, part.x, state, regime)
    reading = Reading(call, [], None)
    if call.forced is not None:  # what it generates has to be known
        reading = read(modules, call, regime.feedback)
        call = reading.call
    enters, layers, starts = _enters(modules, reading), list[Layer](), list[Parts]()
    fresh = (modules.V.new_zeros(call.B, modules.recurrent.hidden_size),)
    h = modules.V.new_empty(0)
    for k in range(modules.recurrent.num_layers):
        starts.append(tuple([one[k] for one in parts(call.hidden)]) or fresh)
        layer, h = layer_at(modules.recurrent, f"_l{k}", enters, starts[-1], resets=call.resets)
        layers.append(layer)
        enters = [Rows(h)]
    carried = None if call.resets is None else (~call.resets).unsqueeze(-1).to(h.dtype)
    closed, R, not_generated = None, modules.feedback_weight(call.x), call.not_generated
    if regime.feedback == "mean" and R is not None and not_generated is not None:
        fed = (~not_generated).unsqueeze(-1).to(R.dtype)
        of_mean = h.new_zeros(*h.shape[:2], modules.likelihood.encoding.width)
        closed = Closed(R.detach(), fed, derivative_at(mean_step(modules), h, (of_mean,)))
    seeds, scored = _seeds(modules, part.y, part.weights, h, call.alive, starts)
    return Chain(layers, seeds, scored, modules.recurrent.closed_by, carried, closed)


def _previous(net: Modules, reading: Reading) -> Shaped[Tensor, "T B *y"] | None:
    """Return what entered as yᵗ⁻¹: the true one, or the generated one."""
    call, encoding = reading.call, net.likelihood.encoding
    if net.feedback_weight(call.x) is None:
        return None
    true = call.previous(net.likelihood.blank(call.B, net.readout.weight))
    not_generated = call.not_generated
    if reading.generated is None or not_generated is None:
        return true
    generated = reading.generated[:-1]
    if generated.is_floating_point() and not true.is_floating_point():
        true = as_rows(true, generated.new_empty(0, encoding.width)).squeeze(0)
    return where(not_generated, true, generated)


def _enters(net: Modules, reading: Reading) -> list[Rows]:
    """Return what entered the first layer."""
    at, rows = 0, list[Rows]()
    call = reading.call
    if call.x is not None:
        rows.append(_as_columns(call.x, 0, net.inputs.width))
        at = net.inputs.width
    previous = _previous(net, reading)
    if previous is not None:
        rows.append(_as_columns(previous, at, net.likelihood.encoding.width))
    return rows or [Rows(net.V.new_empty(call.T, call.B, 0))]


def _as_columns(values: Tensor, offset: int, width: int) -> Rows:
    """Return numbers as they are, and tokens as one-hot rows of those that occur."""
    if values.is_floating_point():
        return Rows(values, offset + torch.arange(width, device=values.device))
    tokens = values[values >= 0].unique()
    return Rows(values.unsqueeze(-1) == tokens, offset + tokens)


def _seeds(
    net: Modules,
    y: Tensor,
    weights: Float[Tensor, "T B"] | None,
    top: Float[Tensor, "T B H"],
    alive: Bool[Tensor, "T B"] | None,
    starts: list[Parts],
) -> tuple[list[Parts], Bool[Tensor, "T B"]]:
    """Return ∂(w · nll)/∂sⱼ of every layer, and which steps have a loss; starts: their states."""
    scored = torch.ones(top.shape[:2], dtype=torch.bool, device=top.device)
    if weights is not None:
        scored = weights != 0
    y = net.likelihood.checked("y", y, len(y), y.shape[1], top, alive)
    with torch.enable_grad():
        outputs = net.outputs_of(top).detach().requires_grad_()
        nll = net.likelihood.nll(outputs, y)
        loss = nll if weights is None else nll * weights.to(nll.dtype)
        loss.masked_fill(~scored, 0).sum().backward(inputs=[outputs])
    assert outputs.grad is not None
    grad_top = outputs.grad @ net.V.detach()
    if not bool(grad_top.isfinite().all()):
        raise BpttError(
            "the gradient of the losses is not finite; expected a network and data without NaN or "
            "infinity: look at its weights, x and y"
        )
    seeds = [
        tuple(top.new_zeros(1).expand(*top.shape[:2], part.shape[-1]) for part in start)
        for start in starts
    ]
    return [*seeds[:-1], (grad_top, *seeds[-1][1:])], scored
