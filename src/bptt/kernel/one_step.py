"""One step by itself, natively and without a gradient: what is stepped by hand as it runs.

Of so little work the calls around it take most of the time. So a step is traced, and made ready,
once for all cells of its kind and size; what a call looks at are the tensors alone, each once.
"""

from __future__ import annotations

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
MOST_KNOWN = 64


@dataclass(frozen=True)
class OneStep:
    """A step that reads W, and reads_bias: its bias too; the other biases are added to U x.

    states: how many parts its state has, each as wide as h. sizes: I and H. has_biases: whether its
    weights are four, else two. known: weights that were looked at.
    """

    step: NativeStep
    reads_bias: bool
    states: int
    sizes: tuple[int, int]
    has_biases: bool
    dtype: torch.dtype
    known: dict[int, list[Any]] = field(default_factory=dict)

    @cached_property
    def run(self) -> Any:
        """The kernel's function for this dtype."""
        name = "float32" if self.dtype is torch.float32 else "float64"
        return getattr(binding.native, f"step_{name}")

    @cached_property
    def program(self) -> Any:
        """What it runs."""
        return self.step.forward_program

    def __call__(self, x: Tensor, state: Any, weights: Weights) -> Parts | None:
        """Return the parts of the state after the step, or None where the kernel cannot read one.

        x: (B, I). state: (B, H), or a tuple of such. Whatever they are, they are looked at: whether
        their numbers lie where they say here, and their shapes and dtypes in the kernel.
        """
        parts = state if type(state) is tuple else (state,)
        rows = [x, *parts]
        for tensor in rows:
            if tensor is None or not is_plain(tensor):
                return None
        if len(parts) != self.states or not self._knows(weights):
            return None
        new = [torch.empty_like(part) for part in parts]
        threads = torch.get_num_threads()
        done = self.run(
            *(self.program, rows, new, weights, *self.sizes, self.reads_bias),
            *(threads, binding.WORK_FOR_A_THREAD),
        )
        return tuple(new) if done else None

    def _knows(self, weights: Weights) -> bool:
        """Return whether weights are plain tensors: of the same ones that is looked at once."""
        of = self.known.get(id(weights[1]))
        if of is not None and all([a() is b for a, b in zip(of, weights, strict=True)]):  # noqa: C419
            return True
        there = [weight is not None for weight in weights]
        if there != [True, True, *[self.has_biases] * 2] or not all(map(is_plain, weights)):
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
        and binding.READS_TENSORS
        and not torch.compiler.is_compiling()
        and not is_transformed()
        and not is_traced()
        and not torch._C._is_any_autocast_enabled()
        and not bystanders()
    )


def one_step(
    recipe: Recipe,
    gates: int,
    states: int,
    sizes: tuple[int, int],
    dtype: torch.dtype,
    *,
    bias: bool,
) -> OneStep | None:
    """Return a step of one of torch's cells made ready, or None where it is not to be had.

    sizes: I and H. bias: whether its weights are four, else two.
    """
    H = sizes[1]
    traced = ops.traced(recipe, gates * H, (H,) * states, dtype)
    if isinstance(traced, str):
        return None
    kinds = [kind for _, kind, _ in traced.weights]
    if kinds != ["transposed", "vector"][: len(kinds)] or not kinds:
        return None
    return OneStep(traced.step, len(kinds) > 1, states, sizes, bias, dtype)
