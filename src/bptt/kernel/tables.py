"""A lowered program as the native kernel takes it: places, instructions and products."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, NamedTuple

from bptt.kernel import binding
from bptt.kernel.program import ALONG_A_ROW, ELEMENTWISE

READ_A_ROW = (*ALONG_A_ROW, "spread", "look_up")
"""Operations that read a row while they write one."""
OPS = {name: code for code, name in enumerate((*ELEMENTWISE, *READ_A_ROW, "accumulate"))}
"""The number of each operation; native/instructions.hpp has them in the same order."""


class Place(IntEnum):
    """In which memory an array lies; native/program.hpp has them in the same order."""

    REGISTER = 0  # of a block of rows
    SCRATCH = 1  # of a step's rows
    VECTOR = 2  # weight `which` from its column `at` on, the same for all rows
    CONSTANT = 3  # number `which`
    INPUT = 4  # p
    PAST = 5  # what state `which` was, `at` steps before
    NEW = 6  # state `which`
    SAVED = 7  # what the forward pass keeps
    ABOVE = 8  # the gradient that comes from above, of state `which`
    ARRIVED = 9  # the gradient that comes from later steps, of state `which`
    DELTA = 10  # ∂L/∂ of products, or of p: rows of many steps
    MADE = 11  # what products were made of: rows of many steps
    SUM = 12  # sums over all rows, for weight `which`
    PUSHED = 13  # the gradient that goes `at` steps back, of state `which`
    TABLE = 14  # weight `which`, whose rows are looked up


class Array(NamedTuple):
    """Rows of `width`: where, which, and from where on; see Place."""

    place: int
    which: int
    width: int
    at: int = 0


class Operand(NamedTuple):
    """Columns of an array, from one on."""

    array: int = -1
    column: int = 0


NOTHING = Operand()


class Instruction(NamedTuple):
    """out = op(args), for `width` columns.

    spread: a bit for each argument that has one number a row, which stands for all columns.
    """

    op: int
    width: int
    out: Operand
    args: tuple[Operand, ...]
    number: float = 0.0
    spread: int = 0


class Part(NamedTuple):
    """Columns of a product: where they go, and what is added to them: rows, and a vector."""

    out: Operand
    width: int
    rows: Operand
    vector: Operand


class Block(NamedTuple):
    """A block of a weight matrix."""

    weight: int
    row: int
    column: int
    rows: int
    columns: int

    def is_followed_by(self, other: Block) -> bool:
        """Return whether another block stands right beside this one, as high as it."""
        ours = (self.weight, self.row, self.column + self.columns, self.rows)
        return ours == (other.weight, other.row, other.column, other.rows)

    def with_more(self, columns: int) -> Block:
        """Return the block with more columns."""
        return self._replace(columns=self.columns + columns)


def block_at(at: tuple[int, int, int], rows: int, columns: int) -> Block:
    """Return the block of a weight that begins at a row and a column."""
    weight, row, column = at
    return Block(weight, row, column, rows, columns)


class Product(NamedTuple):
    """Rows z times blocks side by side; or, if back, times their transposes, one below another."""

    z: Operand
    is_back: bool
    blocks: tuple[Block, ...]
    parts: tuple[Part, ...]


class Group(NamedTuple):
    """Products of the same rows, whose gradients are had together: of blocks, Σ δ zᵀ.

    deltas: the DELTA array. z: a MADE array, or columns of a PAST one.
    """

    deltas: int
    z: Operand
    blocks: tuple[Block, ...]


class LookUp(NamedTuple):
    """Columns of a DELTA array, which belong to a table's rows, from column `at` on.

    rows: the MADE array that says to which.
    """

    deltas: int
    column: int
    width: int
    rows: int
    weight: int
    at: int


class Sum(NamedTuple):
    """Columns of a DELTA array, whose sum over all rows belongs to a vector, from `at` on."""

    deltas: int
    column: int
    width: int
    weight: int
    at: int


Stage = tuple[list[Instruction], list[Product]]


@dataclass
class Lowered:
    """All that the native loop is told of a program."""

    arrays: list[Array] = field(default_factory=list)
    constants: list[float] = field(default_factory=list)
    stages: list[Stage] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)
    sums: list[Sum] = field(default_factory=list)
    look_ups: list[LookUp] = field(default_factory=list)
    of_p: int = -1  # the DELTA array of ∂L/∂p


class Shape(NamedTuple):
    """p: its width. states: of each state line its width, and how many steps back it is read."""

    p: int
    states: tuple[tuple[int, int], ...]


def encoded(lowered: Lowered, shape: Shape) -> Any:
    """Return the native kernel's own tables of a lowered program."""
    instructions, stages, products, parts, blocks, groups = (list[list[int]]() for _ in range(6))
    constants = list(lowered.constants)
    for code, multiplied in lowered.stages:
        stages.append([len(instructions), len(code), len(products), len(multiplied)])
        for i in code:
            if i.number not in constants:
                constants.append(i.number)
            args = [*i.args, *[NOTHING] * (3 - len(i.args))]
            operands = [n for operand in (i.out, *args) for n in operand]
            instructions.append([i.op, i.width, *operands, constants.index(i.number), i.spread])
        for product in multiplied:
            ranges = [len(blocks), len(product.blocks), len(parts), len(product.parts)]
            products.append([*product.z, int(product.is_back), *ranges])
            blocks += [list(block) for block in product.blocks]
            parts += [[*part.out, part.width, *part.rows, *part.vector] for part in product.parts]
    for group in lowered.groups:
        groups.append([group.deltas, *group.z, len(blocks), len(group.blocks)])
        blocks += [list(block) for block in group.blocks]
    arrays = [list(map(int, array)) for array in lowered.arrays]
    states = [list(state) for state in shape.states]
    sums = [list(map(int, total)) for total in lowered.sums]
    look_ups = [list(map(int, row)) for row in lowered.look_ups]
    tables = (states, arrays, instructions, stages, products, parts, blocks, groups)
    return binding.native.Program(shape.p, lowered.of_p, *tables, sums, look_ups, constants)
