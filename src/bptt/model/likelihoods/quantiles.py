"""From a share to the value below which it lies, of distributions where that has no formula."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

HALVINGS = 64
"""After so many an interval holds one number, in float64."""


def normal_share(z: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return which share of a normal distribution lies below z."""
    return 0.5 * (1 + torch.erf(z * math.sqrt(0.5)))


def _inside(share: Tensor) -> Tensor:
    """Return a share as one that is neither 0 nor 1, so that there is a value."""
    return share.double().clamp(torch.finfo(torch.float64).tiny, 1 - 1e-12)


@torch.no_grad()
def log_gamma_quantile(
    share: Float[Tensor, "..."], shape: Float[Tensor, "..."]
) -> Float[Tensor, "..."]:
    """Return log x, below which this share of a gamma distribution of scale 1 lies.

    By halving an interval of log x. Far to the left P(x) is x^a / Γ(a + 1), which is solved.
    """
    share, shape = torch.broadcast_tensors(_inside(share), shape.double())
    small = (share.log() + torch.lgamma(shape + 1)) / shape
    low, high = torch.full_like(small, -40.0), torch.log(shape + 40 * shape.sqrt() + 800)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        is_below = torch.special.gammainc(shape, middle.exp()) < share
        low, high = torch.where(is_below, middle, low), torch.where(is_below, high, middle)
    return torch.where(small < -35, small, high)


@torch.no_grad()
def poisson_quantile(
    share: Float[Tensor, "..."], rate: Float[Tensor, "..."]
) -> Float[Tensor, "..."]:
    """Return the first count up to which more than this share of a Poisson distribution lies."""
    share, rate = torch.broadcast_tensors(_inside(share), rate.double())
    low, high = torch.full_like(rate, -1.0), (rate + 40 * rate.sqrt() + 800).ceil()
    for _ in range(HALVINGS):
        middle = ((low + high) / 2).floor()
        is_enough = (torch.special.gammaincc(middle + 1, rate) > share) & (middle > low)
        low, high = torch.where(is_enough, low, middle), torch.where(is_enough, middle, high)
    return high
