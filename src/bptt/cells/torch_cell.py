"""What torch's own cells share: their parameters, and an operation of torch's for one step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from bptt.cells.cell import Cell
from bptt.kernel.fused import FUSED
from bptt.kernel.ops import Recipe
from bptt.kernel.plain import is_transformed
from bptt.kernel.plain_loop import Parts


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

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, **where: Any) -> None:
        super().__init__(input_size, hidden_size, bias=bias, **where)
        self.weight_hh = self.matrix(self.gates * hidden_size, hidden_size)
        size = None if self.bias_ih is None else len(self.bias_ih)
        del self.bias_ih  # to come after weight_hh, as torch has it: optimizers go by the order
        self.bias_ih = None if size is None else self.matrix(size)
        self.bias_hh = None if size is None else self.matrix(size)

    def forward(self, x: Tensor, state: Any = None) -> Any:
        """Return the state after one step; see `Cell.forward`."""
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

    def _weights(self) -> tuple[Tensor | None, ...]:
        return self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh
