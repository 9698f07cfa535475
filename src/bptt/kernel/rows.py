"""Tensors of rows, (B, W), as columns: values of a program side by side.

So slicing, chunking and joining columns are no operations, but say which columns are meant.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from numbers import Real
from typing import Any

from bptt.kernel.program import Builder, Expr

MOST_ROWS = 2**24
"""Of a table: up to here a number in float32 is one row, and no other."""


@dataclass(frozen=True)
class Ref:
    """Stands for a tensor of a recorded step."""

    index: int


class Untranslatable(Exception):  # noqa: N818 (a reason, not an error)
    """Why a call is no operation on rows, in a few words."""


@dataclass(frozen=True)
class Rows:
    """Values of a program side by side: a tensor (B, W), or (B,) if flat."""

    columns: tuple[Expr, ...]
    flat: bool = False

    @property
    def width(self) -> int:
        """W."""
        return sum(c.width for c in self.columns)

    def cut(self, widths: Sequence[int]) -> Rows:
        """Return the same columns, cut into values of these widths."""
        cuts = {0, *accumulate(widths)}
        pieces: list[Expr] = []
        start = 0
        for column in self.columns:
            inside = sorted(c - start for c in cuts if start < c < start + column.width)
            for low, high in zip([0, *inside], [*inside, column.width], strict=True):
                pieces.append(part_of(column, low, high - low))
            start += column.width
        return Rows(tuple(pieces), self.flat)

    def cut_before(self, edges: set[int]) -> Rows:
        """Return the same columns, cut before these."""
        ends = [*sorted(edges - {0, self.width}), self.width]
        return self.cut([b - a for a, b in pairwise([0, *ends])])

    def slice(self, start: int, stop: int) -> Rows:
        """Return the columns from start to before stop."""
        if not 0 <= start < stop <= self.width:
            raise Untranslatable("columns that there are none of")
        before, pieces = 0, []
        for column in self.cut([start, stop - start]).columns:
            if start <= before < stop:
                pieces.append(column)
            before += column.width
        return Rows(tuple(pieces))

    def each(self, change: Callable[[Expr], Expr]) -> Rows:
        """Return a function of every column."""
        return Rows(tuple(change(c) for c in self.columns), self.flat)


def part_of(value: Expr, start: int, width: int) -> Expr:  # noqa: PLR0911 (an operation a line)
    """Return some columns of a value: its operation on those columns of what it was made of."""
    if width == value.width:
        return value
    builder, (op, args, _, at) = value.builder, value.value
    if op == "p":
        return builder.source("p", width, at[0] + start)
    if op == "state":
        return builder.source("state", width, at[0], at[1] + start, at[2])
    if op == "vector":
        return builder.source("vector", width, at[0], at[1] + start)
    if op == "constant":
        return builder.constant(at[0], width)
    operands = [Expr(builder, arg) for arg in args]
    if op == "spread":
        return builder.spread(operands[0], width)
    if op == "product":
        return builder.product(operands[0], width, at[0], at[1], at[2] + start)
    if op == "look_up":
        weight, column, rows = at
        return builder.look_up(operands[0], width, weight, column + start, rows)
    return builder.apply(op, *[part_of(arg, start, width) for arg in operands], at=at)


class Writer:
    """Writes operations on rows, and notes which weights they name.

    shapes: of every tensor of the recorded step. cuts: before which columns a vector, and the
    products with a matrix, are cut, so that no two values of them overlap: by ("vector", weight)
    and ("product", weight).
    """

    def __init__(
        self, shapes: Mapping[Ref, tuple[int, ...]], cuts: Mapping[tuple[Any, ...], set[int]]
    ) -> None:
        self.builder = Builder()
        self.shapes, self.cuts = shapes, cuts
        self.weights: list[tuple[Ref, str, int]] = []

    def operand(self, value: Any, width: int) -> Rows:
        """Return rows, a number or a vector of weights as columns."""
        if isinstance(value, Rows):
            return value
        if isinstance(value, Ref):
            shape = self.shapes[value]
            if math.prod(shape) not in (1, width) or (shape and shape[-1] != math.prod(shape)):
                raise Untranslatable(f"a tensor of shape {shape} beside rows of {width}")
            weight = self.weight(value, "vector", width)
            vector = Rows((self.builder.source("vector", width, weight, 0),))
            return vector.cut_before(self.cuts.get(("vector", weight), set()))
        if isinstance(value, Real):
            return Rows((self.builder.constant(float(value), width),))
        raise Untranslatable(f"{type(value).__name__} beside rows")

    def weight(self, ref: Ref, kind: str, width: int = 0) -> int:
        """Return which weight a tensor is."""
        entry = (ref, kind, width)
        if entry not in self.weights:
            self.weights.append(entry)
        return self.weights.index(entry)

    def elementwise(self, make: Callable[..., Expr], *values: Any) -> Rows:
        """Return an elementwise function of rows, numbers and vectors."""
        row_values = [value for value in values if isinstance(value, Rows)]
        width = max(rows.width for rows in row_values)
        vectors = [math.prod(self.shapes[v]) for v in values if isinstance(v, Ref)]
        width = max([width, *vectors])
        flat = all(rows.flat for rows in row_values)
        if not flat and any(rows.flat for rows in row_values) and width > 1:
            raise Untranslatable("a flat tensor beside rows")
        operands = [self.operand(value, width) for value in values]
        wide = [rows for rows in operands if rows.width == width]
        edges = sorted({e for rows in wide for e in accumulate(c.width for c in rows.columns)})
        steps = [b - a for a, b in zip([0, *edges[:-1]], edges, strict=True)]
        cut = [
            rows.cut(steps).columns
            if rows.width == width
            else [spread(rows, step) for step in steps]
            for rows in operands
        ]
        return Rows(tuple(make(*column) for column in zip(*cut, strict=True)), flat)

    def sum(self, rows: Rows) -> Expr:
        """Return Σ of each row."""
        total, *others = [self.builder.along("sum", column) for column in rows.columns]
        for other in others:
            total = total + other
        return total

    def largest(self, rows: Rows) -> Expr:
        """Return the largest of each row."""
        total, *others = [self.builder.along("max", column) for column in rows.columns]
        for other in others:
            total = self.builder.apply("maximum", total, other)
        return total

    def one_column(self, rows: Rows) -> Expr:
        """Return rows as one value, where they lie in one."""
        if len(rows.columns) > 1:
            raise Untranslatable("columns that are made apart")
        return rows.columns[0]

    def product(self, rows: Rows, weight: int, width: int) -> Rows:
        """Return z M."""
        total: Expr | None = None
        row = 0
        for column in rows.columns:
            term = self.builder.product(column, width, weight, row, 0)
            total = term if total is None else total + term
            row += column.width
        assert total is not None
        return Rows((total,)).cut_before(self.cuts.get(("product", weight), set()))

    def look_up(self, numbers: Rows, table: Ref) -> Rows:
        """Return the rows of a table with these numbers, one a row."""
        shape = self.shapes[table]
        if len(shape) != 2 or not numbers.flat:
            raise Untranslatable("it looks up what is not one row of a table for each row")
        if shape[0] > MOST_ROWS:
            raise Untranslatable(f"a table of more than {MOST_ROWS:,} rows")
        (number,) = numbers.columns
        weight = self.weight(table, "table")
        return Rows((self.builder.look_up(number, shape[1], weight, 0, shape[0]),))


def spread(rows: Rows, width: int) -> Expr:
    """Return rows of one number as `width` columns."""
    (column,) = rows.columns
    return column.builder.spread(column, width)
