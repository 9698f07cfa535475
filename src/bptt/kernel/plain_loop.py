"""The loop over time as torch writes it: what the native one means, and is held to.

It starts from the projected input pᵗ = b + U xᵗ + R yᵗ⁻¹, which needs no loop, and runs the part
that does. A state is a tuple of (B, width) tensors, the first of which is hᵗ.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from bptt.kernel.layout import DENSE, Layout

Parts = tuple[Shaped[Tensor, "B _"], ...]
Step = Callable[[Tensor, Parts], Parts]


def project(
    x: Shaped[Tensor, "..."], U: Float[Tensor, "G I"], bias: Float[Tensor, " G"] | None = None
) -> Float[Tensor, "..."]:
    """Return b + U x, where x are rows of I numbers, or tokens: columns of U, or 0 for −1."""
    if x.is_floating_point():
        return torch.nn.functional.linear(x, U, bias)
    table = torch.cat([U.new_zeros(1, len(U)), U.t()])  # what −1 stands for comes first
    columns = torch.nn.functional.embedding(x + 1, table)
    return columns if bias is None else columns + bias


def unroll(
    step: Step, projected: Float[Tensor, "... G"], state: Parts, layout: Layout = DENSE
) -> tuple[Float[Tensor, "... H"], Parts]:
    """Run `step` over time; return every h, laid out as `projected`, and each row's last state."""
    (h,), last = run_steps(step, projected, state, layout)
    return h, last


def run_steps(
    step: Step,
    projected: Float[Tensor, "... G"],
    state: Parts,
    layout: Layout = DENSE,
    every: int = 1,
) -> tuple[tuple[Shaped[Tensor, "... _"], ...], Parts]:
    """Do the same, and return so many of the state's first parts at every step."""
    outputs: list[Parts] = []
    masks = layout.steps(layout.resets) if layout.resets is not None else None
    for i, p in enumerate(layout.steps(projected)):
        now = tuple(part[: len(p)] for part in state)
        if masks is not None:
            now = tuple(part.masked_fill(masks[i].unsqueeze(1), 0) for part in now)
        moved = step(p, now)
        outputs.append(moved[:every])
        if len(p) < len(state[0]):  # the other rows are past their end, or not yet begun
            moved = tuple(
                torch.cat([new, old[len(p) :]]) for new, old in zip(moved, state, strict=True)
            )
        state = moved
    if not outputs:  # no steps
        rows = projected.shape[:-1]
        return tuple(part.new_empty(*rows, part.shape[1]) for part in state[:every]), state
    return tuple(layout.join(list(same)) for same in zip(*outputs, strict=True)), state


def differentiate(
    compute: Callable[..., tuple[Tensor, ...]],
    tensors: Sequence[Tensor | None],
    grads: Sequence[Tensor | None],
    needs: Sequence[bool],
) -> list[Tensor | None]:
    """Return the gradients of some tensors, by running a function and differentiating that.

    It runs on aliases: of two tensors one may have been made of the other, and through the tensors
    themselves the gradient of the one would count as the other's too.
    """
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        aliases = [
            t.view_as(t) if t is not None and needed else t
            for t, needed in zip(tensors, needs, strict=True)
        ]
        outputs = compute(*aliases)
    reached = [
        (out, grad)
        for out, grad in zip(outputs, grads, strict=True)
        if grad is not None and out.requires_grad  # not so, say, what was drawn
    ]
    wanted = [t for t, needed in zip(aliases, needs, strict=True) if needed and t is not None]
    if not reached:
        return [None for _ in needs]
    gradients = iter(
        torch.autograd.grad(
            [output for output, _ in reached],
            wanted,
            [grad for _, grad in reached],
            create_graph=create_graph,
            allow_unused=True,
        )
    )
    return [next(gradients) if needed else None for needed in needs]
