"""How a step, a function in torch, becomes a program: it runs once, and its calls are recorded.

What a step does with rows (the projected input, the state parts, and all that comes of them)
becomes lines of the program. What it does with weights alone is done once a call, outside the
loop, by torch (`Traced.prepare`), which so has its gradient. What is neither, is refused by name
and line: then the plain loop serves.
"""

from __future__ import annotations

import linecache
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import jaxtyping
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map_only

from bptt.kernel.functions import FUNCTIONS
from bptt.kernel.native_step import NativeStep
from bptt.kernel.program import Program
from bptt.kernel.rows import Ref, Untranslatable
from bptt.kernel.rules import Backward, reverse
from bptt.kernel.tables import Shape
from bptt.kernel.translate import Translation

ROWS = 3
"""How many rows the recorded step has: a number that no width of its own is likely to be."""

SHAPE_READERS = frozenset(
    [
        "__get__",
        "size",
        "dim",
        "ndimension",
        "numel",
        "nelement",
        "__len__",
        "is_floating_point",
        "is_complex",
        "is_contiguous",
        "stride",
        "get_device",
        "element_size",
        "type",
        "dtype",
        "__hash__",
        "is_signed",
        "storage_offset",
        "has_names",
    ]
)
OPERATORS = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor")
WHOLE = frozenset(
    [
        "long",
        "to",
        "trunc",
        "fix",
        "clamp",
        "clip",
        "clamp_min",
        "clamp_max",
        "neg",
        "negative",
        "abs",
        "absolute",
        "add",
        "sub",
        "subtract",
        "rsub",
        "__add__",
        "__radd__",
        "__sub__",
        "__rsub__",
        "__neg__",
        "__abs__",
        "minimum",
        "maximum",
        "where",
        "masked_fill",
        "unsqueeze",
        "squeeze",
        "view",
        "reshape",
        "expand",
        "expand_as",
        "__getitem__",
        "chunk",
        "split",
        "narrow",
        "cat",
        "clone",
        "contiguous",
        "detach",
        "argmax",
        "choose",
    ]
)
"""Functions whose whole numbers are right as floating-point ones too, up to a table's rows."""
IN_PLACE = frozenset(f"__i{name}__" for name in (*OPERATORS, "lshift", "rshift"))
TRANSPOSES: tuple[Any, ...] = tuple(getattr(Tensor, name).__get__ for name in ("T", "mT"))
LIBRARIES = tuple(str(Path(file).parent) for file in (torch.__file__, jaxtyping.__file__, __file__))


class NotTraced(Exception):  # noqa: N818 (a reason, not an error)
    """Why a step is no program, in one line that names the user's."""


class Call(NamedTuple):
    """A function of torch, what it was called with (a Ref for each tensor), and what it gave."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    results: Any
    line: str


@dataclass(frozen=True, eq=False)
class Traced:
    """A step as a program, and how its weights are had from the tensors that the step reads.

    lengths: of how many parts each state is: the later ones are what the first was, steps before.
    p, widths: how wide p and the state parts are.
    weights: for each, which tensor, and "matrix" (K, N), "transposed" (N, K), "vector" (width), or
    "table", whose rows are looked up.
    captured: which of the tensors that it was traced with each is that the step was seen to read.
    calls: what it did with them before. every: of how many of the first states every step's is
    returned.
    """

    program: Program
    lengths: tuple[int, ...]
    p: int
    widths: tuple[int, ...]
    weights: tuple[tuple[Ref, str, int], ...]
    captured: dict[Ref, int]
    calls: tuple[Call, ...]
    every: int = 1

    def prepare(self, tensors: Sequence[Tensor | None]) -> list[Tensor]:
        """Return the weights of a call: matrices, (K, N) or transposed, and vectors (width)."""
        values = {ref: tensors[which] for ref, which in self.captured.items()}
        for call in self.calls:
            args, kwargs = tree_map_only(Ref, values.__getitem__, (call.args, call.kwargs))
            results = _tensors(call.function(*args, **kwargs))
            values |= dict(zip(tree_flatten(call.results)[0], results, strict=True))
        return [_as_weight(values[ref], kind, width) for ref, kind, width in self.weights]

    @cached_property
    def derivative(self) -> Backward:
        """The gradient of its new states, taken back through it."""
        return reverse(self.program, every=0)

    @cached_property
    def step(self) -> NativeStep:
        """The step to run natively; its weights are what `prepare` returns."""
        firsts = [sum(self.lengths[:state]) for state in range(len(self.lengths))]
        widths = [self.widths[first] for first in firsts]
        shape = Shape(self.p, tuple(zip(widths, self.lengths, strict=True)))
        kinds = [kind for _, kind, _ in self.weights]
        transposed, tables = (
            frozenset(i for i, kind in enumerate(kinds) if kind == wanted)
            for wanted in ("transposed", "table")
        )
        return NativeStep(self.program, shape, transposed, tables, self.every)


def _as_weight(tensor: Tensor | None, kind: str, width: int) -> Tensor:
    assert tensor is not None  # what a step reads, it has
    if kind == "vector" and tensor.shape != (width,):
        return tensor.reshape(-1).expand(width)
    if kind == "table":
        return tensor.contiguous()
    return tensor.unsqueeze(1) if kind == "column" else tensor


def _tensors(results: Any) -> list[Tensor]:
    return [result for result in tree_flatten(results)[0] if isinstance(result, Tensor)]


def trace(
    step: Callable[..., Any],
    p: int,
    states: Sequence[int],
    tensors: Sequence[Tensor | None],
    dtype: torch.dtype,
) -> Traced:
    """Return a step as a program, or raise NotTraced.

    step: (p, *state parts) -> new state parts, of widths p and states. tensors: its weights, which
    may be others of the same shapes at a later call.
    """
    try:
        return _trace(step, [p, *states], tensors, partial(_random_rows, dtype=dtype))
    except IndexError:  # it looks up rows of a table: by 0 and 1, which a table of two rows has
        return _trace(step, [p, *states], tensors, partial(_numbers_of_rows, dtype=dtype))


def _trace(
    step: Callable[..., Any],
    widths: Sequence[int],
    tensors: Sequence[Tensor | None],
    samples: Callable[..., list[Tensor]],
) -> Traced:
    """Return a step as a program, traced with sample rows, samples(widths, rows, seed)."""
    states = widths[1:]
    before = torch.get_rng_state()
    inputs = samples(widths, ROWS, seed=0)
    recorder = _Recorder(inputs)
    try:
        with torch.enable_grad(), recorder:
            outputs = _as_parts(step(*inputs))
    except Untranslatable as reason:
        raise NotTraced(str(reason)) from None
    finally:
        drew = not torch.equal(torch.get_rng_state(), before)
        torch.set_rng_state(before)
    if drew:
        raise NotTraced("it draws random numbers")
    if [tuple(o.shape) for o in outputs] != [(ROWS, width) for width in states]:
        raise NotTraced(
            f"it returns {[tuple(o.shape) for o in outputs]} for states of {list(states)}"
        )
    traced = recorder.finish(outputs, tensors, widths)
    _check(step, traced, tensors, samples(widths, ROWS + 2, seed=1))
    return traced


def _as_parts(result: Any) -> tuple[Tensor, ...]:
    return (result,) if isinstance(result, Tensor) else tuple(result)


def _random_rows(
    widths: Sequence[int], rows: int, *, seed: int, dtype: torch.dtype
) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(rows, width, generator=generator, dtype=dtype).requires_grad_()
        for width in widths
    ]


def _numbers_of_rows(
    widths: Sequence[int], rows: int, *, seed: int, dtype: torch.dtype
) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.rand(rows, width, generator=generator, dtype=dtype).mul(2).requires_grad_()
        for width in widths
    ]


class _Recorder(TorchFunctionMode):
    """Notes every call of torch in a step, in the order of its lines."""

    def __init__(self, rows: Sequence[Tensor]) -> None:
        super().__init__()
        self.refs: dict[int, Ref] = {}
        self.seen: list[Tensor] = []
        self.rows = {self.ref(row) for row in rows}
        self.calls: list[Call] = []
        self.dtype = rows[0].dtype

    def ref(self, tensor: Tensor) -> Ref:
        """Return what stands for a tensor, which is kept, so that no other takes its place."""
        if id(tensor) not in self.refs:
            self.refs[id(tensor)] = Ref(len(self.seen))
            self.seen.append(tensor)
        return self.refs[id(tensor)]

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run a call, and note it."""
        kwargs = kwargs or {}
        name = getattr(function, "__name__", str(function))
        tensors = [t for t in tree_flatten((args, kwargs))[0] if isinstance(t, Tensor)]
        if _is_in_place(name, kwargs):
            raise Untranslatable(f"{name} changes a tensor in place, in {user_line()}")
        result = function(*args, **kwargs)
        if not _tensors(result):
            if tensors and name not in SHAPE_READERS:
                raise Untranslatable(f"{name} reads values, in {user_line()}")
            return result
        known = list(map(self.ref, tensors))
        results = tree_map_only(Tensor, self.ref, result)
        args, kwargs = tree_map_only(Tensor, self.ref, (args, kwargs))
        self.calls.append(Call(function, args, kwargs, results, user_line()))
        refs = set(tree_flatten(results)[0]) - set(known)
        if self.rows.intersection(known):
            self.rows |= refs
            for made in _tensors(result):
                is_right = made.dtype in (self.dtype, torch.bool) or (
                    made.dtype == torch.int64 and name in WHOLE
                )
                if name in FUNCTIONS and not is_right:  # others are none on rows anyway
                    raise Untranslatable(f"{name} gives {made.dtype}, in {user_line()}")
        return result

    def finish(
        self, outputs: Sequence[Tensor], tensors: Sequence[Tensor | None], widths: Sequence[int]
    ) -> Traced:
        """Return what was recorded as a program."""
        shapes = {
            ref: tuple(tensor.shape)
            for tensor, ref in zip(self.seen, map(self.ref, self.seen), strict=True)
        }
        try:
            program, lengths, weights = Translation.of(
                [call for call in self.calls if self._has_rows(call)],
                shapes,
                widths,
                [self.ref(output) for output in outputs],
            )
        except Untranslatable as reason:
            raise NotTraced(str(reason)) from None
        weights = [self._untransposed(*weight) for weight in weights]
        calls, needed = self._preparing({ref for ref, *_ in weights})
        places = {id(tensor): i for i, tensor in enumerate(tensors)}
        for ref in needed:
            if id(self.seen[ref.index]) not in places:  # it may be another at a later call
                raise NotTraced(f"it reads a tensor of shape {shapes[ref]} that it is not made of")
        captured = {ref: places[id(self.seen[ref.index])] for ref in needed}
        p, *states = widths
        return Traced(program, lengths, p, tuple(states), tuple(weights), captured, tuple(calls))

    def _untransposed(self, ref: Ref, kind: str, width: int) -> tuple[Ref, str, int]:
        """Return a matrix that was transposed first as what it was, the other way round."""
        others = {"matrix": "transposed", "transposed": "matrix"}
        for call in self.calls:
            if call.results == ref and kind in others and _transposes(call):
                return call.args[0], others[kind], width
        return ref, kind, width

    def _has_rows(self, call: Call) -> bool:
        refs = {
            x for x in tree_flatten((call.args, call.kwargs, call.results))[0] if isinstance(x, Ref)
        }
        return bool(refs & self.rows)

    def _preparing(self, wanted: set[Ref]) -> tuple[list[Call], set[Ref]]:
        """Return the calls that make weights, and the tensors that they begin with."""
        calls: list[Call] = []
        for call in reversed(self.calls):
            results = {x for x in tree_flatten(call.results)[0] if isinstance(x, Ref)}
            if results & wanted and not self._has_rows(call):
                calls.append(call)
                args = tree_flatten((call.args, call.kwargs))[0]
                wanted = (wanted - results) | {x for x in args if isinstance(x, Ref)}
        return calls[::-1], wanted


def _is_in_place(name: str, kwargs: Any) -> bool:
    """Return whether a function of torch changes a tensor, by its name."""
    changes = name.endswith("_") and not name.endswith("__")
    return changes or name.startswith("__set") or name in IN_PLACE or kwargs.get("out") is not None


def _transposes(call: Call) -> bool:
    """Return whether a call gives the transpose of a matrix, and no more."""
    name = getattr(call.function, "__name__", "")
    return call.function in TRANSPOSES or (name == "t" and not call.kwargs)


def user_line() -> str:
    """Return the innermost line that is neither torch's nor the kernel's."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(LIBRARIES):
        frame = frame.f_back
    file, number = frame.f_code.co_filename, frame.f_lineno
    text = linecache.getline(file, number).strip()
    return f"{Path(file).name}:{number}" + (f": {text}" if text else "")


def _check(
    step: Callable[..., Any],
    traced: Traced,
    tensors: Sequence[Tensor | None],
    inputs: Sequence[Tensor],
) -> None:
    """Raise NotTraced unless the program does what the step does, on other rows, gradients too.

    So are found: what hides from the recording (functions with gradients of their own, detached or
    computed elsewhere), and what holds for some numbers of rows or some values alone.
    """
    state = torch.get_rng_state()
    with torch.enable_grad():
        outputs = _as_parts(step(*inputs))
        weights = traced.prepare(tensors)
        results = traced.step.evaluate(inputs[0], inputs[1:], weights)
    torch.set_rng_state(state)
    leaves = [*inputs, *[t for t in tensors if t is not None and t.requires_grad and t.is_leaf]]
    ours, theirs = _gradients(results, leaves), _gradients(outputs, leaves)
    for mine, its in zip(_detached(results, ours), _detached(outputs, theirs), strict=True):
        scale = 1 + float(its.abs().max()) if its.numel() else 1.0
        close = torch.isclose(
            mine, its, rtol=0, atol=scale * torch.finfo(its.dtype).eps ** 0.5, equal_nan=True
        )
        if not bool(close.all()):
            raise NotTraced(
                "its operations on rows are not all that it does (a gradient of its own, say)"
            )


def _detached(*several: Sequence[Tensor]) -> list[Tensor]:
    return [tensor.detach() for tensors in several for tensor in tensors]


def _gradients(outputs: Sequence[Tensor], leaves: Sequence[Tensor]) -> list[Tensor]:
    reached = [output for output in outputs if output.requires_grad]
    if not reached:
        return [torch.zeros_like(leaf) for leaf in leaves]
    weights = [torch.linspace(0.5, 1.5, o.numel(), dtype=o.dtype).view_as(o) for o in reached]
    # Of one number: to compare the shapes of gradients given with outputs' torch imports sympy.
    total = torch.stack([(o * w).sum() for o, w in zip(reached, weights, strict=True)]).sum()
    grads = torch.autograd.grad(total, list(leaves), allow_unused=True)
    return [
        torch.zeros_like(leaf) if g is None else g for g, leaf in zip(grads, leaves, strict=True)
    ]
