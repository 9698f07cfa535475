"""The derivative of a step that is no program, at every time step of a run: by autograd, slower."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from bptt.gradient.analysis.derivative import Block, Pieces, Use
from bptt.kernel.ops import Recipe
from bptt.kernel.plain_loop import Parts


class PlainDerivative:
    """What Derivative is, of any step that torch can differentiate: each time step by itself.

    weights: the tensors that the step is made of, flat; what reaches one is a sum over sequences,
    which counts as δ, with 1 for z.
    """

    of_p: Pieces = ()
    has_loop = True

    def __init__(self, recipe: Recipe, p: Float[Tensor, "T B G"], before: Sequence[Tensor]) -> None:
        self.T, self.B, self.G = p.shape
        self.one = p.new_ones(self.T, 1, 1)
        trained = [t for t in recipe.tensors if t is not None and t.requires_grad]
        with torch.enable_grad():
            self.weights = [t.reshape(-1) for t in trained]
        self.is_turned = [False for _ in trained]
        leaves = {id(t): t.detach().requires_grad_() for t in trained}
        self.trained = [leaves[id(t)] for t in trained]
        tensors = tuple(t if t is None else leaves.get(id(t), t) for t in recipe.tensors)
        step = recipe._replace(tensors=tensors).step
        self.leaves: list[list[Tensor]] = []
        self.made: list[Parts] = []
        for rows in zip(p, *before, strict=True):
            p_t, *parts = (row.detach().requires_grad_() for row in rows)
            self.leaves.append([p_t, *parts])
            with torch.enable_grad():
                self.made.append(step(p_t, tuple(parts)))

    def width(self, pieces: Pieces) -> int:
        """Return how many columns a gradient has: of p, or of a weight."""
        return self.weights[pieces[0]].numel() if pieces else self.G

    def uses(self) -> Iterator[Use]:
        """Yield where each weight enters."""
        for i, weight in enumerate(self.weights):
            whole = slice(0, weight.numel())
            yield Use((i,), self.one, [Block(i, whole, slice(0), whole, None)])

    def back(self, d: Parts, steps: slice) -> PlainPassed:
        """Take the gradients of the states after some steps into these steps."""
        at = [*range(*steps.indices(self.T))]
        at = at if len(at) == len(d[0]) else at * len(d[0])
        gradients = [self._back(t, grads) for t, *grads in zip(at, *d, strict=True)]
        inputs = [*self.leaves[0], *self.trained]
        none = [leaf.new_empty(0, *leaf.shape) for leaf in inputs]
        each = [torch.stack(same) for same in zip(*gradients, strict=True)] or none
        return PlainPassed(each, len(d))

    def _back(self, t: int, grads: Sequence[Float[Tensor, "B _"]]) -> list[Tensor]:
        """Return what arrives at p, at the state before, and at the weights."""
        inputs = [*self.leaves[t], *self.trained]
        reached = [
            (part, d) for part, d in zip(self.made[t], grads, strict=True) if part.requires_grad
        ]
        outputs, arriving = zip(*reached, strict=True)
        gradients = torch.autograd.grad(
            outputs, inputs, arriving, retain_graph=True, allow_unused=True
        )
        return [
            torch.zeros_like(i) if g is None else g for i, g in zip(inputs, gradients, strict=True)
        ]


class PlainPassed:
    """What gradients become in some steps; parts: of how many the state is."""

    def __init__(self, gradients: list[Tensor], parts: int) -> None:
        self.p, *others = gradients
        self.before, self.weights = tuple(others[:parts]), others[parts:]

    def join(self, pieces: Pieces) -> Float[Tensor, "J B _"]:
        """Return what arrives at p; or at a weight, flat, of all sequences together."""
        return self.weights[pieces[0]].reshape(len(self.p), 1, -1) if pieces else self.p

    def apart(self, pieces: Pieces) -> list[Float[Tensor, "J B _"]]:
        """Return the same as one piece."""
        return [self.join(pieces)]
