"""Layers of cells that may be the user's own: the loop over time around one step each."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from bptt.cells.cell import Activation, Cell
from bptt.errors import BpttError, require_choice, require_flag, require_kind, require_number, shown
from bptt.kernel import ops
from bptt.kernel.blueprint import copy_of, is_computed
from bptt.kernel.layout import Layout
from bptt.kernel.native_step import Source
from bptt.kernel.ops import Recipe
from bptt.kernel.plain import is_exporting, leave_to_python, require_alike
from bptt.kernel.plain_loop import Parts
from bptt.model.hidden import each
from bptt.model.stack import STARTS, Stack

FLAT = re.compile(r"(.+)(_l\d+(?:_reverse)?)")
"""A tensor of a layer's cell, as torch names those of its layers: weight_hh_l0."""


class Recurrent(Stack):
    """Layers of cells, run over time: flax's RNN, Keras's RNN, for a step that is written in torch.

    cells: one Cell, or one for each layer, from the first up. reverse: those that run from the last
    step to the first, one for each layer, whose h is joined to the others'. dropout: with what
    probability a number between two layers is set to 0, as in torch.nn.RNN. batch_first: whether
    inputs and outputs are (B, T, ·) instead of (T, B, ·). initial: what a sequence starts from
    where no state is given: "zero", or "learned", a parameter.

    >>> import bptt, torch
    >>> layer = bptt.Recurrent(bptt.cells.MinGRU(3, 8))
    >>> output, state = layer(torch.randn(20, 4, 3))  # T = 20 steps of B = 4 sequences
    >>> output.shape, state.shape
    (torch.Size([20, 4, 8]), torch.Size([1, 4, 8]))
    """

    cells: nn.ModuleList
    reverse: nn.ModuleList
    _draws = False

    def __init__(
        self,
        cells: Cell | Sequence[Cell],
        *,
        reverse: Cell | Sequence[Cell] = (),
        dropout: float = 0.0,
        batch_first: bool = False,
        initial: str = "zero",
    ) -> None:
        super().__init__()
        forward, backward = _as_list("cells", cells), _as_list("reverse", reverse)
        if not forward or len(backward) not in (0, len(forward)):
            raise BpttError(
                f"there are {len(forward)} cells and {len(backward)} in reverse; expected one for "
                "each layer, and as many in reverse, or none"
            )
        require_number("dropout", dropout, "a probability")
        if isinstance(dropout, bool) or not 0 <= dropout <= 1:
            raise BpttError(f"dropout is {dropout}; expected a probability from 0 to 1")
        require_flag("batch_first", batch_first)
        self.cells, self.reverse = nn.ModuleList(forward), nn.ModuleList(backward)
        self.dropout, self.batch_first = float(dropout), batch_first
        self.bidirectional, self.num_layers = bool(backward), len(forward)
        self.input_size, self.hidden_size = forward[0].input_size, forward[0].hidden_size
        _require_to_fit(forward, backward)
        require_choice("initial", initial, STARTS)
        if initial == "learned":
            self.learn_start()

    @property
    def state_sizes(self) -> tuple[int, ...]:
        """How many numbers each part of a layer's state has."""
        return self.cell("_l0").state_sizes

    @property
    def f(self) -> Activation | None:
        """What h is of a + W h, in layers without gates."""
        return self.cell("_l0").f

    @property
    def remembers_h_alone(self) -> bool:
        """Whether all parts of a state are h, of the last step or of earlier ones."""
        return self.cell("_l0").remembers_h_alone

    @property
    def biases(self) -> tuple[str, ...]:  # type: ignore[override]
        """What is added to the projected input, outside the loop."""
        return self.cell("_l0").biases

    @property
    def closed_by(self) -> str:  # type: ignore[override]
        """What closes the loop."""
        return self.cell("_l0").closed_by

    def cell(self, suffix: str) -> Cell:
        """Return the cell of a layer, in one direction."""
        number, _, reverse = suffix[2:].partition("_")
        cells: Any = self._modules["reverse" if reverse else "cells"]  # past our own __getattr__
        cell: Cell = cells._modules[number]
        return cell

    def part(self, name: str, suffix: str = "") -> Any:
        """Return a tensor of a layer's cell, or None for a bias that is missing."""
        value = self.__dict__.get(name + suffix)
        if value is not None:
            return value
        attribute: Any = self.cell(suffix)
        for step in name.split("."):
            attribute = getattr(attribute, step, None)
        return attribute

    def __getattr__(self, name: str) -> Any:
        """Return a tensor of a cell by the name that torch's layers would have for it."""
        match = FLAT.fullmatch(name)
        is_there = match is not None and match[2] in self.suffixes
        tensor = self.part(*match.groups()) if match and is_there else None
        return super().__getattr__(name) if tensor is None else tensor

    def parts_of(self, suffix: str) -> dict[str, Tensor]:
        """Return what a layer is made of, by names with its suffix: parameters, or as computed."""
        cell = self.cell(suffix)
        buffers = {name for name, _ in cell.named_buffers()}
        names = [name for name in cell.tensor_names() if name not in buffers]
        return {name + suffix: self.part(name, suffix) for name in names}

    def recipe(self, suffix: str) -> Recipe:
        """Return what makes the step of a layer."""
        cell = self.cell(suffix)
        return cell.recipe({name: self.part(name, suffix) for name in cell.tensor_names()})

    def _over_time(self, recipe: Recipe, *arguments: Any) -> tuple[Tensor, Parts]:
        """Run a layer's step over time, in a graph of torch.compile's as one operation."""
        is_for_python = torch.compiler.is_compiling() and not is_exporting()
        if is_for_python and isinstance(ops.native(recipe, *arguments[:3]), str):
            return self._over_time_in_python(recipe, *arguments)
        return super()._over_time(recipe, *arguments)

    @leave_to_python(
        "bptt.explain says why a layer of cells is no single operation; expected fullgraph=False"
    )
    def _over_time_in_python(self, *arguments: Any) -> tuple[Tensor, Parts]:
        """Run what torch.compile would make a graph of that is as long as the sequence."""
        return super()._over_time(*arguments)

    def as_called(self) -> Recurrent:
        """Return the layers as one call sees them, with each weight computed that is not itself."""
        cells = [(suffix, self.cell(suffix)) for suffix in self.suffixes]
        if not any(is_computed(cell) for _, cell in cells):
            return self
        seen = copy_of(self)
        for suffix, cell in cells:
            tensors = cell.tensors()
            seen.__dict__.update({name + suffix: value for name, value in tensors.items()})
        return seen

    def perturbed(self) -> Recurrent:
        """Return the layers as a call sees them that draws noise for every step, or no noise."""
        if not any(cell.is_noisy for cell in self._cells()):
            return self
        seen = copy_of(self)
        seen.__dict__["_draws"] = True
        return seen

    @property
    def is_noisy(self) -> bool:
        """Whether a call draws noise for every step."""
        return self._draws

    def _entering(self, suffix: str, source: Source) -> Source:
        """Return what enters a layer in this call, with its cell's noise."""
        cell = self.cell(suffix)
        return Source(cell.perturbed(source.p)) if self._draws and cell.is_noisy else source

    def forward(
        self,
        input: Tensor | PackedSequence,  # noqa: A002 (torch's name)
        hx: Any = None,
        *,
        lengths: Tensor | None = None,
        resets: Tensor | None = None,
    ) -> tuple[Any, Any]:
        """Return the top layer's h at every step, and every layer's last state, as torch.nn's do.

        input: (T, B, I), (B, T, I) where batch_first, (T, I) of one sequence, or a PackedSequence.
        hx: the first state, zero if left out: (layers, B, ·), or a tuple of these where a state has
        several parts; layers count twice in two directions. lengths: (B,), where each sequence ends
        if that is before T; beyond, h is 0. resets: as many steps and sequences as the input, true
        before a step where a sequence's state is zeroed.
        """
        if torch.compiler.is_compiling() and any(is_computed(cell) for cell in self._cells()):
            return self._forward_in_python(input, hx, lengths, resets)
        return self._forward(input, hx, lengths, resets)

    def _forward(self, input: Any, *others: Any) -> tuple[Any, Any]:  # noqa: A002
        seen = self.as_called().perturbed()
        if isinstance(input, PackedSequence):
            return seen._packed(input, *others)
        return seen.over_sequences(input, *others)

    @leave_to_python("a cell's weight is made of others at every call; expected fullgraph=False")
    def _forward_in_python(self, *arguments: Any) -> tuple[Any, Any]:
        return self._forward(*arguments)

    def _cells(self) -> list[Cell]:
        return [*self.cells, *self.reverse]

    def _packed(self, packed: PackedSequence, hx: Any, *others: Tensor | None) -> tuple[Any, Any]:
        if any(other is not None for other in others):
            raise BpttError("lengths or resets are given with a PackedSequence; expected a tensor")
        rows, sizes, order, back = packed
        require_alike("input", rows, self.part("weight_ih", "_l0"))
        start = self.first_state(hx, int(sizes[0]), rows, is_single=False)
        sort = None if order is None else (lambda part: part[:, order])
        unsort = None if back is None else (lambda part: part[:, back])
        every, last = self.run(rows, start if sort is None else each(sort, start), Layout(sizes))
        output = ops.as_output(every[-1], batch_first=False)
        last = last if unsort is None else each(unsort, last)
        return PackedSequence(output, sizes, order, back), last


def _as_list(name: str, cells: object) -> list[Cell]:
    as_list = [cells] if isinstance(cells, Cell) else cells
    if not isinstance(as_list, list | tuple | nn.ModuleList):
        raise BpttError(f"{name} is {shown(cells)}; expected a bptt.Cell, or a list of them")
    for cell in as_list:
        require_kind(f"one of {name}", cell, Cell, "a bptt.Cell, such as bptt.cells.MinGRU(3, 8)")
    return list(as_list)


def _require_to_fit(forward: list[Cell], backward: list[Cell]) -> None:
    """Raise BpttError unless each layer takes what the one below gives, and has a like state."""
    sizes = forward[0].state_sizes
    width = sizes[0] * (2 if backward else 1)
    for cells in (forward, backward):
        for k, cell in enumerate(cells):
            expected = forward[0].input_size if k == 0 else width
            if cell.input_size != expected:
                raise BpttError(
                    f"cell {k} takes {cell.input_size} inputs; expected {expected}, what is below "
                    "it gives"
                )
            if cell.state_sizes != sizes:
                raise BpttError(
                    f"cell {k} has a state of {cell.state_sizes}, and cell 0 one of {sizes}; "
                    "expected the same: put others into a Recurrent of their own"
                )
