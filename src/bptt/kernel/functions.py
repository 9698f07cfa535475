"""What torch's functions are on rows, by their names.

Each takes the writer of a program, then what torch's function takes, with Rows for tensors of rows
and a Ref for a weight.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import accumulate, pairwise
from numbers import Real
from typing import Any

import torch

from bptt.kernel.program import Expr
from bptt.kernel.rows import Ref, Rows, Untranslatable, Writer, spread
from bptt.kernel.rules import function, greater, where


def _unary(make: Callable[[Expr], Expr]) -> Callable[..., Rows]:
    def translate(t: Writer, x: Rows, inplace: bool = False, **_: Any) -> Rows:
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


def _add(t: Writer, a: Any, b: Any, *, alpha: float = 1) -> Rows:
    return t.elementwise(lambda x, y: x + y * float(alpha), a, b)


def _sub(t: Writer, a: Any, b: Any, *, alpha: float = 1) -> Rows:
    return t.elementwise(lambda x, y: x - y * float(alpha), a, b)


def _div(t: Writer, a: Any, b: Any, *, rounding_mode: Any = None) -> Rows:
    if rounding_mode is not None:
        raise Untranslatable("it rounds")
    return t.elementwise(lambda x, y: x / y, a, b)


def _pow(t: Writer, a: Any, n: Any) -> Rows:
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


def _clamp(t: Writer, x: Rows, min: Any = None, max: Any = None) -> Rows:  # noqa: A002
    rows = x
    for limit, beyond in ((min, lambda a, b: greater(b, a)), (max, greater)):
        if limit is not None:
            rows = t.elementwise(lambda a, b, beyond=beyond: where(beyond(a, b), b, a), rows, limit)
    return rows


def _hardtanh(
    t: Writer, x: Rows, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False
) -> Rows:
    _refuse_in_place(inplace)
    at_least = _op("at_least")

    def limited(a: Expr) -> Expr:
        low, high = (a.builder.constant(float(v), a.width) for v in (min_val, max_val))
        return where(at_least(a, high), high, where(at_least(low, a), low, a))

    return x.each(limited)


def _softplus(t: Writer, x: Rows, beta: float = 1, threshold: float = 20) -> Rows:
    def smooth(a: Expr) -> Expr:
        z = a * float(beta)
        decay = function("exp", -function("abs", z))
        zero = a.builder.constant(0.0, a.width)
        soft = (a.builder.apply("maximum", z, zero) + function("log1p", decay)) / float(beta)
        return where(greater(z, float(threshold)), a, soft)

    return x.each(smooth)


def _elu(t: Writer, x: Rows, alpha: float = 1.0, inplace: bool = False) -> Rows:
    _refuse_in_place(inplace)

    def unit(a: Expr) -> Expr:
        is_up = greater(a, 0.0)
        return where(is_up, a, function("expm1", where(is_up, 0.0, a)) * float(alpha))

    return x.each(unit)


def _leaky_relu(t: Writer, x: Rows, negative_slope: float = 0.01, inplace: bool = False) -> Rows:
    _refuse_in_place(inplace)
    return x.each(lambda a: where(greater(a, 0.0), a, a * float(negative_slope)))


def _gelu(t: Writer, x: Rows, approximate: str = "none") -> Rows:
    if approximate == "none":
        return x.each(lambda a: a * 0.5 * (function("erf", a * math.sqrt(0.5)) + 1.0))
    k = math.sqrt(2 / math.pi)
    return x.each(lambda a: a * 0.5 * (function("tanh", (a + a * a * a * 0.044715) * k) + 1.0))


def _lerp(t: Writer, a: Any, b: Any, weight: Any) -> Rows:
    return t.elementwise(lambda x, y, w: x + w * (y - x), a, b, weight)


def _where(t: Writer, mask: Any, a: Any, b: Any) -> Rows:
    return t.elementwise(where, mask, a, b)


def _require_row(dim: Any, rows: Rows) -> None:
    axes = dim if isinstance(dim, tuple | list) else (dim,)
    if rows.flat or any(axis not in (1, -1) for axis in axes) or len(axes) != 1:
        raise Untranslatable(f"dimension {dim}; what mixes rows is not one step of each")


def _sum(t: Writer, x: Rows, dim: Any = None, keepdim: bool = False) -> Rows:
    _require_row(dim, x)
    return Rows((t.sum(x),), flat=not keepdim)


def _amax(t: Writer, x: Rows, dim: Any = None, keepdim: bool = False) -> Rows:
    _require_row(dim, x)
    return Rows((t.largest(x),), flat=not keepdim)


def _argmax(t: Writer, x: Rows, dim: Any = None, keepdim: bool = False) -> Rows:
    _require_row(dim, x)
    return Rows((t.builder.along("argmax", t.one_column(x)),), flat=not keepdim)


def _choose(t: Writer, weights: Rows, share: Rows) -> Rows:
    if weights.flat or not share.flat:
        raise Untranslatable("weights that are no rows, or a share that is not one number a row")
    return Rows((t.builder.choose(t.one_column(weights), t.one_column(share)),), flat=True)


def _mean(t: Writer, x: Rows, dim: Any = None, keepdim: bool = False) -> Rows:
    return _sum(t, x, dim, keepdim).each(lambda s: s * (1 / x.width))


def _exponentials(t: Writer, x: Rows) -> tuple[Rows, Expr]:
    """Return x less its largest, and Σ exp of that."""
    less = t.elementwise(lambda a, m: a - m, x, Rows((t.largest(x),)))
    return less, t.sum(less.each(lambda a: function("exp", a)))


def _softmax(t: Writer, x: Rows, dim: Any = None, **_: Any) -> Rows:
    _require_row(dim, x)
    less, total = _exponentials(t, x)
    return t.elementwise(lambda a, s: function("exp", a) / s, less, Rows((total,)))


def _log_softmax(t: Writer, x: Rows, dim: Any = None, **_: Any) -> Rows:
    _require_row(dim, x)
    less, total = _exponentials(t, x)
    return t.elementwise(lambda a, s: a - s, less, Rows((function("log", total),)))


def _layer_norm(
    t: Writer,
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


def _rms_norm(t: Writer, x: Rows, shape: Any, weight: Any = None, eps: float | None = None) -> Rows:
    _require_whole_row(x, shape)
    if eps is None:
        raise Untranslatable("eps is not given")
    return _scaled(t, x, weight, None, eps)


def _require_whole_row(x: Rows, shape: Any) -> None:
    if tuple(shape) != (x.width,):
        raise Untranslatable(f"it normalises over {tuple(shape)}; a row has {x.width}")


def _scaled(t: Writer, x: Rows, weight: Any, bias: Any, eps: float) -> Rows:
    """Return weight ⊙ x / √(mean x² + eps) + bias."""
    square = t.sum(x.each(lambda a: a * a)) * (1 / x.width)
    scale = Rows((1.0 / function("sqrt", square + eps),))  # one division a row, forward and back
    rows = t.elementwise(lambda a, s: a * s, x, scale)
    if weight is not None:
        rows = t.elementwise(lambda a, w: a * w, rows, weight)
    return rows if bias is None else t.elementwise(lambda a, b: a + b, rows, bias)


def _matmul(t: Writer, x: Any, m: Any) -> Rows:
    if not isinstance(x, Rows) or not isinstance(m, Ref) or x.flat:
        raise Untranslatable("a product that is not of rows with a matrix of weights")
    shape = t.shapes[m]
    if len(shape) == 1:
        return Rows(t.product(x, t.weight(m, "column"), 1).columns, flat=True)
    if len(shape) != 2:
        raise Untranslatable(f"a matrix of shape {shape}")
    return t.product(x, t.weight(m, "matrix"), shape[1])


def _linear(t: Writer, x: Any, weight: Any, bias: Any = None) -> Rows:
    if not isinstance(x, Rows) or not isinstance(weight, Ref):
        raise Untranslatable("a product that is not of rows with a matrix of weights")
    rows = t.product(x, t.weight(weight, "transposed"), t.shapes[weight][0])
    return rows if bias is None else _add(t, rows, bias)


def _addmm(t: Writer, a: Any, x: Any, m: Any, *, beta: float = 1, alpha: float = 1) -> Rows:
    rows = _matmul(t, x, m)
    scaled = rows if alpha == 1 else rows.each(lambda v: v * float(alpha))
    return t.elementwise(lambda u, v: u * float(beta) + v, a, scaled)


def _einsum(t: Writer, equation: Any, *operands: Any) -> Rows:
    if len(operands) == 1 and isinstance(operands[0], tuple | list):
        operands = tuple(operands[0])
    inputs, _, output = str(equation).replace(" ", "").partition("->")
    letters = inputs.split(",")
    if len(letters) == len(operands) == 2 and isinstance(operands[0], Ref):
        letters, operands = letters[::-1], operands[::-1]
    x, m = operands if len(operands) == 2 else (None, None)
    if isinstance(x, Rows) and isinstance(m, Ref) and len(letters[0]) == len(output) == 2:
        (row, k), (same_row, n) = tuple(letters[0]), tuple(output)
        kinds = {k + n: "matrix", n + k: "transposed"}
        if len({row, k, n}) == 3 and row == same_row and letters[1] in kinds:
            width = t.shapes[m][kinds[letters[1]] == "matrix"]
            return t.product(x, t.weight(m, kinds[letters[1]]), width)
    raise Untranslatable(f"{equation} is not rows times a matrix of weights")


def _chunk(t: Writer, x: Rows, chunks: int, dim: int = 0) -> tuple[Rows, ...]:
    return _split(t, x, -(-x.width // chunks), dim)


def _split(t: Writer, x: Rows, size: Any, dim: int = 0) -> tuple[Rows, ...]:
    _require_row(dim, x)
    W = x.width
    widths = [min(size, W - i) for i in range(0, W, size)] if isinstance(size, int) else list(size)
    edges = [0, *accumulate(widths)]
    return tuple(x.slice(a, b) for a, b in pairwise(edges))


def _narrow(t: Writer, x: Rows, dim: int, start: int, length: int) -> Rows:
    _require_row(dim, x)
    return x.slice(start % x.width, start % x.width + length)


def _embedding(  # noqa: PLR0917 (torch's own)
    t: Writer,
    numbers: Any,
    table: Any,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Rows:
    if padding_idx is not None or max_norm is not None or scale_grad_by_freq or sparse:
        raise Untranslatable("options of an embedding")
    if not isinstance(table, Ref):
        raise Untranslatable("a table that is no tensor of weights")
    return _row(t, table, numbers)


def _whole(t: Writer, x: Rows, *_: Any, **__: Any) -> Rows:
    return x.each(lambda a: function("trunc", a))


def _to(t: Writer, x: Rows, *args: Any, **named: Any) -> Rows:
    dtypes = [v for v in (*args, *named.values()) if isinstance(v, torch.dtype)]
    if torch.bool in dtypes:
        raise Untranslatable("numbers as truth values")
    return x if all(dtype.is_floating_point for dtype in dtypes) else _whole(t, x)


def _row(t: Writer, table: Ref, numbers: Any) -> Rows:
    if not isinstance(numbers, Rows):
        raise Untranslatable("it looks up what is not a row of a table")
    return t.look_up(numbers, table)


def _get(t: Writer, x: Any, key: Any) -> Rows:
    if isinstance(x, Rows) or not isinstance(key, Rows):
        return _item(t, x, key)
    count = float(t.shapes[x][0])
    return _row(t, x, key.each(lambda n: where(greater(-n, 0.0), n + count, n)))


def _item(t: Writer, x: Rows, key: Any) -> Rows:
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


def _unsqueeze(t: Writer, x: Rows, dim: int) -> Rows:
    if not x.flat or dim not in (1, -1):
        raise Untranslatable("a new dimension")
    return Rows(x.columns)


def _squeeze(t: Writer, x: Rows, dim: int) -> Rows:
    if x.flat or dim not in (1, -1):
        raise Untranslatable("a dimension less")
    return Rows(x.columns, flat=x.width == 1)


def _cat(t: Writer, parts: Any, dim: int = 0) -> Rows:
    if any(not isinstance(x, Rows) or x.flat for x in parts):
        raise Untranslatable("what is joined is not all rows")
    _require_row(dim, parts[0])
    return Rows(tuple(column for x in parts for column in x.columns))


def _expand(t: Writer, x: Rows, *sizes: Any) -> Rows:
    shape = sizes[0] if len(sizes) == 1 and isinstance(sizes[0], tuple | list) else sizes
    if x.flat or len(shape) != 2 or (x.width != 1 and shape[1] not in (-1, x.width)):
        raise Untranslatable(f"rows expanded to {tuple(shape)}")
    return x if x.width == shape[1] or shape[1] == -1 else Rows((spread(x, shape[1]),))


def _expand_as(t: Writer, x: Rows, other: Rows) -> Rows:
    return _expand(t, x, -1, other.width)


def _view(t: Writer, x: Rows, *sizes: Any) -> Rows:
    shape = sizes[0] if len(sizes) == 1 and isinstance(sizes[0], tuple | list) else sizes
    if len(shape) == 2 and shape[1] in (x.width, -1):
        return Rows(x.columns)
    if len(shape) == 1 and x.width == 1:
        return Rows(x.columns, flat=True)
    raise Untranslatable(f"rows as {tuple(shape)}")


def _same(t: Writer, x: Rows, *_: Any, **__: Any) -> Rows:
    return x


def _filled(value: float) -> Callable[..., Rows]:
    return lambda t, x, **_: x.each(lambda a: a.builder.constant(value, a.width))


def _full_like(t: Writer, x: Rows, fill_value: float, **_: Any) -> Rows:
    return _filled(float(fill_value))(t, x)


def _dropout(
    t: Writer, x: Rows, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Rows:
    _refuse_in_place(inplace)
    if training and p > 0:
        raise Untranslatable("it draws random numbers")
    return x


def _masked_fill(t: Writer, x: Any, mask: Any, value: Any) -> Rows:
    return t.elementwise(where, mask, value, x)


def _addcmul(t: Writer, a: Any, b: Any, c: Any, *, value: float = 1) -> Rows:
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
    "amax": _amax,
    "argmax": _argmax,
    "choose": _choose,
    "softmax": _softmax,
    "log_softmax": _log_softmax,
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "matmul": _matmul,
    "linear": _linear,
    "einsum": _einsum,
    "addmm": _addmm,
    "chunk": _chunk,
    "split": _split,
    "narrow": _narrow,
    "__getitem__": _get,
    "unsqueeze": _unsqueeze,
    "squeeze": _squeeze,
    "cat": _cat,
    "expand": _expand,
    "expand_as": _expand_as,
    "view": _view,
    "dropout": _dropout,
    "clone": _same,
    "detach": _unary(lambda a: function("detach", a)),
    "contiguous": _same,
    "to": _to,
    "long": _whole,
    "trunc": _whole,
    "embedding": _embedding,
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
    "view_as": "clone",
    "rename": "clone",
    "fix": "trunc",
    "_softmax": "softmax",
}
"""Other names of the same."""
FUNCTIONS |= {name: FUNCTIONS[of] for name, of in SAME_AS.items()}
