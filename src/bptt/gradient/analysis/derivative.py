"""The derivative of a step at every time step of a run.

A step is sᵗ = F(pᵗ, sᵗ⁻¹). Once the states of a run are known, no step waits for another, so that
gradients d that arrive at many steps are taken one step back together:

    δp = (∂F/∂p)ᵀ d,    ∂L/∂sᵗ⁻¹ = (∂F/∂s)ᵀ d,    and ∂L/∂M = Σ δ zᵀ for every product z M

The program of the gradient (kernel/rules.py) says what these are. It is linear in d, so what else
it computes is computed once, for all steps. Of a tanh layer 1 − h² is left, and a product with W:
∂hₘ/∂hₘ₋₁ = diag(1 − hₘ²) W (Goodfellow et al. 2016, equation 10.22).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any, NamedTuple, Protocol

from jaxtyping import Float
from torch import Tensor

from bptt.kernel.plain_loop import Parts
from bptt.kernel.program import Value, compute, matrix_of, reached, side_by_side
from bptt.kernel.record import Traced

Terms = dict[int, Tensor | float]
"""A sum of lines, each times a factor: a number, (width), or one at every step, (T, B, width)."""

Pieces = tuple[int, ...]
"""Lines side by side; −n stands for n columns of 0."""

Along = slice | Tensor | None
"""Which rows of a weight (K, N): a slice, or their numbers; None where it is a vector, (N)."""


class Block(NamedTuple):
    """Which part of a weight's gradient is which part of Σ δ zᵀ.

    weight: which one. delta, z: the rows and columns of Σ δ zᵀ. columns, rows: of the weight, as
    (K, N).
    """

    weight: int
    delta: slice
    z: slice
    columns: slice
    rows: Along


class Use(NamedTuple):
    """Where weights enter a step: what is δ, (J, B, N), and z, (T, B, Z), and what these make."""

    pieces: Pieces
    z: Float[Tensor, "T B Z"]
    blocks: list[Block]


class StepDerivative(Protocol):
    """A step's derivative along a run of T steps of B sequences.

    of_p: which pieces are δp. weights: what the step reads, with the graph from what they are made
    of; is_turned: which of them are (N, K), not (K, N).
    """

    T: int
    B: int
    of_p: Pieces
    weights: list[Tensor]
    is_turned: list[bool]

    @property
    def has_loop(self) -> bool:
        """Whether the state after a step depends on the one before."""
        ...

    def width(self, pieces: Pieces) -> int:
        """Return how many columns pieces have."""
        ...

    def uses(self) -> Iterator[Use]:
        """Yield where weights enter the step itself, and not by p."""
        ...

    def back(self, d: Parts, steps: slice) -> StepPassed:
        """Take the gradients of the states after some steps, (J, B, width), into these steps.

        J is the number of steps; or, of one step, of gradients that are taken into it.
        """
        ...


class StepPassed(Protocol):
    """What gradients become in some steps."""

    @property
    def p(self) -> Float[Tensor, "J B G"]:
        """δp."""
        ...

    @property
    def before(self) -> Parts:
        """∂L/∂ of the states before these steps; what a part was before, is a part too."""
        ...

    def join(self, pieces: Pieces) -> Float[Tensor, "J B _"]:
        """Return pieces side by side."""
        ...

    def apart(self, pieces: Pieces) -> list[Float[Tensor, "J B _"]]:
        """Return them one after the other, which spares laying them side by side."""
        ...


class Derivative:
    """A step's derivative along a run.

    step: as it was traced. p: its input at every step, (T, B, G). before: the parts of the state
    before each, (T, B, width), of which those are read that the step reads. weights: what
    `step.prepare` returns.
    """

    def __init__(
        self, step: Traced, p: Tensor, before: Sequence[Tensor], weights: list[Tensor]
    ) -> None:
        self.step, self.weights = step, weights
        self.T, self.B = p.shape[:2]
        self.is_turned = [kind == "transposed" for _, kind, _ in step.weights]
        self.backward, self.values = step.derivative, step.derivative.program.values
        self.first_parts = [0, *accumulate(step.lengths)]
        self.of_p = self._pieces(step.p, ("p",))
        self.of_parts = [
            self._pieces(step.widths[first], ("state", state), (delay,))
            for state, first in enumerate(self.first_parts[:-1])
            for delay in range(1, step.lengths[state] + 1)
        ]
        self.p, self.before = p, before
        self.matrices = [
            w.detach().t() if turned else w.detach()
            for w, turned in zip(weights, self.is_turned, strict=True)
        ]
        self.saved = self._read_of_step()
        self.factors: dict[int, Tensor] = {}
        self.fixed: dict[int, Tensor] = {}
        self.terms: dict[int, Terms] = {}
        for line, value in enumerate(self.values):
            if value.op in ("arrived", "above") or any(arg in self.terms for arg in value.args):
                self.terms[line] = self._terms(line, value)
            else:
                args = [self.fixed[arg] for arg in value.args]
                self.fixed[line] = compute(value, args, self._source, self.matrices.__getitem__)
        del self.p, self.before, self.saved

    @property
    def has_loop(self) -> bool:
        """Whether the state after a step depends on the one before."""
        return any(value.op == "state" for value in self.step.program.values)

    def back(self, d: Parts, steps: slice) -> Passed:
        """Take the gradients of the states after some steps into these steps."""
        return Passed(self, d, steps)

    def uses(self) -> Iterator[Use]:
        """Yield where weights enter: by products, as vectors, by rows that are looked up."""
        results = self.backward.program.results
        for line, products in self.backward.products.items():
            if products:
                z = self.fixed[results["z", line]].expand(self.T, self.B, -1)
                yield self._products(z, products)
        for name, result in results.items():
            N = self.values[result].width
            if name[0] == "vector":
                _, weight, start = name
                block = Block(weight, slice(0, N), slice(0), slice(start, start + N), None)
                one = self.matrices[weight].new_ones(1).expand(self.T, self.B, 1)
                yield Use((result,), one, [block])
            elif name[0] == "look_up":
                weight, column, _ = self.backward.look_ups[name[1]]
                numbers = self.fixed[results["row", name[1]]]
                rows = numbers.unique()
                columns = slice(column, column + N)
                block = Block(weight, slice(0, N), slice(0), columns, rows.long())
                one_hot = (numbers == rows).to(numbers.dtype).expand(self.T, self.B, -1)
                yield Use((result,), one_hot, [block])

    def _products(self, z: Float[Tensor, "T B K"], products: Iterable[tuple[int, Any]]) -> Use:
        """Return where matrices enter by products with one z."""
        pieces, blocks, at = list[int](), list[Block](), 0
        for line, (weight, row, column) in products:
            pieces.append(self.backward.program.results["product", line])
            N = self.values[pieces[-1]].width
            rows, columns = slice(row, row + z.shape[-1]), slice(column, column + N)
            blocks.append(Block(weight, slice(at, at + N), slice(0), columns, rows))
            at += N
        return Use(tuple(pieces), z, blocks)

    def width(self, pieces: Pieces) -> int:
        """Return how many columns pieces have."""
        return sum(self.values[piece].width if piece >= 0 else -piece for piece in pieces)

    def matrix_of(self, line: int) -> Tensor:
        """Return what a line of the gradient multiplies by, made once."""
        if line not in self.factors:
            value = self.values[line]
            widths = [self.values[arg].width for arg in value.args]
            self.factors[line] = matrix_of(value, widths, self.matrices.__getitem__)
        return self.factors[line]

    def _pieces(self, width: int, source: tuple[Any, ...], end: tuple[int, ...] = ()) -> Pieces:
        """Return the gradient of a source, whose blocks are results named source, column, end."""
        n = len(source)
        blocks = [
            (name[n], line)
            for name, line in self.backward.program.results.items()
            if name[:n] == source and name[n + 1 :] == end
        ]
        pieces, at = list[int](), 0
        for start, line in sorted(blocks):
            pieces += [at - start] * (start > at) + [line]
            at = start + self.values[line].width
        return (*pieces, *[at - width] * (width > at))

    def _read_of_step(self) -> dict[int, Tensor]:
        """Return the lines of the step's own program that its gradient reads."""
        program = self.step.program
        read = [v.at[0] for v in self.values if v.op == "saved"]
        read += [program.results["new", *v.at] for v in self.values if v.op == "new"]
        lines: dict[int, Tensor] = {}
        for line in reached(program.values, read):
            value = program.values[line]
            args = [lines[arg] for arg in value.args]
            lines[line] = compute(value, args, self._source, self.matrices.__getitem__)
        return {line: lines[line] for line in read}

    def _source(self, value: Value) -> Tensor:
        at, width = value.at, value.width
        if value.op == "saved":
            return self.saved[at[0]]
        if value.op == "new":
            return self.saved[self.step.program.results["new", *at]]
        if value.op == "p":
            return self.p[..., at[0] : at[0] + width]
        if value.op == "state":
            state, start, delay = at
            part: Tensor = self.before[self.first_parts[state] + delay - 1]
            return part[..., start : start + width]
        if value.op == "vector":
            which, start = at
            vector: Tensor = self.matrices[which]
            return vector[start : start + width]
        return self.p.new_full((width,), at[0])

    def _terms(self, line: int, value: Value) -> Terms:  # noqa: PLR0911 (an operation a line)
        """Return a line that d goes into as a sum of others; of itself, where it is no sum."""
        op, args = value.op, value.args
        if op == "above":  # what arrives has all of it
            return {}
        if op in ("copy", "spread"):
            return self.terms[args[0]]
        if op == "neg":
            return self._times(args[0], -1.0)
        if op == "add":
            return _sum_of(self.terms[args[0]], self.terms[args[1]])
        if op == "sub":
            return _sum_of(self.terms[args[0]], self._times(args[1], -1.0))
        if op == "mul":
            d, factor = args if args[0] in self.terms else args[::-1]
            return self._times(d, self.fixed[factor])
        if op == "div":
            return self._times(args[0], 1 / self.fixed[args[1]])
        if op == "where":
            mask = self.fixed[args[0]]
            chosen = [(args[1], mask != 0), (args[2], mask == 0)]  # where neither is d, it is 0
            branches = [self._times(a, on.to(mask.dtype)) for a, on in chosen if a in self.terms]
            return branches[0] if len(branches) == 1 else _sum_of(*branches)
        return {line: 1.0}

    def _times(self, line: int, factor: Tensor | float) -> Terms:
        """Return a line times a factor; of several terms, which are first added up, once."""
        terms = self.terms[line]
        if len(terms) > 1:
            return {line: factor}
        return {base: factor * by for base, by in terms.items()}


def _sum_of(a: Terms, b: Terms) -> Terms:
    return {line: a[line] + b[line] if line in a and line in b else (a | b)[line] for line in a | b}


class Passed:
    """What gradients become in some steps: each line of the program, once it is asked for."""

    def __init__(self, derivative: Derivative, d: Parts, steps: slice) -> None:
        self.derivative, self.d, self.steps = derivative, d, steps
        self.known: dict[Any, Tensor] = {}

    @property
    def p(self) -> Float[Tensor, "J B G"]:
        """δp."""
        return self.join(self.derivative.of_p)

    @property
    def before(self) -> Parts:
        """∂L/∂ of the states before these steps; what a part was before, is a part too."""
        parts, firsts = list[Tensor](), self.derivative.first_parts
        for later, pieces in enumerate(self.derivative.of_parts, start=1):
            if later in firsts:
                parts.append(self.join(pieces))
            elif any(piece >= 0 for piece in pieces):
                parts.append(self.join(pieces) + self.d[later])
            else:
                parts.append(self.d[later])
        return tuple(parts)

    def join(self, pieces: Pieces) -> Float[Tensor, "J B _"]:
        """Return lines side by side."""
        if pieces not in self.known:
            self.known[pieces] = side_by_side(self.apart(pieces))
        return self.known[pieces]

    def apart(self, pieces: Pieces) -> list[Float[Tensor, "J B _"]]:
        """Return lines; of those that are side by side already, these."""
        if pieces in self.known:
            return [self.known[pieces]]
        return [self._line(piece) if piece >= 0 else self._zeros(-piece) for piece in pieces]

    def _line(self, line: int) -> Float[Tensor, "J B _"]:
        if line not in self.known:
            terms, width = self.derivative.terms[line], self.derivative.values[line].width
            rows = self._base(line) if line in terms else self._sum(terms, width)
            self.known[line] = rows.expand(*rows.shape[:-1], width)
        return self.known[line]

    def _sum(self, terms: Terms, width: int) -> Tensor:
        total: Tensor | None = None
        for line, by in terms.items():
            factor = by[self.steps] if isinstance(by, Tensor) and by.ndim > 1 else by
            is_one = not isinstance(factor, Tensor) and factor == 1
            term = self._line(line) if is_one else self._line(line) * factor
            total = term if total is None else total + term
        return self._zeros(width) if total is None else total

    def _base(self, line: int) -> Tensor:
        value = self.derivative.values[line]
        if value.op == "arrived":
            state, start = value.at
            arrived: Tensor = self.d[self.derivative.first_parts[state]]
            return arrived[..., start : start + value.width]
        if value.op == "back":  # of lines that sites may read side by side too
            return self.join(tuple(value.args)) @ self.derivative.matrix_of(line)
        args = [self._line(arg) for arg in value.args]
        return compute(value, args, _no_source, self.derivative.matrices.__getitem__)

    def _zeros(self, width: int) -> Tensor:
        return self.d[0].new_zeros(*self.d[0].shape[:-1], width)


def _no_source(value: Value) -> Tensor:
    raise AssertionError(f"{value.op} is made of no gradient")
