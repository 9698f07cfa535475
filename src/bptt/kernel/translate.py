"""What torch's functions are on rows: from recorded calls to the lines of a program.

A tensor of rows, (B, W), is followed as columns: values of the program side by side. So slicing,
chunking and joining columns are no operations, but say which columns are meant.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from numbers import Real
from typing import Any

from torch import Tensor

from bptt.kernel.program import Builder, Expr, Program
from bptt.kernel.rules import function, greater, where


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
    return builder.apply(op, *[part_of(arg, start, width) for arg in operands], at=at)


class Translation:
    """The lines that recorded calls come to, and which weights these name."""

    @classmethod
    def of(
        cls,
        calls: Sequence[Any],
        shapes: Mapping[Ref, tuple[int, ...]],
        widths: Sequence[int],
        outputs: Sequence[Ref],
    ) -> tuple[Program, tuple[int, ...], list[tuple[Ref, str, int]]]:
        """Return the program from p and the state parts, of these widths, to the outputs.

        Parts that hold what another one was, some steps before, are one state, read so far back:
        also returns of how many parts each state is.
        """
        cuts: dict[tuple[Any, ...], set[int]] = {}
        while True:
            translation = cls(shapes, widths, cuts)
            for call in calls:
                translation.call(call)
            program, lengths = translation.finish(outputs)
            more = _cuts_of(program, lengths)
            if all(more[source] <= cuts.get(source, set()) for source in more):
                return program, lengths, translation.weights
            for source, at in more.items():
                cuts.setdefault(source, set()).update(at)

    def __init__(
        self,
        shapes: Mapping[Ref, tuple[int, ...]],
        widths: Sequence[int],
        cuts: Mapping[tuple[Any, ...], set[int]],
    ) -> None:
        self.builder = Builder()
        self.shapes = shapes
        self.weights: list[tuple[Ref, str, int]] = []
        self.rows: dict[Ref, Rows] = {}
        self.widths = widths
        for i, width in enumerate(widths):
            at = (0,) if i == 0 else (i - 1, 0, 1)
            source = self.builder.source("p" if i == 0 else "state", width, *at)
            edges = sorted(cuts.get(("p",) if i == 0 else ("state", i - 1), set()) - {0, width})
            steps = [b - a for a, b in zip([0, *edges], [*edges, width], strict=True)]
            self.rows[Ref(i)] = Rows((source,)).cut(steps)

    def call(self, call: Any) -> None:
        """Follow one call."""
        name = call.function.__name__
        translate = FUNCTIONS.get(name)
        if translate is None:
            raise Untranslatable(f"{name} is no operation on rows, in {call.line}")
        try:
            result = translate(
                self,
                *map(self._known, call.args),
                **{k: self._known(v) for k, v in call.kwargs.items()},
            )
        except Untranslatable as reason:
            raise Untranslatable(f"{name}: {reason}, in {call.line}") from None
        except TypeError:
            raise Untranslatable(
                f"{name} with these arguments is no operation on rows, in {call.line}"
            ) from None
        refs = call.results
        several = isinstance(refs, tuple | list)
        for ref, rows in zip(refs, result, strict=True) if several else [(refs, result)]:
            expected = self.shapes[ref]
            actual = (expected[0],) if rows.flat else (expected[0], rows.width)
            if expected != actual:
                raise Untranslatable(f"{name} gives a tensor of shape {expected}, in {call.line}")
            self.rows[ref] = rows

    def _known(self, argument: Any) -> Any:
        if isinstance(argument, Ref):
            return self.rows.get(argument, argument)
        if isinstance(argument, tuple | list):
            return type(argument)(self._known(x) for x in argument)
        if isinstance(argument, Tensor):
            raise Untranslatable("a tensor inside another argument")
        return argument

    def finish(self, outputs: Sequence[Ref]) -> tuple[Program, tuple[int, ...]]:
        """Return the program of the states, and of how many parts each is."""
        parts = [self._result(ref) for ref in outputs]
        lengths: list[int] = []
        places: list[tuple[int, int]] = []  # of each part: its state, and how many steps back
        results: dict[tuple[Any, ...], Expr] = {}
        for k, rows in enumerate(parts):
            if k > 0 and rows.columns == self.rows[Ref(k)].columns:  # it is what part k − 1 was
                lengths[-1] += 1
            else:
                lengths.append(1)
                start = 0
                for column in rows.columns:
                    results["new", len(lengths) - 1, start] = column
                    start += column.width
            places.append((len(lengths) - 1, lengths[-1]))
        program = self.builder.finish(results)
        values = []
        for v in program.values:
            if v.op == "state":
                state, delay = places[v.at[0]]
                values.append(v._replace(at=(state, v.at[1], delay)))
            else:
                values.append(v)
        return Program(tuple(values), program.results), tuple(lengths)

    def _result(self, ref: Ref) -> Rows:
        if ref not in self.rows:
            raise Untranslatable("it returns a tensor that is not made of its rows")
        return self.rows[ref]

    # What the functions below are made of.

    def operand(self, value: Any, width: int) -> Rows:
        """Return rows, a number or a vector of weights as columns."""
        if isinstance(value, Rows):
            return value
        if isinstance(value, Ref):
            shape = self.shapes[value]
            if math.prod(shape) not in (1, width) or (shape and shape[-1] != math.prod(shape)):
                raise Untranslatable(f"a tensor of shape {shape} beside rows of {width}")
            return Rows(
                (self.builder.source("vector", width, self.weight(value, "vector", width), 0),)
            )
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
        given = [value for value in values if isinstance(value, Rows)]
        width = max(rows.width for rows in given)
        vectors = [math.prod(self.shapes[v]) for v in values if isinstance(v, Ref)]
        width = max([width, *vectors])
        flat = all(rows.flat for rows in given)
        if not flat and any(rows.flat for rows in given) and width > 1:
            raise Untranslatable("a flat tensor beside rows")
        operands = [self.operand(value, width) for value in values]
        wide = [rows for rows in operands if rows.width == width]
        edges = sorted({e for rows in wide for e in accumulate(c.width for c in rows.columns)})
        steps = [b - a for a, b in zip([0, *edges[:-1]], edges, strict=True)]
        cut = [
            rows.cut(steps).columns
            if rows.width == width
            else [_spread(rows, step) for step in steps]
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

    def product(self, rows: Rows, weight: int, width: int) -> Rows:
        """Return z M."""
        total: Expr | None = None
        row = 0
        for column in rows.columns:
            term = self.builder.product(column, width, weight, row, 0)
            total = term if total is None else total + term
            row += column.width
        assert total is not None
        return Rows((total,))


def _spread(rows: Rows, width: int) -> Expr:
    (column,) = rows.columns
    return column.builder.spread(column, width)


def _cuts_of(program: Program, lengths: Sequence[int]) -> dict[tuple[Any, ...], set[int]]:
    """Return where the columns of p and of the states must be cut for no two values to overlap."""
    spans: dict[tuple[Any, ...], set[tuple[int, int]]] = {}
    for v in program.values:
        if v.op == "p":
            spans.setdefault(("p",), set()).add((v.at[0], v.at[0] + v.width))
        if v.op == "state":
            key = ("state", sum(lengths[: v.at[0]]) + v.at[2] - 1)
            spans.setdefault(key, set()).add((v.at[1], v.at[1] + v.width))
    cuts: dict[tuple[Any, ...], set[int]] = {}
    for source, blocks in spans.items():
        ordered = sorted(blocks)
        overlap = any(b[0] < a[1] for a, b in pairwise(ordered))
        cuts[source] = {edge for block in blocks for edge in block} if overlap else set()
    return cuts


# ---- torch's functions, by name


def _unary(make: Callable[[Expr], Expr]) -> Callable[..., Rows]:
    def translate(t: Translation, x: Rows, inplace: bool = False, **_: Any) -> Rows:
        _refuse_in_place(inplace)
        return x.each(make)

    return translate


def _refuse_in_place(inplace: bool) -> None:
    if inplace:
        raise Untranslatable("it changes a tensor in place")


def _binary(make: Callable[[Expr, Expr], Expr]) -> Callable[..., Rows]:
    return lambda t, a, b: t.elementwise(make, a, b)


def _swapped(make: Callable[[Expr, Expr], Expr]) -> Callable[..., Rows]:
    return lambda t, a, b: t.elementwise(make, b, a)


def _op(name: str) -> Callable[..., Expr]:
    return lambda *args: args[0].builder.apply(name, *args)


def _add(t: Translation, a: Any, b: Any, *, alpha: float = 1) -> Rows:
    return t.elementwise(lambda x, y: x + y * float(alpha), a, b)


def _sub(t: Translation, a: Any, b: Any, *, alpha: float = 1) -> Rows:
    return t.elementwise(lambda x, y: x - y * float(alpha), a, b)


def _div(t: Translation, a: Any, b: Any, *, rounding_mode: Any = None) -> Rows:
    if rounding_mode is not None:
        raise Untranslatable("it rounds")
    return t.elementwise(lambda x, y: x / y, a, b)


def _pow(t: Translation, a: Any, n: Any) -> Rows:
    if isinstance(a, float | int) and isinstance(n, Rows) and a > 0:
        return n.each(lambda x: function("exp", x * math.log(a)))
    if not isinstance(a, Rows) or not isinstance(n, Real):
        raise Untranslatable("an exponent that is no number")
    simple: dict[float, Callable[[Expr], Expr]] = {
        1.0: lambda x: x,
        2.0: lambda x: x * x,
        3.0: lambda x: x * x * x,
        0.5: lambda x: function("sqrt", x),
        -1.0: lambda x: 1.0 / x,
        -0.5: lambda x: 1.0 / function("sqrt", x),
    }
    power = simple.get(float(n), lambda x: x.builder.apply("pow", x, at=(float(n),)))
    return a.each(power)


def _clamp(t: Translation, x: Rows, min: Any = None, max: Any = None) -> Rows:  # noqa: A002
    rows = x
    for limit, beyond in ((min, lambda a, b: greater(b, a)), (max, greater)):
        if limit is not None:
            rows = t.elementwise(lambda a, b, beyond=beyond: where(beyond(a, b), b, a), rows, limit)
    return rows


def _hardtanh(
    t: Translation, x: Rows, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False
) -> Rows:
    _refuse_in_place(inplace)
    at_least = _op("at_least")

    def limited(a: Expr) -> Expr:
        low, high = (a.builder.constant(float(v), a.width) for v in (min_val, max_val))
        return where(at_least(a, high), high, where(at_least(low, a), low, a))

    return x.each(limited)


def _softplus(t: Translation, x: Rows, beta: float = 1, threshold: float = 20) -> Rows:
    def smooth(a: Expr) -> Expr:
        z = a * float(beta)
        decay = function("exp", -function("abs", z))
        zero = a.builder.constant(0.0, a.width)
        soft = (a.builder.apply("maximum", z, zero) + function("log1p", decay)) / float(beta)
        return where(greater(z, float(threshold)), a, soft)

    return x.each(smooth)


def _elu(t: Translation, x: Rows, alpha: float = 1.0, inplace: bool = False) -> Rows:
    _refuse_in_place(inplace)

    def unit(a: Expr) -> Expr:
        is_up = greater(a, 0.0)
        return where(is_up, a, function("expm1", where(is_up, 0.0, a)) * float(alpha))

    return x.each(unit)


def _leaky_relu(
    t: Translation, x: Rows, negative_slope: float = 0.01, inplace: bool = False
) -> Rows:
    _refuse_in_place(inplace)
    return x.each(lambda a: where(greater(a, 0.0), a, a * float(negative_slope)))


def _gelu(t: Translation, x: Rows, approximate: str = "none") -> Rows:
    if approximate == "none":
        return x.each(lambda a: a * 0.5 * (function("erf", a * math.sqrt(0.5)) + 1.0))
    k = math.sqrt(2 / math.pi)
    return x.each(lambda a: a * 0.5 * (function("tanh", (a + a * a * a * 0.044715) * k) + 1.0))


def _lerp(t: Translation, a: Any, b: Any, weight: Any) -> Rows:
    return t.elementwise(lambda x, y, w: x + w * (y - x), a, b, weight)


def _where(t: Translation, mask: Any, a: Any, b: Any) -> Rows:
    return t.elementwise(where, mask, a, b)


def _require_row(dim: Any, rows: Rows) -> None:
    axes = dim if isinstance(dim, tuple | list) else (dim,)
    if rows.flat or any(axis not in (1, -1) for axis in axes) or len(axes) != 1:
        raise Untranslatable(f"dimension {dim}; what mixes rows is not one step of each")


def _sum(t: Translation, x: Rows, dim: Any = None, keepdim: bool = False) -> Rows:
    _require_row(dim, x)
    return Rows((t.sum(x),), flat=not keepdim)


def _mean(t: Translation, x: Rows, dim: Any = None, keepdim: bool = False) -> Rows:
    return _sum(t, x, dim, keepdim).each(lambda s: s * (1 / x.width))


def _exponentials(t: Translation, x: Rows) -> tuple[Rows, Expr]:
    """Return x less its largest, and Σ exp of that."""
    less = t.elementwise(lambda a, m: a - m, x, Rows((t.largest(x),)))
    return less, t.sum(less.each(lambda a: function("exp", a)))


def _softmax(t: Translation, x: Rows, dim: Any = None, **_: Any) -> Rows:
    _require_row(dim, x)
    less, total = _exponentials(t, x)
    return t.elementwise(lambda a, s: function("exp", a) / s, less, Rows((total,)))


def _log_softmax(t: Translation, x: Rows, dim: Any = None, **_: Any) -> Rows:
    _require_row(dim, x)
    less, total = _exponentials(t, x)
    return t.elementwise(lambda a, s: a - s, less, Rows((function("log", total),)))


def _layer_norm(
    t: Translation,
    x: Rows,
    shape: Any,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    *_: Any,
) -> Rows:
    _require_whole_row(x, shape)
    mean = Rows((t.sum(x) * (1 / x.width),))
    rows = t.elementwise(lambda a, m: a - m, x, mean)
    return _scaled(t, rows, weight, bias, eps)


def _rms_norm(
    t: Translation, x: Rows, shape: Any, weight: Any = None, eps: float | None = None
) -> Rows:
    _require_whole_row(x, shape)
    if eps is None:
        raise Untranslatable("eps is not given")
    return _scaled(t, x, weight, None, eps)


def _require_whole_row(x: Rows, shape: Any) -> None:
    if tuple(shape) != (x.width,):
        raise Untranslatable(f"it normalises over {tuple(shape)}; a row has {x.width}")


def _scaled(t: Translation, x: Rows, weight: Any, bias: Any, eps: float) -> Rows:
    """Return weight ⊙ x / √(mean x² + eps) + bias."""
    square = t.sum(x.each(lambda a: a * a)) * (1 / x.width)
    rows = t.elementwise(lambda a, s: a / s, x, Rows((function("sqrt", square + eps),)))
    if weight is not None:
        rows = t.elementwise(lambda a, w: a * w, rows, weight)
    return rows if bias is None else t.elementwise(lambda a, b: a + b, rows, bias)


def _matmul(t: Translation, x: Any, m: Any) -> Rows:
    if not isinstance(x, Rows) or not isinstance(m, Ref) or x.flat:
        raise Untranslatable("a product that is not of rows with a matrix of weights")
    shape = t.shapes[m]
    if len(shape) == 1:
        return Rows(t.product(x, t.weight(m, "column"), 1).columns, flat=True)
    if len(shape) != 2:
        raise Untranslatable(f"a matrix of shape {shape}")
    return t.product(x, t.weight(m, "matrix"), shape[1])


def _linear(t: Translation, x: Any, weight: Any, bias: Any = None) -> Rows:
    if not isinstance(x, Rows) or not isinstance(weight, Ref):
        raise Untranslatable("a product that is not of rows with a matrix of weights")
    rows = t.product(x, t.weight(weight, "transposed"), t.shapes[weight][0])
    return rows if bias is None else _add(t, rows, bias)


def _addmm(t: Translation, a: Any, x: Any, m: Any, *, beta: float = 1, alpha: float = 1) -> Rows:
    rows = _matmul(t, x, m)
    scaled = rows if alpha == 1 else rows.each(lambda v: v * float(alpha))
    return t.elementwise(lambda u, v: u * float(beta) + v, a, scaled)


def _chunk(t: Translation, x: Rows, chunks: int, dim: int = 0) -> tuple[Rows, ...]:
    return _split(t, x, -(-x.width // chunks), dim)


def _split(t: Translation, x: Rows, size: Any, dim: int = 0) -> tuple[Rows, ...]:
    _require_row(dim, x)
    W = x.width
    widths = [min(size, W - i) for i in range(0, W, size)] if isinstance(size, int) else list(size)
    edges = [0, *accumulate(widths)]
    return tuple(x.slice(a, b) for a, b in pairwise(edges))


def _narrow(t: Translation, x: Rows, dim: int, start: int, length: int) -> Rows:
    _require_row(dim, x)
    return x.slice(start % x.width, start % x.width + length)


def _item(t: Translation, x: Rows, key: Any) -> Rows:
    keys = list(key) if isinstance(key, tuple) else [key]
    everything = slice(None)
    if len(keys) == 2 and keys[0] in (Ellipsis, everything) and not x.flat:
        columns = keys[1]
        if columns is None and keys[0] is Ellipsis:
            raise Untranslatable("a new dimension")
        if isinstance(columns, slice) and columns.step in (None, 1):
            start, stop, _ = columns.indices(x.width)
            return x.slice(start, stop)
        if isinstance(columns, int):
            return Rows(x.slice(columns % x.width, columns % x.width + 1).columns, flat=True)
    if keys in ([everything, None], [Ellipsis, None]) and x.flat:
        return Rows(x.columns)
    if all(k in (Ellipsis, everything) for k in keys):
        return x
    raise Untranslatable(f"rows by {key}")


def _unsqueeze(t: Translation, x: Rows, dim: int) -> Rows:
    if not x.flat or dim not in (1, -1):
        raise Untranslatable("a new dimension")
    return Rows(x.columns)


def _squeeze(t: Translation, x: Rows, dim: int) -> Rows:
    if x.flat or dim not in (1, -1):
        raise Untranslatable("a dimension less")
    return Rows(x.columns, flat=x.width == 1)


def _cat(t: Translation, parts: Any, dim: int = 0) -> Rows:
    if any(not isinstance(x, Rows) or x.flat for x in parts):
        raise Untranslatable("what is joined is not all rows")
    _require_row(dim, parts[0])
    return Rows(tuple(column for x in parts for column in x.columns))


def _expand(t: Translation, x: Rows, *sizes: Any) -> Rows:
    shape = sizes[0] if len(sizes) == 1 and isinstance(sizes[0], tuple | list) else sizes
    if x.flat or len(shape) != 2 or (x.width != 1 and shape[1] not in (-1, x.width)):
        raise Untranslatable(f"rows expanded to {tuple(shape)}")
    return x if x.width == shape[1] or shape[1] == -1 else Rows((_spread(x, shape[1]),))


def _expand_as(t: Translation, x: Rows, other: Rows) -> Rows:
    return _expand(t, x, -1, other.width)


def _view(t: Translation, x: Rows, *sizes: Any) -> Rows:
    shape = sizes[0] if len(sizes) == 1 and isinstance(sizes[0], tuple | list) else sizes
    if len(shape) == 2 and shape[1] in (x.width, -1):
        return Rows(x.columns)
    if len(shape) == 1 and x.width == 1:
        return Rows(x.columns, flat=True)
    raise Untranslatable(f"rows as {tuple(shape)}")


def _same(t: Translation, x: Rows, *_: Any, **__: Any) -> Rows:
    return x


def _filled(value: float) -> Callable[..., Rows]:
    return lambda t, x, **_: x.each(lambda a: a.builder.constant(value, a.width))


def _full_like(t: Translation, x: Rows, fill_value: float, **_: Any) -> Rows:
    return _filled(float(fill_value))(t, x)


def _dropout(
    t: Translation, x: Rows, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Rows:
    _refuse_in_place(inplace)
    if training and p > 0:
        raise Untranslatable("it draws random numbers")
    return x


def _masked_fill(t: Translation, x: Any, mask: Any, value: Any) -> Rows:
    return t.elementwise(where, mask, value, x)


def _addcmul(t: Translation, a: Any, b: Any, c: Any, *, value: float = 1) -> Rows:
    return t.elementwise(lambda x, y, z: x + y * z * float(value), a, b, c)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{
        name: _unary(_op(name))
        for name in (
            "abs",
            "sqrt",
            "exp",
            "expm1",
            "log",
            "log1p",
            "tanh",
            "sigmoid",
            "relu",
            "sin",
            "cos",
            "erf",
        )
    },
    "neg": _unary(lambda a: -a),
    "square": _unary(lambda a: a * a),
    "reciprocal": _unary(lambda a: 1.0 / a),
    "rsqrt": _unary(lambda a: 1.0 / function("sqrt", a)),
    "silu": _unary(lambda a: a * function("sigmoid", a)),
    "relu6": lambda t, x, inplace=False: _hardtanh(t, x, 0.0, 6.0, inplace),
    "logical_not": _unary(lambda a: 1.0 - a),
    "add": _add,
    "sub": _sub,
    "rsub": lambda t, a, b: _sub(t, b, a),
    "mul": _binary(lambda a, b: a * b),
    "div": _div,
    "rdiv": lambda t, a, b: _div(t, b, a),
    "pow": _pow,
    "rpow": lambda t, a, b: _pow(t, b, a),
    "minimum": _binary(_op("minimum")),
    "maximum": _binary(_op("maximum")),
    "gt": _binary(greater),
    "lt": _swapped(greater),
    "ge": _binary(_op("at_least")),
    "le": _swapped(_op("at_least")),
    "eq": _binary(_op("equal")),
    "ne": _binary(lambda a, b: 1.0 - _op("equal")(a, b)),
    "logical_and": _binary(lambda a, b: a * b),
    "logical_or": _binary(_op("maximum")),
    "where": _where,
    "masked_fill": _masked_fill,
    "lerp": _lerp,
    "addcmul": _addcmul,
    "clamp": _clamp,
    "clamp_min": lambda t, x, low: _clamp(t, x, min=low),
    "clamp_max": lambda t, x, high: _clamp(t, x, max=high),
    "hardtanh": _hardtanh,
    "softplus": _softplus,
    "elu": _elu,
    "leaky_relu": _leaky_relu,
    "gelu": _gelu,
    "sum": _sum,
    "mean": _mean,
    "softmax": _softmax,
    "log_softmax": _log_softmax,
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "matmul": _matmul,
    "linear": _linear,
    "addmm": _addmm,
    "chunk": _chunk,
    "split": _split,
    "narrow": _narrow,
    "__getitem__": _item,
    "unsqueeze": _unsqueeze,
    "squeeze": _squeeze,
    "cat": _cat,
    "expand": _expand,
    "expand_as": _expand_as,
    "view": _view,
    "dropout": _dropout,
    "clone": _same,
    "contiguous": _same,
    "to": _same,
    "zeros_like": _filled(0.0),
    "ones_like": _filled(1.0),
    "full_like": _full_like,
}
"""What each of torch's functions is on rows, by its name."""

SAME_AS = {
    "__add__": "add",
    "__radd__": "add",
    "__sub__": "sub",
    "__rsub__": "rsub",
    "__mul__": "mul",
    "__rmul__": "mul",
    "multiply": "mul",
    "subtract": "sub",
    "divide": "div",
    "true_divide": "div",
    "__truediv__": "div",
    "__rtruediv__": "rdiv",
    "__rdiv__": "rdiv",
    "__div__": "div",
    "__neg__": "neg",
    "negative": "neg",
    "__pow__": "pow",
    "__rpow__": "rpow",
    "__abs__": "abs",
    "absolute": "abs",
    "__gt__": "gt",
    "__lt__": "lt",
    "__ge__": "ge",
    "__le__": "le",
    "__eq__": "eq",
    "__ne__": "ne",
    "greater": "gt",
    "less": "lt",
    "greater_equal": "ge",
    "less_equal": "le",
    "not_equal": "ne",
    "__and__": "logical_and",
    "bitwise_and": "logical_and",
    "__or__": "logical_or",
    "bitwise_or": "logical_or",
    "__invert__": "logical_not",
    "bitwise_not": "logical_not",
    "mm": "matmul",
    "__matmul__": "matmul",
    "concat": "cat",
    "concatenate": "cat",
    "reshape": "view",
    "clip": "clamp",
    "split_with_sizes": "split",
    "float": "to",
    "double": "to",
    "type_as": "to",
    "view_as": "to",
    "rename": "to",
    "_softmax": "softmax",
}
"""Other names of the same."""
FUNCTIONS |= {name: FUNCTIONS[of] for name, of in SAME_AS.items()}
