"""Random networks in random calls, against the model's equations written as a plain loop."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import bptt
from bptt.model.recurrent import Recurrent
from tests.fuzz.campaign import fuzz
from tests.oracles import one_hot

LIKELIHOODS = (lambda: bptt.Categorical(3), lambda: bptt.Bernoulli(2), lambda: bptt.Gaussian(2))
CLOSE = {torch.float64: (1e-9, 1e-9), torch.float32: (2e-3, 2e-3)}
EPSILON = 1e-5


@dataclass
class Call:
    """What a network is given; cut: where it is called a second time, from the state of the first.

    forced: (T, B), where the true y enters, or None for everywhere.
    """

    y: Tensor
    x: Tensor | None
    lengths: Tensor | None
    resets: Tensor | None
    forced: Tensor | None
    feedback: str
    cut: int
    noise: list[Tensor] = field(default_factory=list)

    def parts(self) -> list[dict[str, Any]]:
        """The arguments of each call."""
        ends = [0, self.cut, len(self.y)] if self.cut else [0, len(self.y)]
        found = []
        for start, stop in itertools.pairwise(ends):
            span = slice(start, stop)
            lengths = self.lengths
            found.append(
                {
                    "y": self.y[span],
                    "x": None if self.x is None else self.x[span],
                    "forcing": 1.0 if self.forced is None else self.forced[span],
                    "feedback": self.feedback,
                    "resets": None if self.resets is None else self.resets[span],
                    "lengths": None
                    if lengths is None
                    else (lengths - start).clamp(0, stop - start),
                }
            )
        return found


def cell_step(net: bptt.Network, k: int, p: Tensor, past: list[tuple[Tensor, ...]]) -> Any:
    """Layer k's new state from p = b + U x and its states, the last one first; (h,) or (h, c)."""
    layer = net.recurrent
    h = past[0][0]

    def weight(name: str) -> Tensor:
        return getattr(layer, f"{name}_l{k}", None)

    if net.recurrence == "output":
        return (torch.tanh(p) if net.cell == "tanh" else torch.relu(p),)
    a = h @ weight("weight_hh").T
    if net.cell == "gru":
        a = a + weight("bias_hh")
        (pr, pz, pn), (ar, az, an) = p.chunk(3, 1), a.chunk(3, 1)
        z = torch.sigmoid(pz + az)
        return ((1 - z) * torch.tanh(pn + torch.sigmoid(pr + ar) * an) + z * h,)
    if net.cell == "lstm":
        i, f, g, o = (p + a + weight("bias_hh")).chunk(4, 1)
        c = torch.sigmoid(f) * past[0][1] + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c
    a = p + a
    if weight("bias_hh") is not None:
        a = a + weight("bias_hh")
    for delay in net.loop.skips:
        a = a + past[delay - 1][0] @ weight(f"weight_skip{delay}").T
    if net.loop.norm:
        a = a - a.mean(1, keepdim=True)
        a = a / (a.square().mean(1, keepdim=True) + EPSILON).sqrt()
        a = a * weight("gain") + weight("shift")
    new = torch.tanh(a) if net.cell == "tanh" else torch.relu(a)
    if net.loop.leak is None:
        return (new,)
    alpha = torch.sigmoid(weight("leak")) if net.loop.learn_leak else weight("leak")
    return ((1 - alpha) * h + alpha * new,)


def encoded(likelihood: bptt.Likelihood, y: Tensor) -> Tensor:
    return one_hot(y, likelihood.n) if isinstance(likelihood, bptt.Categorical) else y


def drawn(net: bptt.Network, o: Tensor, noise: Tensor | None) -> Tensor:
    """What the network says: its mean, or without a gradient the sample that the noise makes."""
    likelihood = net.likelihood
    if isinstance(likelihood, bptt.Categorical):
        p = torch.softmax(o, 1)
        if noise is None:
            return p
        return one_hot((p.detach().cumsum(1) <= noise[:, None]).sum(1).clamp(max=2), 3).to(o)
    if isinstance(likelihood, bptt.Bernoulli):
        p = torch.sigmoid(o)
        return p if noise is None else (noise < p.detach()).to(o)
    return o if noise is None else (o + noise * likelihood.log_scale.exp()).detach()


def loss_of(net: bptt.Network, o: Tensor, y: Tensor) -> Tensor:
    likelihood = net.likelihood
    if isinstance(likelihood, bptt.Categorical):
        return torch.nn.functional.cross_entropy(o, y, reduction="none")
    if isinstance(likelihood, bptt.Bernoulli):
        return -(
            y * torch.nn.functional.logsigmoid(o) + (1 - y) * torch.nn.functional.logsigmoid(-o)
        ).sum(1)
    scale = likelihood.log_scale.exp()
    return -torch.distributions.Normal(o, scale).log_prob(y).sum(1)


def plain_loop(net: bptt.Network, call: Call) -> tuple[Tensor, list[tuple[Tensor, ...]]]:
    """The nll, (T, B), and each layer's last state, one step after the other."""
    T, B = call.y.shape[:2]
    layer, zero = net.recurrent, net.readout.weight.new_zeros(B, net.recurrent.hidden_size)
    count, depth = (2 if net.cell == "lstm" else 1), max(net.loop.delays)
    past = [[(zero,) * count] * depth for _ in range(layer.num_layers)]
    width = net.likelihood.encoding.width
    true = encoded(net.likelihood, call.y).to(zero)
    own = before = zero.new_zeros(B, width)
    feeds = net.feeds_back or (call.x is None and net.x_can_be_previous_y)
    rows = []
    for t in range(T):
        alive = torch.ones(B, dtype=torch.bool) if call.lengths is None else t < call.lengths
        reset = alive & call.resets[t] if call.resets is not None else torch.zeros_like(alive)
        past = [
            [tuple(part.masked_fill(reset[:, None], 0) for part in s) for s in states]
            for states in past
        ]
        forced = torch.ones(B, dtype=torch.bool) if call.forced is None else call.forced[t]
        fed = torch.where(forced[:, None], before, own).masked_fill(reset[:, None], 0)
        enters = [] if call.x is None else [encoded_x(net, call.x[t]).to(zero)]
        enters += [fed] if feeds else []
        below = torch.cat(enters, 1) if enters else zero[:, :0]
        for k in range(layer.num_layers):
            U, b = getattr(layer, f"weight_ih_l{k}"), getattr(layer, f"bias_ih_l{k}")
            new = cell_step(net, k, below @ U.T + b, past[k])
            new = tuple(
                torch.where(alive[:, None], a, o) for a, o in zip(new, past[k][0], strict=True)
            )
            older = [
                tuple(torch.where(alive[:, None], a, o) for a, o in zip(s, kept, strict=True))
                for s, kept in zip(past[k], past[k][1:], strict=False)
            ]
            past[k], below = [new, *older], new[0]
        o = below @ net.readout.weight.T + net.readout.bias
        rows.append(loss_of(net, o, call.y[t]).masked_fill(~alive, 0))
        said = drawn(net, o, call.noise[t] if call.feedback == "sample" else None)
        own = torch.where(alive[:, None], said, own)
        before = torch.where(alive[:, None], true[t], before)
    return torch.stack(rows), [states[0] for states in past]


def encoded_x(net: bptt.Network, x: Tensor) -> Tensor:
    return x if x.is_floating_point() else one_hot(x, net.inputs.width)


def called(net: bptt.Network, call: Call) -> tuple[Tensor, bptt.State]:
    """The nll of the network's own calls, and the state after; notes the noise that was drawn."""
    rows, state = [], None
    for i, part in enumerate(call.parts()):
        T, B = part["y"].shape[:2]
        torch.manual_seed(i)
        call.noise += list(net.likelihood.noise(T, B, net.readout.weight))
        torch.manual_seed(i)
        out = net(part.pop("y"), x=part.pop("x"), state=state, **part)
        rows.append(out.nll)
        state = out.state
    assert state is not None
    return torch.cat(rows), state


@st.composite
def networks(draw: Any) -> bptt.Network:
    likelihood = draw(st.sampled_from(LIKELIHOODS))()
    recurrence = draw(st.sampled_from(["hidden", "output", "both"]))
    cell = draw(st.sampled_from(["tanh", "relu", "gru", "lstm"]))
    more: dict[str, Any] = {}
    if recurrence == "output" and cell not in ("tanh", "relu"):
        cell = "tanh"
    if recurrence != "output" and cell in ("tanh", "relu") and draw(st.booleans()):
        more["norm"] = draw(st.booleans())
        more["skips"] = draw(st.sampled_from([(), (2,), (2, 3)]))
        more["leak"] = draw(st.sampled_from([None, 0.3, (0.1, 1.0)]))
        more["learn_leak"] = more["leak"] == 0.3 and draw(st.booleans())
    inputs = draw(st.sampled_from([0, 2, bptt.Tokens(3), likelihood.encoding]))
    torch.manual_seed(draw(st.integers(0, 999)))
    net = bptt.Network(
        likelihood,
        inputs=inputs,
        hidden=draw(st.sampled_from([1, 3, 17])),
        recurrence=recurrence,
        cell=cell,
        layers=draw(st.integers(1, 2)),
        **more,
    )
    for name, parameter in net.named_parameters():
        if parameter.requires_grad and "weight" not in name and "leak" not in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return net.to(draw(st.sampled_from([torch.float64, torch.float64, torch.float32])))


@st.composite
def calls(draw: Any, net: bptt.Network) -> Call:
    T, B = draw(st.integers(1, 5)), draw(st.integers(1, 3))
    like = net.readout.weight.detach()
    if isinstance(net.likelihood, bptt.Categorical):
        y = torch.randint(3, (T, B))
    elif isinstance(net.likelihood, bptt.Bernoulli):
        y = torch.randint(2, (T, B, 2)).to(like)
    else:
        y = torch.randn(T, B, 2).to(like)
    x = None
    if net.inputs.width and not (net.x_can_be_previous_y and draw(st.booleans())):
        is_tokens = isinstance(net.inputs, bptt.Tokens)
        x = (
            torch.randint(-1, 3, (T, B))
            if is_tokens
            else torch.randn(T, B, net.inputs.width).to(like)
        )
    return Call(
        y,
        x,
        torch.randint(0, T + 1, (B,)) if draw(st.booleans()) else None,
        torch.rand(T, B) < 0.3 if draw(st.booleans()) else None,
        torch.rand(T, B) < draw(st.sampled_from([0.0, 0.5, 1.0])) if draw(st.booleans()) else None,
        draw(st.sampled_from(["sample", "mean"])),
        draw(st.integers(0, T - 1)),
    )


@fuzz(4)
@given(st.data())
def test_random_calls_of_random_networks(data: st.DataObject) -> None:
    net = data.draw(networks())
    call = data.draw(calls(net))
    rtol, atol = CLOSE[net.dtype]
    nll, state = called(net, call)
    want, last = plain_loop(net, call)
    torch.testing.assert_close(nll, want, rtol=rtol, atol=atol)
    hidden = state.hidden
    if hidden is not None:
        parts = (
            hidden if net.cell == "lstm" else (hidden[0] if isinstance(hidden, tuple) else hidden,)
        )
        for i, part in enumerate(parts):
            expected = torch.stack([states[i] for states in last])
            torch.testing.assert_close(part, expected, rtol=rtol, atol=atol)
    parameters = [p for p in net.parameters() if p.requires_grad]
    weights = torch.linspace(0.5, 1.5, nll.numel()).view(nll.shape).to(nll)
    grads = [
        torch.autograd.grad((rows * weights).sum(), parameters, allow_unused=True)
        for rows in (nll, want)
    ]
    for parameter, *pair in zip(parameters, *grads, strict=True):
        got, expected = (torch.zeros_like(parameter) if grad is None else grad for grad in pair)
        torch.testing.assert_close(got, expected, rtol=10 * rtol, atol=10 * atol)
    assert isinstance(net.recurrent, Recurrent) == bool(net.loop.beside_w)
