"""The derivative of a program: one rule an operation, and reverse mode over its lines.

With d = ∂L/∂y of a line y = op(a, b, …), a rule returns ∂L/∂a, ∂L/∂b, …: what d is times the
derivative, None where there is none. The conventions where a derivative does not exist are torch's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bptt.kernel.program import Builder, Expr, Program, Value

Rule = Callable[..., tuple[Expr | None, ...]]


def where(mask: Expr, a: Expr | float, b: Expr | float) -> Expr:
    """Return a where the mask is not 0, and b elsewhere."""
    a, b = (x if isinstance(x, Expr) else mask.builder.constant(x, mask.width) for x in (a, b))
    return mask.builder.apply("where", mask, a, b)


def greater(a: Expr, b: Expr | float) -> Expr:
    """Return 1 where a > b, else 0."""
    b = b if isinstance(b, Expr) else a.builder.constant(b, a.width)
    return a.builder.apply("greater", a, b)


def at_most_0(a: Expr) -> Expr:
    """Return 1 where a ≤ 0, else 0."""
    return a.builder.apply("at_least", a.builder.constant(0.0, a.width), a)


def function(name: str, a: Expr) -> Expr:
    """Return an elementwise function of a."""
    return a.builder.apply(name, a)


def _power(a: Expr, exponent: float) -> Expr:
    return a.builder.apply("pow", a, at=(exponent,))


def _of_larger(d: Expr, a: Expr, b: Expr) -> Expr:
    """Return d where a > b, half of it where they are equal."""
    return where(greater(a, b), d, where(a.builder.apply("equal", a, b), d * 0.5, 0.0))


RULES: Mapping[str, Rule] = {
    "copy": lambda d, y, a: (d,),
    "detach": lambda d, y, a: (None,),
    "add": lambda d, y, a, b: (d, d),
    "sub": lambda d, y, a, b: (d, -d),
    "mul": lambda d, y, a, b: (d * b, d * a) if a.line != b.line else (d * 2.0 * a, None),
    "div": lambda d, y, a, b: (d / b, -(d * y / b)),
    "neg": lambda d, y, a: (-d,),
    "trunc": lambda d, y, a: (None,),
    "abs": lambda d, y, a: (d * (greater(a, 0.0) - greater(-a, 0.0)),),
    "minimum": lambda d, y, a, b: (_of_larger(d, b, a), _of_larger(d, a, b)),
    "maximum": lambda d, y, a, b: (_of_larger(d, a, b), _of_larger(d, b, a)),
    "sqrt": lambda d, y, a: (d / (y * 2.0),),
    "exp": lambda d, y, a: (d * y,),
    "expm1": lambda d, y, a: (d * (y + 1.0),),
    "log": lambda d, y, a: (d / a,),
    "log1p": lambda d, y, a: (d / (a + 1.0),),
    "tanh": lambda d, y, a: (d * (1.0 - y * y),),
    "sigmoid": lambda d, y, a: (d * y * (1.0 - y),),
    "relu": lambda d, y, a: (where(at_most_0(y), 0.0, d),),
    "sin": lambda d, y, a: (d * function("cos", a),),
    "cos": lambda d, y, a: (-(d * function("sin", a)),),
    "pow": lambda d, y, a, n: (d * _power(a, n - 1.0) * n,),
    "erf": lambda d, y, a: (d * function("exp", -(a * a)) * (2 / math.sqrt(math.pi)),),
    "greater": lambda d, y, a, b: (None, None),
    "at_least": lambda d, y, a, b: (None, None),
    "equal": lambda d, y, a, b: (None, None),
    "where": lambda d, y, mask, a, b: (None, where(mask, d, 0.0), where(mask, 0.0, d)),
    "sum": lambda d, y, a: (d.builder.spread(d, a.width),),
    "max": lambda d, y, a: (None,),  # only where it is taken off before an exponential
    "argmax": lambda d, y, a: (None,),
    "choose": lambda d, y, weights, share: (None, None),
    "spread": lambda d, y, a: (d.builder.along("sum", d),),
}


@dataclass(frozen=True)
class Backward:
    """The gradient's program, and what the forward pass is to keep for it.

    saved: lines of the forward program whose results are kept, one by one.
    products: for each line z of the forward program that products were made of, their lines, each
    with its weight, first row and first column. look_ups: `at` of each line that looks up a row.
    """

    program: Program
    saved: tuple[int, ...]
    products: Mapping[int, tuple[tuple[int, Any], ...]]
    look_ups: Mapping[int, tuple[Any, ...]]


def reverse(program: Program, every: int = 1) -> Backward:
    """Return the program of a step's gradient: from those of its new parts to those of all sources.

    every: to how many of the first states a gradient comes from above at every step.

    A line that the rules need is read where it lies already (a state, a vector), computed again
    from such where that takes no product and no sum along the row (which is one number), and else
    kept: so a tanh layer keeps its states and no more, a GRU its gates and the candidate's product.
    """
    builder = _Reverse(program, every)
    for line in reversed(range(len(program.values))):
        builder.visit(line)
    return builder.finish()


class _Reverse:
    """One pass over the lines, from the last to the first."""

    def __init__(self, program: Program, every: int) -> None:
        self.program, self.builder = program, Builder()
        self.adjoints: dict[int, Expr] = {}
        self.results: dict[tuple[Any, ...], Expr] = {}
        self.products: dict[int, list[int]] = {}
        for (_, part, column), line in program.results.items():
            width = program.values[line].width
            self.add(line, self.builder.source("arrived", width, part, column))
            if part < every or any(
                v.op == "state" and v.at[0] == part and v.at[2] > 1 for v in program.values
            ):
                self.add(line, self.builder.source("above", width, part, column))
        for line, value in enumerate(program.values):
            if value.op == "product":
                self.products.setdefault(value.args[0], []).append(line)
        for lines in self.products.values():  # blocks that are side by side come side by side
            lines.sort(key=lambda line: program.values[line].at)

    def forward(self, line: int) -> Expr:
        """Return what stands for a line of the forward program, until it is known how it is had."""
        return self.builder.source("forward", self.program.values[line].width, line)

    def add(self, line: int, grad: Expr) -> None:
        """Add to ∂L/∂ of a line."""
        self.adjoints[line] = self.adjoints[line] + grad if line in self.adjoints else grad

    def visit(self, line: int) -> None:
        """Hand ∂L/∂ of a line on to what it was made of."""
        value = self.program.values[line]
        self._gather_products(line)
        d = self.adjoints.get(line)
        if d is None or value.op in ("constant", "product"):
            return
        if not value.args:
            name = (value.op, *value.at)
            assert name not in self.results, f"two values begin at {name}"  # each cut as the other
            self.results[name] = d
            return
        if value.op == "look_up":
            self.results["look_up", line] = d
            self.results["row", line] = self.forward(value.args[0])
            return
        y, *args = map(self.forward, (line, *value.args))
        grads = RULES[value.op](d, y, *args, *value.at)
        for arg, grad in zip(value.args, grads, strict=True):
            if grad is not None:
                self.add(arg, grad)

    def _gather_products(self, z: int) -> None:
        """Add Σ δ Mᵀ over the products that a line went into, all of which have been visited."""
        lines = [i for i in self.products.get(z, ()) if i in self.adjoints]
        if not lines:
            return
        deltas = [self.adjoints[i] for i in lines]
        for i, delta in zip(lines, deltas, strict=True):
            self.results["product", i] = delta
        self.results["z", z] = self.forward(z)
        args = tuple(delta.line for delta in deltas)
        at = tuple(self.program.values[i].at for i in lines)
        width = self.program.values[z].width
        self.add(z, Expr(self.builder, self.builder.line(Value("back", args, width, at))))

    def finish(self) -> Backward:
        """Return the program, with every line of the forward program that it needs."""
        draft = self.builder.finish(self.results)
        needed = sorted(v.at[0] for v in draft.values if v.op == "forward")
        sources = _Sources(self.program)
        for line in needed:
            sources.provide(line)
        final = Builder()
        lines: list[int] = []
        for value in draft.values:
            if value.op == "forward":
                lines.append(sources.write(final, value.at[0]).line)
            else:
                args = tuple(lines[arg] for arg in value.args)
                lines.append(final.line(value._replace(args=args)))
        results = {name: Expr(final, lines[line]) for name, line in draft.results.items()}
        products = {
            z: tuple((i, self.program.values[i].at) for i in made if ("product", i) in results)
            for z, made in self.products.items()
        }
        look_ups = {
            i: value.at for i, value in enumerate(self.program.values) if ("look_up", i) in results
        }
        return Backward(final.finish(results), tuple(sources.saved), products, look_ups)


class _Sources:
    """How the backward pass has the forward pass's values."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.saved: list[int] = []
        self.new = {line: at for (_, *at), line in reversed(list(program.results.items()))}

    def provide(self, line: int) -> None:
        """See to it that a line can be had; of one number in every column, that number is kept."""
        while self.program.values[line].op == "spread":
            (line,) = self.program.values[line].args
        if not self.has(line):
            self.saved.append(line)

    def has(self, line: int) -> bool:
        """Return whether a line can be had from states, vectors and what is kept."""
        value = self.program.values[line]
        if line in self.saved or line in self.new or value.op in ("state", "vector", "constant"):
            return True
        takes_long = value.op in ("p", "product", "sum", "max", "argmax", "choose")
        return not takes_long and all(map(self.has, value.args))

    def write(self, builder: Builder, line: int) -> Expr:
        """Write what a line of the forward program comes to."""
        value = self.program.values[line]
        if value.op in ("state", "vector", "constant"):
            return Expr(builder, builder.line(value))
        if line in self.new:
            return builder.source("new", value.width, *self.new[line])
        if line in self.saved:
            return builder.source("saved", value.width, line)
        args = tuple(self.write(builder, arg).line for arg in value.args)
        return Expr(builder, builder.line(value._replace(args=args)))
