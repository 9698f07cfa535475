"""One step by itself, natively and without a gradient: what is stepped by hand as it runs.

Of so little work the calls around it take most of the time. So a step is traced, and made ready,
once for all cells of its kind and size; what a call looks at are the tensors alone, each once.
"""

from __future__ import annotations

import math
import weakref
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from bptt.kernel import binding, ops
from bptt.kernel.native_step import NativeStep
from bptt.kernel.ops import Recipe
from bptt.kernel.plain import bystanders, is_plain, is_traced, is_transformed
from bptt.kernel.plain_loop import Parts

Weights = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]
"""U, W and their biases, as torch's cells have them."""
Shapes = tuple[tuple[int, ...] | None, ...]
MOST_KNOWN = 64


@dataclass(frozen=True)
class OneStep:
    """A step that reads W, and its bias or none; the other biases are added to U x.

    states: how many parts its state has, each as wide as h. shapes: of the weights. known: weights
    that were looked at. expected: by B, the shapes of all tensors of a call.
    """

    step: NativeStep
    has_bias: bool
    states: int
    shapes: Shapes
    dtype: torch.dtype
    known: dict[int, list[Any]] = field(default_factory=dict)
    expected: dict[int, list[tuple[int, ...]]] = field(default_factory=dict)

    @cached_property
    def dtypes(self) -> set[torch.dtype]:
        """That of all its tensors."""
        return {self.dtype}

    @cached_property
    def work(self) -> float:
        """Multiplications and additions of a row."""
        return 2.0 * sum(math.prod(shape) for shape in self.shapes if shape is not None)

    @cached_property
    def run(self) -> Any:
        """The kernel's function for this dtype."""
        name = "float32" if self.dtype is torch.float32 else "float64"
        return getattr(binding.native, f"loop_forward_{name}")

    @cached_property
    def program(self) -> Any:
        """What it runs."""
        return self.step.forward_program

    def __call__(self, x: Tensor, state: Any, weights: Weights) -> Parts | None:
        """Return the parts of the state after the step, or None where the kernel cannot read one.

        x: (B, I). state: (B, H), or a tuple of such. Whatever they are, they are looked at here.
        """
        parts = state if type(state) is tuple else (state,)
        B = len(x) if x.ndim else 0
        rows = (x, *parts)
        for tensor in rows:
            if not is_plain(tensor) or tensor is None:
                return None
        if not self._knows(weights):
            return None
        tensors = [*rows, *weights] if self.shapes[3] is not None else [*rows, *weights[:2]]
        if (
            [tensor.shape for tensor in tensors] != self._shapes_of(B)
            or B == 0
            or {tensor.dtype for tensor in tensors} != self.dtypes
            or not all([tensor.is_contiguous() for tensor in tensors])  # noqa: C419
        ):
            return None
        places = [tensor.data_ptr() for tensor in tensors]
        if 0 in places:  # of a storage that was freed
            return None
        I, H, first = x.shape[1], parts[0].shape[1], len(rows)  # noqa: E741
        U, W, b_ih, b_hh = places[first:] if len(places) > first + 2 else (*places[first:], 0, 0)
        new = tuple([torch.empty_like(part) for part in parts])
        inside = [(W, 1, H, H), (b_hh, 0, 1, 1)] if self.has_bias else [(W, 1, H, H)]
        self.run(
            self.program,
            *(1, B, 0, 0, 0, False, binding.threads_for(B * self.work), I),
            [places[0], 0, U, b_ih, 0 if self.has_bias else b_hh, 0],
            places[1:first],
            [part.data_ptr() for part in new],
            [],
            inside,
            len(new),
        )
        return new

    def _shapes_of(self, B: int) -> list[tuple[int, ...]]:
        """Return the shapes of x, the state's parts, and the weights that there are."""
        if B not in self.expected:
            (_, I), (_, H), *_ = self.shapes  # type: ignore[misc] # noqa: E741
            there = [shape for shape in self.shapes if shape is not None]
            if len(self.expected) > MOST_KNOWN:
                self.expected.clear()
            self.expected[B] = [(B, I), *[(B, H)] * self.states, *there]
        return self.expected[B]

    def _knows(self, weights: Weights) -> bool:
        """Return whether weights are plain tensors: of the same ones that is looked at once."""
        of = self.known.get(id(weights[1]))
        if of is not None and all([a() is b for a, b in zip(of, weights, strict=True)]):  # noqa: C419
            return True
        there = [weight is not None for weight in weights]
        if there != [shape is not None for shape in self.shapes] or not all(map(is_plain, weights)):
            return False
        if len(self.known) > MOST_KNOWN:
            self.known.clear()
        self.known[id(weights[1])] = [_none if w is None else weakref.ref(w) for w in weights]
        return True


def _none() -> None:
    """Refer to no tensor."""


def is_possible() -> bool:
    """Return whether a step of which no gradient is wanted runs natively now."""
    return (
        binding.used == "native"
        and not torch.compiler.is_compiling()
        and not is_transformed()
        and not is_traced()
        and not torch._C._is_any_autocast_enabled()
        and not bystanders()
        and binding.native is not None
    )


def one_step(recipe: Recipe, shapes: Shapes, states: int, dtype: torch.dtype) -> OneStep | None:
    """Return a step of one of torch's cells made ready, or None where it is not to be had."""
    (G, H), has_bias = shapes[1], shapes[2] is not None  # type: ignore[misc]
    traced = ops.traced(recipe, G, (H,) * states, dtype)
    if isinstance(traced, str):
        return None
    kinds = [kind for _, kind, _ in traced.weights]
    if kinds != ["transposed", "vector"][: len(kinds)] or not kinds:
        return None
    return OneStep(traced.step, has_bias and len(kinds) > 1, states, shapes, dtype)
