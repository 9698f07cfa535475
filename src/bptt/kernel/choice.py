"""The one draw that is no elementwise operation: which of n, by weights and a random number."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_variadic


def choose(
    weights: Float[Tensor, "*rows n"], share: Float[Tensor, "*rows"]
) -> Int[Tensor, "*rows"]:
    """Return the first of n up to which the weights sum to more than this share of all of them.

    With a share drawn evenly from 0 to 1 it is i with probability wᵢ / Σ w (the inverse of the
    distribution function). A step that calls it can be traced, as one that calls torch.
    """
    if has_torch_function_variadic(weights, share):
        chosen: Tensor = handle_torch_function(choose, (weights, share), weights, share)
        return chosen
    summed = weights.double().cumsum(dim=-1)  # so that the small ones are not lost beside the rest
    target = share.double().unsqueeze(-1) * summed[..., -1:]
    first = torch.searchsorted(summed, target, right=True).squeeze(-1)
    return first.clamp(max=weights.shape[-1] - 1)
