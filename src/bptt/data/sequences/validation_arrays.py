"""Arrays of a .npz file that are to validate on: they are called as the others, and _validation."""

from __future__ import annotations

import numpy as np

from bptt.errors import BpttError

NAME_END = "_validation"


def parts_of(
    source: str, arrays: dict[str, np.ndarray], first: str
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return the arrays to train on and those to validate on, if there are any, by their names.

    BpttError is raised unless both parts have the same, `first` among them.
    """
    training = {name: one for name, one in arrays.items() if not name.endswith(NAME_END)}
    validation = {name.removesuffix(NAME_END): arrays[name] for name in arrays.keys() - training}
    if validation:
        for name in (first, *sorted(training.keys() ^ validation.keys())):
            there = name if name in training else f"{name}{NAME_END}"
            absent = f"{name}{NAME_END}" if name in training else name
            if name not in training or name not in validation:
                raise BpttError(
                    f"{source} has {there}, and no {absent}; expected both parts, to train on and "
                    "to validate on, to have the same arrays"
                )
    return training, validation
