"""One series of a table: its steps, in standard units and in the table's own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from bptt.data.scaling import Scaling
from bptt.data.tables.calendar_steps import Spacing
from bptt.data.tables.categories import one_hot


@dataclass(frozen=True, eq=False)
class Series:
    """T steps: those before `cut` to train on, the rest to validate.

    Nothing is copied: the arrays are parts of the table's, which may be mapped files.

    name: what the table calls it; "" where there is only one. source: what to call it in words.
    y: in standard units; of the differences, if it is_differenced. numbers, classes: what x is made
    of, the classes one-hot, with their `sizes`. levels: the table's own values. first_level: of the
    row that differencing costs, else zeros. times: in UTC if the clock has a zone. step: how far
    apart they are, if that is even.
    """

    name: str
    source: str
    y: Float[np.ndarray, "T d"]
    numbers: Float[np.ndarray, "T i"]
    classes: Float[np.ndarray, "T k"]
    sizes: tuple[int, ...]
    levels: Float[np.ndarray, "T d"]
    first_level: Float[np.ndarray, " d"]
    cut: int
    scaling: Scaling
    is_differenced: bool
    times: np.ndarray | None = None
    step: Spacing | None = None

    def __len__(self) -> int:
        """How many steps it has."""
        return len(self.y)

    def x(self, start: int = 0, stop: int | None = None) -> Float[np.ndarray, "n inputs"] | None:
        """Return the features of steps, if there are any."""
        numbers, classes = self.numbers[start:stop], self.classes[start:stop]
        if self.sizes:
            return np.concatenate([numbers, one_hot(classes, self.sizes)], axis=1)
        return numbers if numbers.shape[1] else None

    def levels_before(self, start: int, stop: int | None = None) -> Float[np.ndarray, "n d"]:
        """Return the level before each of the steps from start on; `stop` may be one too far.

        Before the first step that is its own, unless differencing has kept the one before it.
        """
        stop = len(self) if stop is None else stop
        if start > 0:
            return self.levels[start - 1 : stop - 1]
        first = self.first_level if self.is_differenced else self.levels[0]
        return np.concatenate([first[None], self.levels[: stop - 1]])

    def restore(
        self, standard: Float[np.ndarray, "n *several d"], start: int
    ) -> Float[np.ndarray, "n *several d"]:
        """Return a path that leaves the series before step `start`, in the table's units."""
        values = self.scaling.original(standard)
        if not self.is_differenced:
            return values
        return np.asarray(self.levels_before(start, start + 1)[0] + values.cumsum(axis=0))

    def restore_each(
        self, standard: Float[np.ndarray, "n d"], start: int
    ) -> Float[np.ndarray, "n d"]:
        """Return standard values of steps from `start` on, each after the true level before it."""
        values = self.scaling.original(standard)
        return (
            self.levels_before(start, start + len(values)) + values
            if self.is_differenced
            else values
        )
