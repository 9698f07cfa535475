"""Where a layer's parameters enter its step, and their gradient: Σ δ zᵀ over the steps.

Weights that a step reads may be made of several parameters, or of functions of them. What arrives
at a weight goes on to these by torch's autograd, so that a gradient is one of parameters.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from bptt.gradient.analysis.derivative import (
    Block,
    Pieces,
    StepDerivative,
    StepPassed,
    Use,
)

Named = dict[str, Float[Tensor, "..."]]
"""A gradient by parameter; or several of them, one for each loss or each step."""


class Site(NamedTuple):
    """Where weights enter a step: between δ, of so many columns, and z; their blocks of Σ δ zᵀ."""

    pieces: Pieces
    size: int
    z: Float[Tensor, "T B Z"]
    blocks: tuple[Block, ...]

    def deltas(self, passed: StepPassed) -> Iterator[tuple[slice, Float[Tensor, "J B _"]]]:
        """Yield δ piece by piece, each with the columns that it has."""
        start = 0
        for piece in passed.apart(self.pieces):
            stop = start + piece.shape[-1]
            yield slice(start, stop), piece
            start = stop


@dataclass(frozen=True)
class Parameters:
    """A layer's parameters, and the weights that its step and its input read, made of them.

    weights: with the graph from the parameters. is_turned: which of them are (N, K), not (K, N).
    """

    parameters: Mapping[str, Tensor]
    weights: Sequence[Tensor]
    is_turned: Sequence[bool]

    def sites(self, derivative: StepDerivative, uses: Iterable[Use]) -> list[Site]:
        """Return where those that are trained enter; of equal δ in one."""
        together: dict[Pieces, list[Use]] = defaultdict(list)
        for use in uses:
            blocks = [block for block in use.blocks if self.weights[block.weight].requires_grad]
            if blocks:
                together[use.pieces].append(use._replace(blocks=blocks))
        sites = []
        for pieces, group in together.items():
            at, moved = 0, list[Block]()
            for _, z, blocks in group:
                columns = slice(at, at + z.shape[-1])
                moved += [block._replace(z=columns) for block in blocks]
                at = columns.stop
            z = torch.cat([use.z for use in group], dim=-1)
            sites.append(Site(pieces, derivative.width(pieces), z, tuple(moved)))
        return sites

    def gradient(self, sites: Sequence[Site], totals: Sequence[Float[Tensor, "*J N Z"]]) -> Named:
        """Return the gradient of each parameter that is trained, from Σ δ zᵀ at each site."""
        grads: dict[int, Tensor] = {}
        for site, total in zip(sites, totals, strict=True):
            for block in site.blocks:
                weight, part = self.weights[block.weight], total[..., block.delta, block.z]
                zeros = total.new_zeros((*total.shape[:-2], *weight.shape))
                grad = grads.setdefault(block.weight, zeros)
                grad = grad.mT if self.is_turned[block.weight] else grad
                if isinstance(block.rows, slice):
                    grad[..., block.rows, block.columns] += part.mT
                elif block.rows is None:
                    grad[..., block.columns] += part.squeeze(-1)
                else:
                    grad[..., block.columns].index_add_(-2, block.rows, part.mT)
        lead = totals[0].shape[:-2] if totals else ()
        return self._of_parameters(grads, lead)

    def are_apart(self, sites: Sequence[Site]) -> bool:
        """Return whether every number of Σ δ zᵀ at the sites is one of one parameter's gradient.

        Norms and inner products of gradients are then those of the sums. It is not so where a
        weight is made of parameters, or enters twice, or where part of a sum belongs to none.
        """
        ids = {id(parameter) for parameter in self.parameters.values()}
        blocks = [block for site in sites for block in site.blocks]
        if not all(id(self.weights[block.weight]) in ids for block in blocks):
            return False
        ones = [site.z.new_ones(site.size, site.z.shape[-1]) for site in sites]
        counts = self.gradient(sites, ones).values()
        for site, left in zip(sites, ones, strict=True):
            for block in site.blocks:
                left[block.delta, block.z] -= 1
        return all(bool((count <= 1).all()) for count in counts) and not any(map(torch.any, ones))

    def _of_parameters(self, grads: Mapping[int, Tensor], lead: Sequence[int]) -> Named:
        """Return the gradients of the parameters from those of the weights."""
        trained = {name: p for name, p in self.parameters.items() if p.requires_grad}
        names = {id(p): name for name, p in trained.items()}
        of_parameters = {name: p.new_zeros((*lead, *p.shape)) for name, p in trained.items()}
        made: dict[int, Tensor] = {}
        for which, grad in grads.items():
            name = names.get(id(self.weights[which]))
            if name is None:
                made[which] = grad
            else:
                of_parameters[name] += grad
        if made:
            through = torch.autograd.grad(
                [self.weights[which] for which in made],
                list(trained.values()),
                list(made.values()),
                retain_graph=True,
                allow_unused=True,
                is_grads_batched=len(lead) > 0,
            )
            for name, part in zip(trained, through, strict=True):
                if part is not None:
                    of_parameters[name] += part
        return of_parameters


def norms(parts: Iterable[Tensor], lead: int = 0) -> Tensor:
    """Return the norm over all parts of a gradient, of every one of several ones if lead is 1."""
    each: list[Tensor] = [
        torch.linalg.vector_norm(part.flatten(lead), dim=-1, dtype=torch.float64) for part in parts
    ]
    return torch.stack(each).square().sum(0).sqrt()
