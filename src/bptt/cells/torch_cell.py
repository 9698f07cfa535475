"""What torch's own cells share: their parameters, and an operation of torch's for one step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from bptt.cells.cell import Cell
from bptt.kernel.fused import FUSED
from bptt.kernel.one_step import OneStep, Weights, is_possible, one_step
from bptt.kernel.ops import FLOATS, Recipe
from bptt.kernel.plain import is_transformed
from bptt.kernel.plain_loop import Parts

READY: dict[tuple[Any, ...], OneStep | None] = {}
"""Steps made ready: by torch's operation, the shape of U, whether there is no bias, and dtype."""
KINDS_OF_TORCH: dict[Any, type[TorchCell]] = {}
"""The cell of each of torch's operations."""


class TorchCell(Cell):
    """A cell of torch.nn's constructor, parameters, first numbers and results.

    by_torch: torch's operation for one step, of x, the state, and the weights; None in a subclass
    whose step is its own.
    """

    is_torchs = True
    by_torch: ClassVar[Callable[..., Any] | None]
    weight_hh: Tensor
    bias_hh: Tensor | None

    def __init_subclass__(cls, **options: Any) -> None:
        """Leave torch's operation to the classes whose step it is."""
        super().__init_subclass__(**options)
        if "step" in vars(cls) and "by_torch" not in vars(cls):
            cls.by_torch = None
        if vars(cls).get("by_torch") in FUSED:
            KINDS_OF_TORCH.setdefault(cls.by_torch, cls)

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, **where: Any) -> None:
        super().__init__(input_size, hidden_size, bias=bias, **where)
        self.weight_hh = self.matrix(self.gates * hidden_size, hidden_size)
        size = None if self.bias_ih is None else len(self.bias_ih)
        del self.bias_ih  # to come after weight_hh, as torch has it: optimizers go by the order
        self.bias_ih = None if size is None else self.matrix(size)
        self.bias_hh = None if size is None else self.matrix(size)

    def forward(self, x: Tensor, state: Any = None) -> Any:
        """Return the state after one step; see `Cell.forward`."""
        if not torch.is_grad_enabled() and self.by_torch is not None:
            part = self._parameters.get  # what is computed is none, and goes by torch
            weights = part("weight_ih"), part("weight_hh"), part("bias_ih"), part("bias_hh")
            moved = step_natively(self.by_torch, x, state, weights)
            if moved is not None:
                return moved if len(moved) > 1 else moved[0]
        parts = state if type(state) is tuple else (state,)
        states = len(self.state_sizes)
        if self.by_torch is None or is_transformed():  # not every transform can be had of it
            return super().forward(x, state)
        if all([type(tensor) is Tensor for tensor in (x, *parts)]) and x.ndim == 2:  # noqa: C419
            shapes = [(len(x), self.input_size), *[(len(x), self.hidden_size)] * states]
            is_alike = {tensor.dtype for tensor in (x, *parts)} == {self.weight_ih.dtype}
            if is_alike and [tensor.shape for tensor in (x, *parts)] == shapes:
                return self.by_torch(x, state, *self._weights())
        return super().forward(x, state)

    def move(self, x: Float[Tensor, "B I"], state: Parts) -> Parts:
        """Return the parts of the state after one step."""
        if self.by_torch is None or is_transformed():
            return super().move(x, state)
        moved = self.by_torch(x, state if len(state) > 1 else state[0], *self._weights())
        return moved if isinstance(moved, tuple) else (moved,)

    def recipe(self, tensors: dict[str, Tensor]) -> Recipe:
        """Return what makes its step, of its tensors."""
        return super().recipe(tensors)._replace(fused=FUSED.get(self.by_torch))

    def _weights(self) -> Weights:
        return self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh


def step_natively(by_torch: Any, x: Any, state: Any, weights: Weights) -> Parts | None:
    """Return the parts of the state after one of torch's steps by the kernel, None if it cannot.

    Of a step of which no gradient is wanted. by_torch: torch's operation for it.
    """
    U = weights[0]
    if type(x) is not Tensor or U is None or by_torch not in FUSED or not is_possible():
        return None
    key = by_torch, U.shape, weights[3] is None, x.dtype
    if key not in READY:
        READY[key] = _ready(KINDS_OF_TORCH[by_torch], U, weights[3] is not None, x.dtype)
    ready = READY[key]
    return None if ready is None else ready(x, state, weights)


def _ready(kind: type[TorchCell], U: Tensor, has_bias: bool, dtype: torch.dtype) -> OneStep | None:
    """Return the step made ready, for all cells and layers of one kind and size."""
    G, I = U.shape if U.ndim == 2 else (0, 0)  # noqa: E741
    if dtype not in FLOATS or I == 0 or G == 0 or G % kind.gates:
        return None
    H = G // kind.gates
    with torch.inference_mode(False):
        cell = kind(I, H, has_bias, device="meta", dtype=dtype)  # which draws no numbers
        kinds = kind.gates, len(cell.state_sizes)
        return one_step(cell.recipe(cell.tensors()), *kinds, (I, H), dtype, bias=has_bias)
