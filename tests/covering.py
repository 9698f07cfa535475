"""Few cases that have everything of two: covering designs for parametrized tests."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any


def pairs(
    *axes: Sequence[Any], allowed: Callable[..., bool] = lambda *_: True
) -> list[tuple[Any, ...]]:
    """Return cases, a value of each axis, of which every two values of two axes share one.

    What depends on three values at once is left to the fuzz tests, which draw from all products.
    The cases are the same in every process, as pytest-xdist wants them. allowed: whether a case
    can be.
    """
    places = itertools.product(*(range(len(axis)) for axis in axes))
    cases = [(place, [axis[k] for axis, k in zip(axes, place, strict=True)]) for place in places]
    products = [
        (case, set(itertools.combinations(enumerate(place), 2)))
        for place, case in cases
        if allowed(*case)
    ]
    missing = set().union(*(covered for _, covered in products))
    chosen = []
    while missing:
        case, covered = max(products, key=lambda product: len(product[1] & missing))
        missing -= covered
        chosen.append(tuple(case))
    return chosen
