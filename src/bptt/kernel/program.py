"""A program: what one step of a cell computes, as a list of operations on rows.

A step maps the rows of a batch, each by itself, to rows. So its program has no batch in it: every
value is a row of some width, the same operations run for all rows, and the native loop does them
block by block. A value's `op` is one of

- a source: "p" (columns of the projected input), "state" (of a state before the step), "vector"
  (the same for all rows), "constant"; and in the program of a gradient "above" (∂L/∂ of a new
  state, from above), "arrived" (the same from later steps), "new" (a new state), "saved" (what the
  forward pass kept);
- an elementwise operation: see ELEMENTWISE;
- one along the row: "sum" and "max" (one number), "argmax" and "choose" (the number of a column,
  see kernel/choice.py), "spread" (one number to a row);
- "product", z M, of a value with a block of a matrix; or "back", Σ δ Mᵀ, through several of them;
- "look_up", a row of a table, by its number.

There is no slice and no join: what a step cuts and joins is followed through its operations, down
to columns of the sources, blocks of the matrices and columns of the results.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bptt.kernel.choice import choose

Constant = float


class Value(NamedTuple):
    """One line of a program: op of the lines `args`, `width` columns wide.

    at: of "p": the first column; of "state", "new", "above" and "arrived": which state, and its
    first column, of "state" also the delay; of "vector": which weight, and its first column; of
    "constant": the number; of "pow": the exponent; of "product": which weight, its first row and
    column; of "back": that for each argument; of "look_up": which weight, its first column, and
    how many rows it has; of "saved": the line of the forward program.
    """

    op: str
    args: tuple[int, ...]
    width: int
    at: tuple[Any, ...] = ()


ELEMENTWISE: Mapping[str, Callable[..., Tensor]] = {
    "copy": lambda a: a,
    "detach": torch.detach,
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "neg": torch.neg,
    "trunc": torch.trunc,
    "abs": torch.abs,
    "minimum": torch.minimum,
    "maximum": torch.maximum,
    "sqrt": torch.sqrt,
    "exp": torch.exp,
    "expm1": torch.expm1,
    "log": torch.log,
    "log1p": torch.log1p,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "relu": torch.relu,
    "sin": torch.sin,
    "cos": torch.cos,
    "erf": torch.erf,
    "pow": torch.pow,  # with a constant, in `at`
    "greater": lambda a, b: (a > b).to(a.dtype),  # 1 or 0, as are the next three
    "at_least": lambda a, b: (a >= b).to(a.dtype),
    "equal": lambda a, b: (a == b).to(a.dtype),
    "where": lambda mask, a, b: torch.where(mask != 0, a, b),
    # What several of them come to in one go; `fuse` puts them in.
    "lerp": lambda a, b, w: a + w * (b - a),
    "mul_add": lambda a, b, c: a * b + c,
    "mul_rest": lambda a, b: a - a * b,
    "mul_difference": lambda a, b, c: a * (b - c),
    "tanh_back": lambda d, y: d * (1 - y * y),
    "sigmoid_back": lambda d, y: d * y * (1 - y),
}
"""Operations on equal columns, and their meaning. The native ones have the same names."""

ALONG_A_ROW: Mapping[str, Callable[..., Tensor]] = {
    "sum": lambda a: a.sum(-1, keepdim=True),
    "max": lambda a: a.amax(-1, keepdim=True),
    "argmax": lambda a: a.argmax(-1, keepdim=True).to(a.dtype),
    "choose": lambda a, b: choose(a, b.squeeze(-1)).unsqueeze(-1).to(a.dtype),
}
"""Operations from a row to one number, and their meaning."""


@dataclass(frozen=True)
class Program:
    """Lines, each of which may use earlier ones; and which of them are the results, by name.

    results: of a step, ("new", state, column); of its gradient, ("p", column), ("state", state,
    column, delay), ("vector", weight, column) to be summed over rows, and ("product", i) of the
    line i of the forward program; ("z", z) is what the products of its line z were made of; and
    ("look_up", i) of its line i, and ("row", i), which row that was.
    """

    values: tuple[Value, ...]
    results: Mapping[tuple[Any, ...], int]

    def __str__(self) -> str:
        names = {line: "  -> " + " ".join(map(str, name)) for name, line in self.results.items()}
        return "\n".join(
            f"{i:3} ({v.width}) = {v.op} {' '.join(map(str, (*v.args, *map(str, v.at))))}"
            + names.get(i, "")
            for i, v in enumerate(self.values)
        )


@dataclass
class Builder:
    """Writes a program, line by line; a line that is there already is not written again."""

    values: list[Value] = field(default_factory=list)
    lines: dict[Value, int] = field(default_factory=dict)

    def line(self, value: Value) -> int:
        """Return the number of the line with this value."""
        if value not in self.lines:
            self.lines[value] = len(self.values)
            self.values.append(value)
        return self.lines[value]

    def source(self, op: str, width: int, *at: Any) -> Expr:
        """Return a value that no operation makes."""
        return Expr(self, self.line(Value(op, (), width, at)))

    def constant(self, number: float, width: int) -> Expr:
        """Return the same number in every column."""
        return self.source("constant", width, float(number))

    def apply(self, op: str, *args: Expr, at: tuple[Any, ...] = ()) -> Expr:
        """Return an elementwise operation's result; what is one number a row is spread."""
        width = max(arg.width for arg in args)
        narrow = [self._before_spread(arg) for arg in args]
        if width > 1 and all(arg.width == 1 for arg in narrow):
            return self.spread(self.apply(op, *narrow, at=at), width)
        lines = tuple(self.spread(arg, width).line for arg in args)
        simple = self._simplified(op, lines)
        if simple is not None:
            return Expr(self, simple)
        return Expr(self, self.line(Value(op, lines, width, at)))

    def _before_spread(self, arg: Expr) -> Expr:
        """Return what is the same in every column as one number a row."""
        if arg.value.op == "constant":
            return self.constant(arg.value.at[0], 1)
        return Expr(self, arg.value.args[0]) if arg.value.op == "spread" else arg

    def _simplified(self, op: str, lines: tuple[int, ...]) -> int | None:
        """Return the line that adding 0, or multiplying with 1, comes to."""
        numbers = [
            v.at[0] if v.op == "constant" else None for v in map(self.values.__getitem__, lines)
        ]
        if op == "add" and 0.0 in numbers:
            return lines[1 - numbers.index(0.0)]
        if op == "mul" and 1.0 in numbers:
            return lines[1 - numbers.index(1.0)]
        if op == "sub" and numbers[1] == 0.0:
            return lines[0]
        if op == "div" and numbers[1] == 1.0:
            return lines[0]
        return None

    def spread(self, arg: Expr, width: int) -> Expr:
        """Return one number a row in every column."""
        if arg.width == width:
            return arg
        value = self.values[arg.line]
        if value.op == "constant":
            return self.constant(value.at[0], width)
        return Expr(self, self.line(Value("spread", (arg.line,), width)))

    def product(self, z: Expr, width: int, weight: int, row: int, column: int) -> Expr:
        """Return z times a block of a matrix."""
        return Expr(self, self.line(Value("product", (z.line,), width, (weight, row, column))))

    def look_up(self, number: Expr, width: int, weight: int, column: int, rows: int) -> Expr:
        """Return columns of the row of a table with this number."""
        at = (weight, column, rows)
        return Expr(self, self.line(Value("look_up", (number.line,), width, at)))

    def along(self, op: str, arg: Expr) -> Expr:
        """Return "sum", "max" or "argmax" of each row."""
        negated = arg._negated()
        if op == "sum" and negated is not None:
            return -self.along(op, negated)
        if arg.width == 1:
            return self.constant(0.0, 1) if op == "argmax" else arg
        return Expr(self, self.line(Value(op, (arg.line,), 1)))

    def choose(self, weights: Expr, share: Expr) -> Expr:
        """Return the number of the column up to which the weights sum to more than a share."""
        return Expr(self, self.line(Value("choose", (weights.line, share.line), 1)))

    def finish(self, results: Mapping[tuple[Any, ...], Expr]) -> Program:
        """Return the program of what these results need."""
        alive = reached(self.values, [result.line for result in results.values()])
        places = {line: i for i, line in enumerate(alive)}
        values = [
            v._replace(args=tuple(places[arg] for arg in v.args))
            for v in (self.values[line] for line in alive)
        ]
        return Program(tuple(values), {name: places[r.line] for name, r in results.items()})


@dataclass(frozen=True)
class Expr:
    """A value of a program that is being written, with arithmetic."""

    builder: Builder
    line: int

    @property
    def value(self) -> Value:
        """The line itself."""
        return self.builder.values[self.line]

    @property
    def width(self) -> int:
        """How many columns it has."""
        return self.value.width

    def _with(self, op: str, *others: Expr | float) -> Expr:
        return self.builder.apply(op, self, *[self._as_expr(other) for other in others])

    def _as_expr(self, other: Expr | float) -> Expr:
        return other if isinstance(other, Expr) else self.builder.constant(other, self.width)

    def _negated(self) -> Expr | None:
        """Return a where this is −a."""
        return Expr(self.builder, self.value.args[0]) if self.value.op == "neg" else None

    def __add__(self, other: Expr | float) -> Expr:
        for first, second in ((self, other), (other, self)):
            negated = second._negated() if isinstance(second, Expr) else None
            if negated is not None and isinstance(first, Expr):
                return first - negated
        return self._with("add", other)

    def __sub__(self, other: Expr | float) -> Expr:
        negated = self._negated()
        return self._with("sub", other) if negated is None else -(negated + other)

    def __rsub__(self, other: float) -> Expr:
        return self._as_expr(other) - self

    def __mul__(self, other: Expr | float) -> Expr:
        return self._with("mul", other)

    __radd__, __rmul__ = __add__, __mul__

    def __truediv__(self, other: Expr | float) -> Expr:
        return self._with("div", other)

    def __rtruediv__(self, other: float) -> Expr:
        return self._as_expr(other) / self

    def __neg__(self) -> Expr:
        return self._with("neg")


def reached(values: Iterable[Value], lines: Iterable[int]) -> list[int]:
    """Return the lines that these lines need, themselves included, in order."""
    values, alive, waiting = list(values), set[int](), list(lines)
    while waiting:
        line = waiting.pop()
        if line not in alive:
            alive.add(line)
            waiting.extend(values[line].args)
    return sorted(alive)


def evaluate(
    program: Program, source: Callable[[Value], Tensor], matrices: Callable[[int], Tensor]
) -> dict[tuple[Any, ...], Tensor]:
    """Return the results of a program for some rows, by torch: what the native loop is held to.

    source: the rows, (B, width), or the vector, (width), of a source. matrices: each weight matrix.
    """
    values: list[Tensor] = []
    for v in program.values:
        values.append(compute(v, [values[arg] for arg in v.args], source, matrices))
    return {name: values[line] for name, line in program.results.items()}


def compute(  # noqa: PLR0911 (an operation a line)
    v: Value,
    args: Sequence[Tensor],
    source: Callable[[Value], Tensor],
    matrices: Callable[[int], Tensor],
) -> Tensor:
    """Return one line for some rows, (..., width), by torch; args: the lines that it is made of."""
    if v.op in ELEMENTWISE:
        return ELEMENTWISE[v.op](*args, *v.at)
    if v.op in ALONG_A_ROW:
        return ALONG_A_ROW[v.op](*args)
    if v.op == "spread":
        return args[0].expand(*args[0].shape[:-1], v.width)
    if v.op == "product":
        weight, row, column = v.at
        K = args[0].shape[-1]
        return args[0] @ matrices(weight)[row : row + K, column : column + v.width]
    if v.op == "look_up":
        weight, column, _ = v.at
        numbers = args[0].detach().squeeze(-1).long()
        return matrices(weight)[:, column : column + v.width][numbers]
    if v.op == "back":
        return side_by_side(args) @ matrix_of(v, [d.shape[-1] for d in args], matrices)
    return source(v)


def matrix_of(v: Value, widths: Sequence[int], matrices: Callable[[int], Tensor]) -> Tensor:
    """Return what a line "back" multiplies by, of lines so wide that lie side by side."""
    blocks = [
        matrices(weight)[row : row + v.width, column : column + width]
        for width, (weight, row, column) in zip(widths, v.at, strict=True)
    ]
    return side_by_side(blocks).t()


def side_by_side(parts: Sequence[Tensor]) -> Tensor:
    """Return rows next to each other, which of one part are that itself, and no copy."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim=-1)


def run_once(
    program: Program, lengths: Sequence[int], inputs: Sequence[Tensor], weights: Sequence[Tensor]
) -> list[Tensor]:
    """Return the new state parts of (p, *state parts), by torch.

    lengths: of how many parts each state is. weights: matrices (K, N) and vectors.
    """
    p, *parts = inputs
    firsts = [sum(lengths[:state]) for state in range(len(lengths))]

    def source(value: Value) -> Tensor:
        at, width = value.at, value.width
        if value.op == "p":
            return p[:, at[0] : at[0] + width]
        if value.op == "state":
            state, start, delay = at
            part: Tensor = parts[firsts[state] + delay - 1]
            return part[:, start : start + width]
        if value.op == "vector":
            which, start = at
            vector: Tensor = weights[which]
            return vector[start : start + width].expand(len(p), width)
        return p.new_full((len(p), width), at[0])

    results = evaluate(program, source, weights.__getitem__)
    new: list[Tensor] = []
    for state, (first, length) in enumerate(zip(firsts, lengths, strict=True)):
        blocks = {name[2]: rows for name, rows in results.items() if name[1] == state}
        columns = [blocks[start] for start in sorted(blocks)]
        new.append(side_by_side(columns))
        new += parts[first : first + length - 1]
    return new
