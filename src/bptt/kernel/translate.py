"""From recorded calls to the lines of a program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor

from bptt.kernel.functions import FUNCTIONS
from bptt.kernel.program import Expr, Program
from bptt.kernel.rows import Ref, Rows, Untranslatable, Writer


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
                return program, lengths, translation.writer.weights
            for source, at in more.items():
                cuts.setdefault(source, set()).update(at)

    def __init__(
        self,
        shapes: Mapping[Ref, tuple[int, ...]],
        widths: Sequence[int],
        cuts: Mapping[tuple[Any, ...], set[int]],
    ) -> None:
        self.writer = Writer(shapes, cuts)
        self.rows: dict[Ref, Rows] = {}
        for i, width in enumerate(widths):
            at = (0,) if i == 0 else (i - 1, 0, 1)
            source = self.writer.builder.source("p" if i == 0 else "state", width, *at)
            edges = cuts.get(("p",) if i == 0 else ("state", i - 1), set())
            self.rows[Ref(i)] = Rows((source,)).cut_before(edges)

    def call(self, call: Any) -> None:
        """Follow one call."""
        name = call.function.__name__
        translate = FUNCTIONS.get(name)
        if translate is None:
            raise Untranslatable(f"{name} is no operation on rows, in {call.line}")
        try:
            result = translate(
                self.writer,
                *map(self._value, call.args),
                **{k: self._value(v) for k, v in call.kwargs.items()},
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
            expected = self.writer.shapes[ref]
            actual = (expected[0],) if rows.flat else (expected[0], rows.width)
            if expected != actual:
                raise Untranslatable(f"{name} gives a tensor of shape {expected}, in {call.line}")
            self.rows[ref] = rows

    def _value(self, argument: Any) -> Any:
        if isinstance(argument, Ref):
            return self.rows.get(argument, argument)
        if isinstance(argument, tuple | list):
            return type(argument)(self._value(x) for x in argument)
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
        program = self.writer.builder.finish(results)
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


def _cuts_of(program: Program, lengths: Sequence[int]) -> dict[tuple[Any, ...], set[int]]:
    """Return where p, states, vectors and products are to be cut for no two values to overlap."""
    spans: dict[tuple[Any, ...], set[tuple[int, int]]] = {}
    for v in program.values:
        if v.op == "p":
            spans.setdefault(("p",), set()).add((v.at[0], v.at[0] + v.width))
        if v.op == "state":
            key = ("state", sum(lengths[: v.at[0]]) + v.at[2] - 1)
            spans.setdefault(key, set()).add((v.at[1], v.at[1] + v.width))
        if v.op == "vector":
            spans.setdefault(("vector", v.at[0]), set()).add((v.at[1], v.at[1] + v.width))
        if v.op == "product":
            spans.setdefault(("product", v.at[0]), set()).add((v.at[2], v.at[2] + v.width))
    cuts: dict[tuple[Any, ...], set[int]] = {}
    for source, blocks in spans.items():
        ordered = sorted(blocks)
        overlap = any(b[0] < a[1] for a, b in pairwise(ordered))
        cuts[source] = {edge for block in blocks for edge in block} if overlap else set()
    return cuts
