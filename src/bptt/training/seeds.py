"""Random numbers that are decided by a seed for a while, and then go on as if nothing was drawn."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Draw from a seed for a with block: on the CPU, and on a device if one is given.

    torch.manual_seed takes longer than a small update: for devices that are not in use yet it notes
    where it was called.

    >>> with seeded(3):
    ...     one = torch.rand(2)
    >>> with seeded(3):
    ...     other = torch.rand(2)
    >>> torch.equal(one, other)
    True
    """
    if device is None or device.type == "cpu":
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            yield
        return
    with torch.random.fork_rng(device_type=device.type):
        torch.manual_seed(seed)
        yield
