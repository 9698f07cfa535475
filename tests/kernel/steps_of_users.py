"""Steps as users write them: what the kernel is to run without having seen them before.

Each is made of tensors and returns new state parts; STEPS has how wide p and the parts are, in
units of H, and the shapes of the tensors.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as fn

from bptt.cells.elman import elman
from bptt.cells.gru import gru
from bptt.cells.looped import LoopParts, looped
from bptt.cells.lstm import lstm
from bptt.kernel.choice import choose
from bptt.kernel.ops import Recipe
from bptt.kernel.plain_loop import Parts, Step


class UserStep(NamedTuple):
    make: Callable[..., Step]
    p: int
    parts: tuple[int, ...]
    shapes: tuple[tuple[Any, ...], ...]


def on_parts(make: Callable[..., Callable[..., Any]]) -> Callable[..., Step]:
    """Return a step on (p, state) from one on (p, *parts)."""

    def made(*tensors: Tensor) -> Step:
        step = make(*tensors)

        def on_state(p: Tensor, state: Parts) -> Parts:
            result = step(p, *state)
            return (result,) if isinstance(result, Tensor) else tuple(result)

        return on_state

    return made


def leaky(W: Tensor) -> Any:
    return lambda p, h: torch.lerp(h, torch.relu(p + h @ W.T), 0.1)


def minimal_gated(W: Tensor, V: Tensor) -> Any:
    def step(p: Tensor, h: Tensor) -> Tensor:
        f_p, n_p = p.chunk(2, dim=1)
        f = torch.sigmoid(f_p + h @ W.T)
        return (1 - f) * h + f * torch.tanh(n_p + (f * h) @ V.T)  # two products in a row

    return step


def long_expressive_memory(W: Tensor, V: Tensor) -> Any:
    def step(p: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        H = y.shape[1]
        d, e, u = (p[:, : 3 * H] + fn.linear(y, W)).chunk(3, 1)
        d, e = torch.sigmoid(d), torch.sigmoid(e)
        z = (1 - d) * z + d * torch.tanh(u)
        return (1 - e) * y + e * torch.tanh(p[:, 3 * H :] + fn.linear(z, V)), z

    return step


def coupled_oscillators(W: Tensor, V: Tensor) -> Any:
    def step(p: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        z = z + 0.1 * (torch.tanh(p + fn.linear(y, W) + fn.linear(z, V)) - 1.2 * y - 0.9 * z)
        return y + 0.1 * z, z

    return step


def normalised_gru(W: Tensor, gain: Tensor, shift: Tensor) -> Any:
    def step(p: Tensor, h: Tensor) -> Tensor:
        H = h.shape[1]
        a = fn.layer_norm(h @ W.T, (3 * H,), gain, shift)
        r, z = torch.sigmoid(p[:, : 2 * H] + a[:, : 2 * H]).chunk(2, dim=1)
        n = torch.tanh(p[:, 2 * H :] + r * a[:, 2 * H :])
        return z * h + (1 - z) * n

    return step


def without_product(v: Tensor) -> Any:
    """Three states, one of which does not depend on itself, and one that is read 5 steps back."""

    def step(p: Tensor, a: Tensor, b: Tensor, c: Tensor, *before: Tensor) -> tuple[Tensor, ...]:
        *_, oldest = before
        new_a = torch.sin(a + p * v) + 0.1 * oldest
        new_b = fn.softplus(p) - b.mean(1, keepdim=True)
        new_c = torch.softmax(oldest + 0.1 * a, 1) + 0.5 * before[1]
        return new_a, new_b, new_c, c, *before[:-1]

    return step


def halves_of_one_state(W: Tensor, scale: Tensor) -> Any:
    def step(p: Tensor, s: Tensor) -> Tensor:
        x, v = s.chunk(2, dim=1)
        push = torch.clamp(p + s @ W.T, -1, 1) * scale
        v = fn.leaky_relu(v + push)
        return torch.cat([x + v.abs(), v / (1 + x * x)], dim=1)

    return step


def many_functions(W: Tensor) -> Any:
    def step(p: Tensor, h: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        some = torch.exp(-(h**2)) * torch.cos(g) + torch.sqrt(h.abs() + 1) + torch.log(g * g + 1)
        more = torch.where(h > 0, g, p) + torch.maximum(h, g) - torch.minimum(p, g)
        last = (h * h + 1) ** 1.3 + torch.expm1(-h.abs()) + fn.hardtanh(g) + fn.silu(h) + fn.relu(p)
        return torch.tanh(fn.elu(p + h @ W) + fn.gelu(g)) / 2, torch.tanh(some + more + last) / 2

    return step


def masked_and_signed(raw: Tensor, log_rate: Tensor) -> Any:
    """Weights that are computed of others, once a call."""

    def step(p: Tensor, h: Tensor) -> Tensor:
        W = fn.softplus(raw) * torch.tril(torch.ones_like(raw))
        rate = torch.exp(log_rate)
        return h + rate * (torch.tanh(p - h @ W.t()) - h)

    return step


def masked_noise(W: Tensor, V: Tensor) -> Any:
    """What is drawn or known for each step comes as columns of p; products by einsum."""

    def step(p: Tensor, h: Tensor) -> Tensor:
        drive, noise, mask = p.chunk(3, 1)
        a = drive + torch.einsum("bk, nk -> bn", h, W) + torch.einsum("kn,bk->bn", V, noise)
        return torch.where(mask > 0, torch.tanh(a), h)

    return step


def looking_up(W: Tensor, table: Tensor) -> Any:
    """Rows of a table, from its start and from its end."""

    def step(p: Tensor, h: Tensor) -> Tensor:
        number = (p[:, 0].abs() * 2).long().clamp(max=len(table) - 1)
        half, other = fn.embedding(number, table), table[-1 - number.to(torch.int64)]
        return torch.tanh(p + (h * half) @ W + other)

    return step


def choosing(W: Tensor, table: Tensor) -> Any:
    """A loop closed through what is drawn: which row of a table enters next."""

    def step(p: Tensor, h: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        drive, noise = p.chunk(2, 1)
        row = fn.embedding(own[:, 0].abs().long().clamp(max=len(table) - 1), table)
        h = torch.tanh(drive + (h + row) @ W)
        weights = torch.exp(h - h.amax(1, keepdim=True))
        chosen = choose(weights, torch.sigmoid(noise[:, 0]))
        likeliest = h.argmax(dim=1)
        chosen, likeliest = chosen.unsqueeze(1), likeliest.unsqueeze(1)
        return h, torch.where(drive > 0, chosen, likeliest).to(p.dtype)

    return step


def projected(W: Tensor, V: Tensor) -> Step:
    return lstm(W, V)


def skipping(W: Tensor, leak: Tensor, gain: Tensor, shift: Tensor) -> Step:
    return looped(W, torch.tanh, LoopParts((1, 3), leak, gain, shift))


STEPS: dict[str, UserStep] = {
    "tanh": UserStep(lambda W: elman(W, torch.tanh), 1, (1,), ((1, 1),)),
    "gru": UserStep(gru, 3, (1,), ((3, 1), (3,))),
    "lstm": UserStep(lstm, 4, (1, 1), ((4, 1),)),
    "projected": UserStep(projected, 8, (1, 2), ((8, 1), (1, 2))),
    "skipping": UserStep(skipping, 1, (1, 1, 1), ((1, 2), (1,), (1,), (1,))),
    "leaky": UserStep(on_parts(leaky), 1, (1,), ((1, 1),)),
    "minimal gated": UserStep(on_parts(minimal_gated), 2, (1,), ((1, 1), (1, 1))),
    "lem": UserStep(on_parts(long_expressive_memory), 4, (1, 1), ((3, 1), (1, 1))),
    "cornn": UserStep(on_parts(coupled_oscillators), 1, (1, 1), ((1, 1), (1, 1))),
    "normalised gru": UserStep(on_parts(normalised_gru), 3, (1,), ((3, 1), (3,), (3,))),
    "without product": UserStep(on_parts(without_product), 1, (1,) * 7, ((1,),)),
    "halves": UserStep(on_parts(halves_of_one_state), 1, (2,), ((1, 2), ())),
    "many functions": UserStep(on_parts(many_functions), 1, (1, 1), ((1, 1),)),
    "masked noise": UserStep(on_parts(masked_noise), 3, (1,), ((1, 1), (1, 1))),
    "looking up": UserStep(on_parts(looking_up), 1, (1,), ((1, 1), (1, 1))),
    "choosing": UserStep(on_parts(choosing), 2, (1, 1), ((1, 1), (1, 1))),
    "masked": UserStep(on_parts(masked_and_signed), 1, (1,), ((1, 1), ())),
}


def recipe(name: str, units: int, dtype: torch.dtype) -> Recipe:
    """Return a step with random tensors."""
    step = STEPS[name]
    tensors = []
    for shape in step.shapes:
        sizes = [size * units for size in shape]
        scale = sizes[-1] ** -0.5 if len(sizes) > 1 else 0.5
        tensors.append((torch.randn(sizes, dtype=dtype) * scale).requires_grad_())
    assert all(math.prod(t.shape) for t in tensors)
    return Recipe(step.make, tuple(tensors))
