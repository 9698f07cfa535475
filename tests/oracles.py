"""Slow, obvious references: the textbook's sums, written as they stand in the book.

All of them take one network with one tanh or relu layer and a categorical likelihood, and work in
float64, one sequence at a time.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import bptt

# How far results may lie apart: float64 that differs by rounding, and float32 likewise.
FLOAT64 = {"rtol": 0.0, "atol": 1e-10}
FLOAT32 = {"rtol": 1e-5, "atol": 1e-6}

ACTIVATIONS = {"tanh": torch.tanh, "relu": torch.relu}
SLOPES = {"tanh": lambda a: 1 - torch.tanh(a) ** 2, "relu": lambda a: (a > 0).double()}


@dataclass
class Weights:
    """W, R, U, V, b, c of a network; W is 0 where no such edge exists, R and U have no columns."""

    W: Tensor
    R: Tensor
    U: Tensor
    V: Tensor
    b: Tensor
    c: Tensor

    @classmethod
    def of(cls, net: bptt.Network) -> Weights:
        layer = net.recurrent
        H = layer.hidden_size
        W = layer.weight_hh_l0 if net.recurrence != "output" else torch.zeros(H, H).double()
        parts = (W, net.R, net.U, net.readout.weight, layer.bias_ih_l0, net.readout.bias)
        return cls(*(part.detach().clone() for part in parts))

    def zeros(self) -> Weights:
        return Weights(*(torch.zeros_like(part) for part in vars(self).values()))


def gradients(net: bptt.Network) -> Weights:
    """Return what backward left in .grad, by the equation's names; W's is 0 where there is none."""
    width, layer = net.inputs.width, net.recurrent
    ih = layer.weight_ih_l0.grad if net.feeds_back or width else layer.weight_ih_l0  # no columns
    has_loop = net.recurrence != "output"
    W = layer.weight_hh_l0.grad if has_loop else torch.zeros(2 * [layer.hidden_size]).double()
    return Weights(
        W,
        ih[:, width:],
        ih[:, :width],
        net.readout.weight.grad,
        layer.bias_ih_l0.grad,
        net.readout.bias.grad,
    )


def one_hot(tokens: Tensor, n: int) -> Tensor:
    """Return one row a token; −1 gives the zero vector."""
    return (tokens.unsqueeze(-1) == torch.arange(n)).double()


def double_sum(
    net: bptt.Network,
    y: Tensor,
    x: Tensor | None,
    lengths: list[int],
    first: Callable[[int], int] = lambda j: 0,
) -> tuple[float, Weights]:
    """Return L and ∂L/∂(W, R, U, V, b, c), summed over every loss step j and state step k ≤ j.

    ∂L/∂W = Σⱼ Σₖ ∂Lⱼ/∂hⱼ · (Π ₘ₌ₖ₊₁..ⱼ diag(f'(aₘ)) W) · ∂hₖ/∂W, over k from first(j) to j.
    """
    w = Weights.of(net)
    grad, loss = w.zeros(), 0.0
    f, slope = ACTIVATIONS[net.cell], SLOPES[net.cell]
    H, n = len(w.b), len(w.c)
    for i, T in enumerate(lengths):
        previous_y = one_hot(torch.cat([torch.tensor([-1]), y[:, i]]), n)[:, : w.R.shape[1]]
        inputs = torch.zeros(T, 0).double() if x is None else x[:, i]
        a, h = [], [torch.zeros(H).double()]
        for t in range(T):
            a.append(w.b + w.W @ h[-1] + w.R @ previous_y[t] + w.U @ inputs[t])
            h.append(f(a[-1]))
        for j in range(T):
            p = torch.softmax(w.c + w.V @ h[j + 1], 0)
            loss -= float(torch.log(p[y[j, i]]))
            grad_o = p - one_hot(y[j, i], n)
            grad.V += torch.outer(grad_o, h[j + 1])
            grad.c += grad_o
            for k in range(first(j), j + 1):
                product = torch.eye(H).double()
                for m in range(k + 1, j + 1):
                    product = torch.diag(slope(a[m])) @ w.W @ product
                grad_a = (grad_o @ w.V @ product) * slope(a[k])
                grad.W += torch.outer(grad_a, h[k])
                grad.R += torch.outer(grad_a, previous_y[k])
                grad.U += torch.outer(grad_a, inputs[k])
                grad.b += grad_a
    if net.recurrence == "output":
        grad.W.zero_()  # no such weight
    return loss, grad


def reach(T: int, window: int, stride: int) -> Callable[[int], int]:
    """Return first(j), from 0, of a truncated gradient: losses in (is, e] reach back to k > e − p.

    e = min((i + 1)s, T); steps are counted from 1 there and from 0 in j.
    """

    def first(j: int) -> int:
        e = min((j // stride + 1) * stride, T)
        return max(0, e - window)

    return first


def tied_copies(net: bptt.Network, y: Tensor, x: Tensor | None) -> tuple[float, Weights]:
    """Return L and its gradient with the net seen as T layers, each with its own copy of weights.

    The copies are equal, so ∂L/∂W is the sum of the gradients of the T copies of W.
    """
    w = Weights.of(net)
    T, B = y.shape
    copies = [
        Weights(*(part.clone().requires_grad_() for part in vars(w).values())) for _ in range(T)
    ]
    previous_y = one_hot(torch.cat([torch.full((1, B), -1), y]), len(w.c))[..., : w.R.shape[1]]
    inputs = torch.zeros(T, B, 0).double() if x is None else x
    h, loss = torch.zeros(B, len(w.b)).double(), torch.zeros(()).double()
    for t, layer in enumerate(copies):
        a = layer.b + h @ layer.W.T + previous_y[t] @ layer.R.T + inputs[t] @ layer.U.T
        h = ACTIVATIONS[net.cell](a)
        log_p = torch.log_softmax(layer.c + h @ layer.V.T, -1)
        loss = loss - log_p.gather(1, y[t].unsqueeze(1)).sum()
    loss.backward()
    total = w.zeros()
    for name, part in vars(total).items():
        grads = [getattr(layer, name).grad for layer in copies]
        setattr(total, name, part + sum(grad for grad in grads if grad is not None))
    if net.recurrence == "output":
        total.W.zero_()
    return float(loss.detach()), total


def unrolled(
    net: bptt.Network,
    y: Tensor,
    x: Tensor | None,
    forced: Tensor,
    *,
    feedback: str,
    noise: Tensor,
    resets: Tensor | None = None,
) -> Tensor:
    """Return −log p(yᵗ | oᵗ), (T, B), unrolled by hand, with its graph.

    forced: (T, B), where the true yᵗ⁻¹ enters; elsewhere what the network said, by the noise.
    """
    layer, likelihood = net.recurrent, net.likelihood
    T, B, width = *y.shape[:2], likelihood.encoding.width
    is_symbol = isinstance(likelihood, bptt.Categorical)
    true = one_hot(y, width) if is_symbol else y
    rows = []
    for i in range(B):
        h, own, losses = torch.zeros(layer.hidden_size).double(), torch.zeros(width).double(), []
        for t in range(T):
            fed = true[t - 1, i] if t > 0 and forced[t, i] else own
            if resets is not None and resets[t, i]:
                h, fed = torch.zeros_like(h), torch.zeros_like(fed)
            a = layer.bias_ih_l0
            a = a + layer.weight_hh_l0 @ h if net.recurrence != "output" else a
            a = a + net.R @ fed if net.recurrence != "hidden" else a
            a = a + net.U @ x[t, i] if x is not None else a
            h = ACTIVATIONS[net.cell](a)
            o = net.readout.bias + net.readout.weight @ h
            losses.append(-distribution(likelihood, o).log_prob(y[t, i]).sum())
            own = said(likelihood, o, noise[t, i], feedback)
        rows.append(torch.stack(losses))
    return torch.stack(rows, 1)


def _beta(likelihood: bptt.Beta, o: Tensor) -> torch.distributions.Distribution:
    mean, concentration = torch.sigmoid(o[..., : likelihood.d]), o[..., likelihood.d :].exp()
    return torch.distributions.Beta(mean * concentration, (1 - mean) * concentration)


def _mixture(likelihood: bptt.GaussianMixture, o: Tensor) -> torch.distributions.Distribution:
    K, d = likelihood.components, likelihood.d
    kinds = o[..., K:].unflatten(-1, (2, d, K)).mT  # (..., 2, K, d)
    normal = torch.distributions.Normal(kinds[..., 0, :, :], kinds[..., 1, :, :].exp())
    return torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(logits=o[..., :K]),
        torch.distributions.Independent(normal, 1),
    )


def _negative_binomial(likelihood: bptt.NegativeBinomial, o: Tensor) -> Any:
    size = likelihood.log_size.exp()
    return torch.distributions.NegativeBinomial(size, probs=o.exp() / (o.exp() + size))


DISTRIBUTIONS: dict[type, Callable[[Any, Tensor], Any]] = {
    bptt.Categorical: lambda _, o: torch.distributions.Categorical(logits=o),
    bptt.Bernoulli: lambda _, o: torch.distributions.Bernoulli(logits=o),
    bptt.Gaussian: lambda self, o: torch.distributions.Normal(o, self.log_scale.exp()),
    bptt.Laplace: lambda self, o: torch.distributions.Laplace(o, self.log_scale.exp()),
    bptt.StudentT: lambda self, o: torch.distributions.StudentT(
        self.degrees, o, self.log_scale.exp()
    ),
    bptt.Poisson: lambda _, o: torch.distributions.Poisson(o.exp()),
    bptt.NegativeBinomial: _negative_binomial,
    bptt.Beta: _beta,
    bptt.GaussianMixture: _mixture,
}


def distribution(likelihood: bptt.Likelihood, o: Tensor) -> torch.distributions.Distribution:
    """Return p(y | o) as torch has it."""
    return DISTRIBUTIONS[type(likelihood)](likelihood, o)


def said(likelihood: bptt.Likelihood, o: Tensor, noise: Tensor, feedback: str) -> Tensor:
    """Return the vector that a network feeds back of itself."""
    p = distribution(likelihood, o)
    if isinstance(likelihood, bptt.Categorical):
        symbol = (p.probs.cumsum(0) <= noise).sum()
        return p.probs if feedback == "mean" else one_hot(symbol, len(o))
    if feedback == "mean":
        return p.mean
    if isinstance(likelihood, bptt.Bernoulli):
        return (noise < p.probs).double()
    return (p.mean + p.stddev * noise).detach()


@functools.cache
def fewest_reruns(chunks: int, held: int) -> int:
    """Return the least number of runs without gradient that reverse so many chunks.

    held: how many states there is room for, that before the first chunk included. By the dynamic
    programme: run k chunks, hold the state there, reverse what lies beyond, then what lies before.
    """
    if chunks == 1:
        return 0
    if held == 1:
        return chunks * (chunks - 1) // 2
    return min(
        k + fewest_reruns(chunks - k, held - 1) + fewest_reruns(k, held) for k in range(1, chunks)
    )
