"""Expressions that are one native operation: found in a program, and put in their place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache

from bptt.kernel.program import Builder, Expr, Program, Value

FUSED: Mapping[str, Callable[..., Expr]] = {
    "tanh_back": lambda d, y: d * (1.0 - y * y),
    "sigmoid_back": lambda d, y: d * y * (1.0 - y),
    "lerp": lambda a, b, w: a + w * (b - a),
    "mul_difference": lambda a, b, c: a * (b - c),
    "mul_rest": lambda a, b: a - a * b,
    "mul_add": lambda a, b, c: a * b + c,
}
"""Which expressions are one native operation, the larger ones first."""

COMMUTING = ("add", "mul", "minimum", "maximum", "equal")


def fuse(program: Program) -> Program:
    """Return a program with the FUSED expressions as one operation each."""
    values, uses = program.values, _uses(program)
    patterns = {name: _pattern(make) for name, make in FUSED.items()}

    def matched(line: int, names: Iterable[str]) -> tuple[str, dict[int, int]] | None:
        for name in names:
            pattern, top, _ = patterns[name]
            bound = _match(values, line, pattern, top, {})
            if bound is not None and all(
                fits(inner, name) for inner in _inner(values, line, bound)
            ):
                return name, bound
        return None

    def fits(inner: int, name: str) -> bool:
        """Whether a line may vanish into this pattern: used there alone, and in no larger one."""
        larger = list(patterns)[: list(patterns).index(name)]
        return uses[inner] == 1 and matched(inner, larger) is None

    builder = Builder()
    lines: list[int] = []
    for line, value in enumerate(values):
        fused, match = value, matched(line, patterns)
        if match is not None and not _adds_product(values, match):
            name, bound = match
            fused = Value(name, tuple(bound[i] for i in range(len(bound))), value.width)
        lines.append(builder.line(fused._replace(args=tuple(lines[arg] for arg in fused.args))))
    return builder.finish({name: Expr(builder, lines[at]) for name, at in program.results.items()})


def fuse_around(program: Program, lines: Sequence[int]) -> tuple[Program, list[int]]:
    """Return a program with fused operations that still has some lines, and where they are."""
    marked = Program(
        program.values, {**program.results, **{("marked", i): line for i, line in enumerate(lines)}}
    )
    fused = fuse(marked)
    results = {name: line for name, line in fused.results.items() if name[0] != "marked"}
    return Program(fused.values, results), [fused.results["marked", i] for i in range(len(lines))]


def _adds_product(values: Sequence[Value], match: tuple[str, dict[int, int]]) -> bool:
    """Whether what is added is a product, which takes it up where it is stored."""
    name, bound = match
    return name == "mul_add" and values[bound[2]].op in ("product", "back")


def _uses(program: Program) -> list[int]:
    """Return how often each line is used, as a result too."""
    uses = [0] * len(program.values)
    for line in [*program.results.values(), *(arg for v in program.values for arg in set(v.args))]:
        uses[line] += 1
    return uses


def _inner(values: Sequence[Value], line: int, bound: Mapping[int, int]) -> list[int]:
    """Return the operations between a line and the operands of its pattern, but for constants."""
    ends, inner, waiting = set(bound.values()), set[int](), list(values[line].args)
    while waiting:
        at = waiting.pop()
        if at not in ends and values[at].args:
            inner.add(at)
            waiting.extend(values[at].args)
    return list(inner)


@cache
def _pattern(make: Callable[..., Expr]) -> tuple[list[Value], int, int]:
    """Return the lines of a pattern, the last one, and how many operands it has."""
    builder, count = Builder(), make.__code__.co_argcount
    operands = [builder.source("operand", 2, i) for i in range(count)]
    return builder.values, make(*operands).line, count


def _match(
    values: Sequence[Value], line: int, pattern: Sequence[Value], top: int, bound: dict[int, int]
) -> dict[int, int] | None:
    """Return which lines the operands of a pattern stand for, or None where it is another."""
    value, wanted = values[line], pattern[top]
    if wanted.op == "operand":
        (i,) = wanted.at
        return bound | {i: line} if bound.get(i, line) == line else None
    if value.op != wanted.op or value.at != wanted.at:
        return None
    orders = [value.args]
    if value.op in COMMUTING:
        orders.append(value.args[::-1])
    for args in orders:
        trial: dict[int, int] | None = dict(bound)
        for arg, part in zip(args, wanted.args, strict=True):
            trial = None if trial is None else _match(values, arg, pattern, part, trial)
        if trial is not None:
            return trial
    return None
