"""What a cell is: one step of a recurrent network, written once."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import NoneType
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from bptt.errors import BpttError, require_whole, shown
from bptt.kernel.blueprint import (
    Blueprint,
    StandIn,
    blueprint_of,
    names_of,
    note_arguments,
    number,
    tensors_of,
)
from bptt.kernel.native_step import Source
from bptt.kernel.ops import Recipe
from bptt.kernel.plain import require_alike
from bptt.kernel.plain_loop import Parts, Step


@runtime_checkable
class Activation(Protocol):
    """A function of each unit by itself, such as torch.tanh."""

    def __call__(self, a: Tensor, /) -> Tensor:
        """Return what the units are."""

    def __hash__(self) -> int:
        """Return what tells it from others."""


MOST_UNITS = 2**31 - 1
"""What the kernel's loops can count."""
PLAIN = (bool, int, float, str, NoneType, list, tuple)
"""What a file can say of an argument."""
INSTEAD = "a cell is a step of a loop over time; expected the hook on the layer around it"


class Cell(nn.Module):
    """One step of a recurrent network: sᵗ = step(pᵗ, sᵗ⁻¹), where pᵗ = bias_ih + weight_ih xᵗ.

    Subclasses write `step`, of rows, in torch's operations, and have the parameters that it reads.
    The loop over time, its gradient and all that is made of that come from it; see
    docs/your-own-cell.md.

    gates: how many numbers of p a unit has. states: how many parts the state has, each of
    hidden_size numbers, or the sizes of each. The first part is h, the layer's output.
    f: of a cell that is h ← f(p + W h). keeps, lets_in: by which gate's bias, the larger it is, the
    state is kept, and new is let in. closed_by: what closes the loop over time: "W" alone, with
    "gates", or with "more". is_torchs: whether its parameters are those of torch's cells, which a
    Network starts as it is told; others start themselves. noise: while it is training, by how much
    standard Gaussian noise, drawn for every step, is multiplied that is added to p.

    >>> class Leaky(Cell):
    ...     def __init__(self, input_size, hidden_size, alpha=0.1):
    ...         super().__init__(input_size, hidden_size)
    ...         self.weight_hh = nn.Parameter(torch.eye(hidden_size))
    ...         self.alpha = alpha
    ...
    ...     def step(self, p, h):
    ...         return torch.lerp(h, torch.relu(p + h @ self.weight_hh.T), self.alpha)
    >>> Leaky(3, 5)(torch.randn(2, 3)).shape  # one step of B = 2 sequences
    torch.Size([2, 5])
    """

    gates: int = 1
    states: int | tuple[int, ...] = 1
    f: ClassVar[Activation | None] = None
    keeps: ClassVar[int | None] = None
    lets_in: ClassVar[int | None] = None
    closed_by: ClassVar[str] = "gates"
    is_torchs: ClassVar[bool] = False
    noise: float = 0.0
    biases: ClassVar[tuple[str, ...]] = ("bias_ih",)
    step: Callable[..., Any]
    weight_ih: Float[Tensor, "G I"]
    bias_ih: Float[Tensor, " G"] | None
    arguments: dict[str, Any]

    def __new__(cls, *args: Any, **options: Any) -> Cell:
        """Note the arguments, from which the same can be made again."""
        made = super().__new__(cls)
        note_arguments(made, args, options)
        number(made)
        return made

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take on what another one is: a copy, too, is one of its own."""
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        number(self)

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        gates: int | None = None,
        states: int | tuple[int, ...] | None = None,
        bias: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if not callable(getattr(self, "step", None)):
            raise BpttError(
                f"{type(self).__name__} has no step; expected a method step(self, p, *state) that "
                "returns the new state"
            )
        require_whole("input_size", input_size, 0, MOST_UNITS)
        require_whole("hidden_size", hidden_size, 1, MOST_UNITS)
        self.input_size, self.hidden_size = input_size, hidden_size
        self.gates = self.gates if gates is None else gates
        self.states = self.states if states is None else states
        G = self.gates * hidden_size
        self.weight_ih = nn.Parameter(torch.empty(G, input_size, device=device, dtype=dtype))
        nn.init.uniform_(self.weight_ih, -(hidden_size**-0.5), hidden_size**-0.5)
        self.bias_ih = nn.Parameter(self.weight_ih.new_zeros(G)) if bias else None

    def matrix(self, *shape: int) -> nn.Parameter:
        """Return a weight, uniform within ±1/√H, as torch's are at first."""
        bound = self.hidden_size**-0.5
        return nn.Parameter(self.weight_ih.new_empty(shape).uniform_(-bound, bound))

    @property
    def remembers_h_alone(self) -> bool:
        """Whether all parts of the state are h, of the last step or of earlier ones."""
        return len(self.state_sizes) == 1

    @property
    def state_sizes(self) -> tuple[int, ...]:
        """How many numbers each part of the state has."""
        if isinstance(self.states, int):
            return (self.hidden_size,) * self.states
        return tuple(self.states)

    def extra_repr(self) -> str:
        """Return what print(net) shows of it."""
        parameters = inspect.signature(type(self).__init__).parameters
        usual = {name: parameter.default for name, parameter in parameters.items()}
        more = [f"{k}={v!r}" for k, v in self.options.items() if v != usual.get(k)]
        return ", ".join([f"{self.input_size}, {self.hidden_size}", *more])

    @property
    def options(self) -> dict[str, Any]:
        """The arguments that it was made with, but for the two sizes."""
        return dict([*self.arguments.items()][2:])

    def config(self) -> dict[str, Any]:
        """Return its class and arguments as plain values, for a file."""
        for name, value in self.options.items():
            if not isinstance(value, PLAIN):
                raise BpttError(
                    f"{name} of a {type(self).__name__} is {shown(value)}; expected a number or a "
                    "text, for a file to say what the network is made of"
                )
        return {"class": type(self).__name__, **self.options}

    def tensors(self) -> dict[str, Tensor]:
        """Return its tensors by name, as this call sees them, those of the input included."""
        return tensors_of(self, f"a {type(self).__name__}", INSTEAD)

    def tensor_names(self) -> list[str]:
        """Return the names of its tensors."""
        return names_of(self)

    def recipe(self, tensors: dict[str, Tensor]) -> Recipe:
        """Return what makes its step, of its tensors."""
        names = [name for name in tensors if name != "weight_ih" and name not in self.biases]
        return Recipe(step_of, tuple(tensors[name] for name in names), (blueprint_of(self, names),))

    def zero_state(self, B: int, like: Tensor) -> Parts:
        """Return the state of B fresh sequences."""
        return tuple(like.new_zeros(B, size) for size in self.state_sizes)

    def forward(self, x: Shaped[Tensor, "*B I"], state: Any = None) -> Any:
        """Return the state after one step: h, or a tuple of all parts.

        x: (B, I), or (I) of one sequence. state: as it is returned, zero if left out. This goes by
        torch's own operations: of one step there is nothing that the kernel makes faster.
        """
        is_single = isinstance(x, Tensor) and x.ndim == 1
        if not isinstance(x, Tensor) or x.ndim not in (1, 2) or x.shape[-1] != self.input_size:
            raise BpttError(
                f"x is {shown(x)}; expected a tensor (B, {self.input_size}) or ({self.input_size})"
            )
        require_alike("x", x, self.weight_ih)
        rows = x.unsqueeze(0) if is_single else x
        moved = self.move(rows, self._parts(state, rows, is_single=is_single))
        moved = tuple(part.squeeze(0) for part in moved) if is_single else moved
        return moved if len(moved) > 1 else moved[0]

    def move(self, x: Float[Tensor, "B I"], state: Parts) -> Parts:
        """Return the parts of the state after one step, by torch's operations."""
        biases = [getattr(self, name) for name in self.biases]
        return checked_step(self, self.perturbed(Source(x, self.weight_ih, *biases).p), state)

    @property
    def is_noisy(self) -> bool:
        """Whether noise is drawn now."""
        return self.training and self.noise > 0

    def perturbed(self, p: Float[Tensor, "... G"]) -> Float[Tensor, "... G"]:
        """Return p with the noise, if there is any now."""
        return p + self.noise * torch.randn_like(p) if self.is_noisy else p

    def _parts(self, state: Any, rows: Tensor, *, is_single: bool) -> Parts:
        """Return the state as the loop has it, or raise BpttError where it is another cell's."""
        if state is None:
            return self.zero_state(len(rows), rows)
        parts = tuple(state) if isinstance(state, tuple | list) else (state,)
        sizes = [tuple(part.shape) if isinstance(part, Tensor) else None for part in parts]
        lead = () if is_single else (len(rows),)
        wanted = [(*lead, size) for size in self.state_sizes]
        if sizes != wanted:
            raise BpttError(
                f"the state of a {type(self).__name__} is {shown(state)}; expected "
                f"{' and '.join(map(str, wanted))}, or None for zeros"
            )
        for part in parts:
            require_alike("the state", part, self.weight_ih)
        return tuple(part.unsqueeze(0) for part in parts) if is_single else parts


def step_of(*arguments: Any) -> Step:
    """Return the step of a cell, of its tensors and its Blueprint."""
    *tensors, option = arguments
    blueprint: Blueprint = option.blueprint if isinstance(option, StandIn) else option
    cell: Any = blueprint.of(tensors)

    return lambda p, state: checked_step(cell, p, state)


def checked_step(cell: Cell, p: Float[Tensor, "B G"], state: Parts) -> Parts:
    """Return the parts of the state after a cell's step, or raise BpttError if they are none."""
    moved = cell.step(p, *state)
    parts = tuple(moved) if isinstance(moved, tuple | list) else (moved,)
    _require_same_form(cell, parts, state)
    return parts


def _require_same_form(cell: Cell, moved: tuple[Any, ...], state: Parts) -> None:
    """Raise BpttError unless a step has returned a state of the form that it was given."""
    got = [part.shape if isinstance(part, Tensor) else type(part) for part in moved]
    wanted = [part.shape for part in state]
    if got != wanted:
        raise BpttError(
            f"{type(cell).__name__}.step returned {' and '.join(map(shown, moved))}; expected the "
            f"parts of its state, {' and '.join(str(tuple(shape)) for shape in wanted)}"
        )
    kinds = {part.dtype for part in (*moved, *state)}
    if len(kinds) > 1:
        raise BpttError(
            f"{type(cell).__name__}.step returned {' and '.join(str(p.dtype) for p in moved)} for "
            f"a state of {state[0].dtype}; expected the same"
        )


def cell_from_config(config: Mapping[str, Any]) -> Callable[[int, int], Cell]:
    """Return what makes a cell of the class, and with the arguments, that `Cell.config` noted."""
    options = dict(config)
    name = options.pop("class", None)
    kinds = {kind.__name__: kind for kind in _subclasses(Cell)}
    places = {kind.__module__ for kind in _subclasses(Cell) if kind.__name__ == name}
    if len(places) > 1:
        raise BpttError(
            f"several modules have a cell called {name}: {', '.join(sorted(places))}; expected one "
            "of them under another name"
        )
    if name not in kinds:
        raise BpttError(
            f"the cell is of a class {shown(name)} that is not defined here; expected one of "
            f"{', '.join(kinds)}; import the module that has yours first"
        )
    try:
        inspect.signature(kinds[name]).bind(1, 1, **options)
    except TypeError as error:
        raise BpttError(f"the cell {name!r} has other arguments: {error}") from None
    return partial(kinds[name], **options)


def _subclasses(kind: type[Cell]) -> Iterator[type[Cell]]:
    for subclass in kind.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)
