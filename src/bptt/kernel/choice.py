"""The one draw that is no elementwise operation: which of n, by weights and a random number."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_variadic


def choose(
    weights: Float[Tensor, "*rows n"], target: Float[Tensor, "*rows"]
) -> Int[Tensor, "*rows"]:
    """Return the first of n up to which the weights sum to more than the target; else the last.

    With a target drawn evenly from 0 to Σ weights it is i with probability wᵢ / Σ w (the inverse of
    the distribution function). A step that calls it can be traced, as one that calls torch.
    """
    if has_torch_function_variadic(weights, target):
        chosen: Tensor = handle_torch_function(choose, (weights, target), weights, target)
        return chosen
    summed = weights.cumsum(dim=-1)
    first = torch.searchsorted(summed, target.unsqueeze(-1), right=True).squeeze(-1)
    return first.clamp(max=weights.shape[-1] - 1)
