"""The closed loop that feeds means back, for tanh and relu layers, with its gradient by hand.

Backward in time the gradient of what was fed back, through R, meets that of the outputs:

    ∂L/∂oᵗ = gᵗ + Jᵗ Rᵀ δᵗ⁺¹,    ∂L/∂hᵗ = Vᵀ ∂L/∂oᵗ + Wᵀ δᵗ⁺¹,    δᵗ = f'(aᵗ) ⊙ ∂L/∂hᵗ,

where gᵗ comes from above, J is the derivative of the mean with respect to o, and R counts where it
was not forced. Autograd finds the same from `closed_loop.plain_loop`; by hand the gradients of the
weights are one large product each, not T small ones.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from bptt.cells.by_name import ACTIVATIONS
from bptt.errors import BpttError
from bptt.model.likelihoods import Likelihood


class How(NamedTuple):
    """What there is besides the tensors that have a gradient.

    fed: (T, B, 1), 1 where the network's own is fed back and 0 where not. kept: (T, B, 1), 0 where
    the state is reset, or None. has_loop: whether there are W, and not only R.
    """

    cell: str
    likelihood: Likelihood
    fed: Float[Tensor, "T B 1"]
    kept: Float[Tensor, "T B 1"] | None
    has_loop: bool


def mean_loop(
    how: How,
    base: Float[Tensor, "T B H"],
    own0: Float[Tensor, "B Y"],
    h0: Float[Tensor, "layers B H"],
    readout: tuple[Float[Tensor, "O H"], Float[Tensor, " O"]],
    layers: list[tuple[Float[Tensor, "H K"], Float[Tensor, " H"] | None]],
) -> tuple[Float[Tensor, "T B O"], Float[Tensor, "layers T B H"], Float[Tensor, "T B Y"]]:
    """Return oᵗ, every layer's hᵗ, and the means that the network says.

    base: b + U xᵗ, with R yᵗ⁻¹ where that is forced. layers: each one's [R W] or, above the first,
    [U W] side by side, and its b.
    """
    tensors = [t for layer in layers for t in layer]
    outputs, states, said = _MeanLoop.apply(how, base, own0, h0, *readout, *tensors)  # type: ignore[no-untyped-call]
    return outputs, states, said


class _MeanLoop(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, how: How, *tensors: Any) -> tuple[Tensor, Tensor, Tensor]:
        base, own, h0, V, c, *rest = tensors
        weights, biases = rest[::2], rest[1::2]
        f, (T, B, H) = ACTIVATIONS[how.cell], base.shape
        outputs, states = base.new_empty(T, B, len(c)), base.new_empty(len(weights), T, B, H)
        said = base.new_empty(T, B, own.shape[1])
        entered = [base.new_empty(T, B, M.shape[1]) for M in weights]  # what M is multiplied by
        h = list(h0)
        for t, (p, fed) in enumerate(zip(base, how.fed, strict=True)):
            x = own * fed
            for k, (M, b) in enumerate(zip(weights, biases, strict=True)):
                enters = [x]
                if how.has_loop:
                    enters.append(h[k] if how.kept is None else h[k] * how.kept[t])
                z = torch.cat(enters, dim=1, out=entered[k][t])
                x = h[k] = f(torch.addmm(p if k == 0 else b, z, M.t()))
                states[k, t] = x
            o = torch.addmm(c, x, V.t(), out=outputs[t])
            own = how.likelihood.mean(o)
            said[t] = own
        ctx.how = how
        ctx.save_for_backward(V, *weights, *entered, states, said)
        return outputs, states, said

    @staticmethod
    def backward(ctx: Any, grad_o: Tensor, grad_h: Tensor, grad_said: Tensor) -> tuple[Any, ...]:
        if torch.is_grad_enabled():
            raise BpttError(
                'feedback "mean" is differentiated twice (create_graph=True); expected first '
                "derivatives, or torch.func.grad of torch.func.functional_call, which gives others "
                "too"
            )
        how, (V, *saved, states, said) = ctx.how, ctx.saved_tensors
        depth, T, B, H = states.shape
        weights, entered = saved[:depth], saved[depth:]
        delta_o, deltas = torch.empty_like(grad_o), torch.empty_like(states)
        slope = 1 - states * states if how.cell == "tanh" else (states > 0).to(states.dtype)
        later = [states.new_zeros(B, H) for _ in range(depth)]  # what comes from the step after
        from_own = torch.zeros_like(said[0])
        for t in reversed(range(T)):
            reached = torch.add(grad_said[t], from_own)
            torch.add(grad_o[t], how.likelihood.mean_backward(reached, said[t]), out=delta_o[t])
            down = delta_o[t] @ V
            for k in reversed(range(depth)):
                down = down.add_(grad_h[k, t]).add_(later[k])
                delta = torch.mul(down, slope[k, t], out=deltas[k, t])
                back = delta @ weights[k]
                if how.has_loop:
                    back, later[k] = back[:, :-H], back[:, -H:]
                    if how.kept is not None:
                        later[k] = later[k] * how.kept[t]
                down = back
            from_own = back * how.fed[t]
        first = torch.stack(later)
        grads: list[Tensor | None]
        grads = [deltas[0], from_own, first, _outer(delta_o, states[-1]), delta_o.sum((0, 1))]
        for k in range(depth):
            bias = None if k == 0 else deltas[k].sum((0, 1))
            grads += [_outer(deltas[k], entered[k]), bias]
        return None, *grads


def _outer(delta: Float[Tensor, "T B G"], x: Float[Tensor, "T B I"]) -> Float[Tensor, "G I"]:
    """Return Σ δ xᵀ over all rows."""
    return delta.flatten(0, 1).t() @ x.flatten(0, 1)


def can(cell: str, alive: Bool[Tensor, "T B"] | None) -> bool:
    """Return whether the loop can go by hand: first derivatives of sequences of one length."""
    return (
        cell in ACTIVATIONS
        and alive is None
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
        and torch.autograd.forward_ad._current_level < 0
    )
