"""Where a program's values lie while the native loop runs it: from lines to instructions.

The loop takes one step of a stretch of rows at a time. A program is cut into stages: what can be
computed before the first product, the products, what can be computed of them, and so on. Between
two products the rows are done block by block, so that what is used at once stays in the nearest
cache (REGISTER); what lasts longer has a row for each of the batch's (SCRATCH). A product adds to
its result, where it stores it, what the program adds to it next.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from bptt.kernel.program import ELEMENTWISE, Program, Value
from bptt.kernel.rules import Backward
from bptt.kernel.tables import (
    NOTHING,
    OPS,
    READ_A_ROW,
    Array,
    Block,
    Group,
    Instruction,
    LookUp,
    Lowered,
    Operand,
    Part,
    Place,
    Product,
    Shape,
    Sum,
    block_at,
)


def lower_forward(program: Program, shape: Shape, saved: Iterable[int] = ()) -> Lowered:
    """Return how a step's program is run, with these of its lines kept."""
    lowering = _Lowering(program, shape)
    for (_, state, column), line in program.results.items():
        lowering.send(line, Array(Place.NEW, state, shape.states[state][0]), column)
    for i, line in enumerate(saved):
        lowering.send(line, Array(Place.SAVED, i, program.values[line].width))
    return lowering.run()


def lower_backward(backward: Backward, shape: Shape) -> Lowered:
    """Return how a gradient's program is run."""
    results = backward.program.results
    lowering = _Lowering(backward.program, shape, backward.saved)
    lowering.send_back({name[1:]: line for name, line in results.items() if name[0] == "state"})
    lowering.group(backward)
    lowering.send_to_p({name[1]: line for name, line in results.items() if name[0] == "p"})
    for name, line in results.items():
        if name[0] == "vector":
            lowering.sum(line, *name[1:])
    for line, (weight, column, _) in backward.look_ups.items():
        lowering.look_up(results["look_up", line], results["row", line], weight, column)
    return lowering.run()


class _Lowering:
    """One program on its way: first what is to go where is noted, then all is put in order."""

    def __init__(self, program: Program, shape: Shape, saved: Iterable[int] = ()) -> None:
        self.program, self.shape = program, shape
        self.values = list(program.values)
        self.saved = {line: i for i, line in enumerate(saved)}
        self.lowered = Lowered()
        self.arrays: dict[Array, int] = {}
        self.wanted: dict[int, list[Operand]] = {}  # where a line's value is to go
        self.sums: dict[int, list[Operand]] = {}  # to what its rows are added
        self.zeros: list[tuple[Operand, int]] = []
        self.groups: dict[tuple[int, ...], int] = {}  # of lines δ, side by side: their array

    def array(self, array: Array) -> int:
        """Return the number of an array."""
        if array not in self.arrays:
            self.arrays[array] = self.new_array(*array)
        return self.arrays[array]

    def new_array(self, place: int, index: int, width: int, at: int = 0) -> int:
        """Return the number of an array that is nobody else's."""
        self.lowered.arrays.append(Array(place, index, width, at))
        return len(self.lowered.arrays) - 1

    def send(self, line: int, array: Array, column: int = 0) -> None:
        """Note that a line's value belongs into columns of an array."""
        self.wanted.setdefault(line, []).append(Operand(self.array(array), column))

    def sum(self, line: int, weight: int, column: int) -> None:
        """Note that a line's values are to be summed over all rows, for columns of a vector."""
        wanted = [o for o in self.wanted.get(line, []) if self._is_delta(o)]
        if wanted:
            width = self.values[line].width
            self.lowered.sums.append(Sum(*wanted[0], width, weight, column))
        else:
            array = self.array(Array(Place.SUM, weight, 0))
            self.sums.setdefault(line, []).append(Operand(array, column))

    def look_up(self, line: int, row: int, weight: int, column: int) -> None:
        """Note that a line's values belong to the rows of a table that another line names."""
        made = self.new_array(Place.MADE, 0, 1)
        self.wanted.setdefault(row, []).append(Operand(made))
        width, wanted = self.values[line].width, self.wanted.setdefault(line, [])
        if not any(map(self._is_delta, wanted)):
            wanted.append(Operand(self.new_array(Place.DELTA, 0, width)))
        (deltas, *_) = filter(self._is_delta, wanted)
        self.lowered.look_ups.append(LookUp(*deltas, width, made, weight, column))

    def _is_delta(self, operand: Operand) -> bool:
        """Return whether a place holds rows of many steps."""
        return self.lowered.arrays[operand.array].place == Place.DELTA

    def send_back(self, lines: Mapping[tuple[int, int, int], int]) -> None:
        """Note what goes back to (state, column, delay); what nothing goes to gets zeros."""
        for state, (width, farthest) in enumerate(self.shape.states):
            columns = set(range(width))
            for (index, column, delay), line in lines.items():
                if index == state:
                    place = Place.ARRIVED if farthest == 1 else Place.PUSHED
                    self.send(
                        line, Array(place, state, width, delay if farthest > 1 else 0), column
                    )
                    columns -= set(range(column, column + self.values[line].width))
            if farthest == 1:
                array = self.array(Array(Place.ARRIVED, state, width))
                self.zeros += [(Operand(array, c), 1) for c in sorted(columns)]

    def group(self, backward: Backward) -> None:
        """Give the δ of products of the same rows their columns, side by side."""
        results = self.program.results
        for z, products in backward.products.items():
            if not products:
                continue
            rows = results["z", z]
            deltas = tuple(results["product", line] for line, _ in products)
            blocks = tuple(
                block_at(at, self.values[rows].width, self.values[delta].width)
                for delta, (_, at) in zip(deltas, products, strict=True)
            )
            array = self._side_by_side(deltas)
            self.lowered.groups.append(Group(array, self._met(rows), blocks))

    def _side_by_side(self, lines: tuple[int, ...]) -> int:
        """Return an array of rows of many steps that holds these values."""
        array = self.new_array(Place.DELTA, 0, sum(self.values[line].width for line in lines))
        self.groups[lines] = array
        column = 0
        for line in lines:
            self.wanted.setdefault(line, []).append(Operand(array, column))
            column += self.values[line].width
        return array

    def _met(self, line: int) -> Operand:
        """Return where the rows lie that products were made of."""
        value = self.values[line]
        if value.op == "state" and self.shape.states[value.at[0]][1] == 1:
            return self._source(line)
        array = self.new_array(Place.MADE, 0, value.width)
        self.wanted.setdefault(line, []).append(Operand(array))
        return Operand(array)

    def send_to_p(self, lines: Mapping[int, int]) -> None:
        """Give ∂L/∂p its columns, or those of a group of products that are the same."""
        ordered = tuple(lines[column] for column in sorted(lines))
        if (
            sum(self.values[line].width for line in ordered) == self.shape.p
            and ordered in self.groups
        ):
            self.lowered.of_p = self.groups[ordered]
            return
        self.lowered.of_p = self.new_array(Place.DELTA, 0, self.shape.p)
        for column, line in lines.items():
            self.wanted.setdefault(line, []).append(Operand(self.lowered.of_p, column))

    # All is noted; now it is put in order.

    def run(self) -> Lowered:
        """Return the program with everything in its place."""
        self.values = self._with_numbers_for_rows()
        used = {*self.wanted, *self.sums, *(arg for v in self.values for arg in v.args)}
        self.stages = self._stages()
        self.products = self._products()
        self.parts, absorbed = self._absorb()
        self.computed = [
            line
            for line, v in enumerate(self.values)
            if v.args and v.op not in ("product", "back") and line not in absorbed
            if v.op != "spread" or line in used
        ]
        self.reads = self._reads()
        self.places: dict[int, Operand] = {}
        self.free: dict[int, list[int]] = {}
        self.last: list[tuple[int, Operand, Operand]] = []  # copies that must wait for all else
        for stage in range(max(self.stages, default=0) + 1):
            self._emit_stage(stage)
        self._emit_last()
        return self.lowered

    def _with_numbers_for_rows(self) -> list[Value]:
        """Return the values, whose operations of several arguments read what is spread as it is."""

        def before(line: int) -> int:
            value = self.values[line]
            return value.args[0] if value.op == "spread" else line

        return [
            v._replace(args=tuple(map(before, v.args))) if _is_of_several(v) else v
            for v in self.values
        ]

    def _stages(self) -> list[int]:
        """Return how many products stand before each line, one after the other."""
        stages: list[int] = []
        for v in self.values:
            stage = max((stages[arg] for arg in v.args), default=0)
            stages.append(stage + (v.op in ("product", "back")))
        return stages

    def _products(self) -> list[int]:
        """Return the lines of products in the order in which they are computed."""
        lines = [i for i, v in enumerate(self.values) if v.op in ("product", "back")]

        def order(line: int) -> tuple[Any, ...]:
            v = self.values[line]
            return self.stages[line], v.args, v.op == "product" and v.at, line

        return sorted(lines, key=order)

    def _absorb(self) -> tuple[dict[int, tuple[int, int | None, int | None]], set[int]]:
        """Return for each product the line that it stores, with the rows and vector that it adds.

        Also the lines that vanish so.
        """
        users: dict[int, list[int]] = {}
        for line, v in enumerate(self.values):
            for arg in v.args:
                users.setdefault(arg, []).append(line)
        parts: dict[int, tuple[int, int | None, int | None]] = {}
        absorbed: set[int] = set()
        for place, product in enumerate(self.products):
            line = product
            rows: int | None = None
            vector: int | None = None
            while (
                len(users.get(line, [])) == 1 and line not in self.wanted and line not in self.sums
            ):
                (user,) = users[line]
                if self.values[user].op != "add":
                    break
                other = sum(self.values[user].args) - line
                if len({self.values[i].width for i in (line, user, other)}) > 1:
                    break
                is_vector = self.values[other].op in ("vector", "constant")
                if (vector if is_vector else rows) is not None or not self._is_before(
                    other, place, parts
                ):
                    break
                rows, vector = (rows, other) if is_vector else (other, vector)
                line = user
                absorbed.add(user)
            parts[product] = (line, rows, vector)
        return parts, absorbed

    def _is_before(
        self, line: int, place: int, parts: Mapping[int, tuple[int, int | None, int | None]]
    ) -> bool:
        """Return whether a line's value is there before a product is computed."""
        earlier = {parts[product][0] for product in self.products[:place]}
        return line in earlier or self.stages[line] < self.stages[self.products[place]]

    def _reads(self) -> dict[int, list[tuple[int, int]]]:
        """Return when each line is read: (stage, 0 for instructions or 1 for products)."""
        reads: dict[int, list[tuple[int, int]]] = {}
        for line in self.computed:
            for arg in self.values[line].args:
                reads.setdefault(arg, []).append((self.stages[line], 0))
        for product, (_, rows, vector) in self.parts.items():
            for read in (*self.values[product].args, rows, vector):
                if read is not None:
                    reads.setdefault(read, []).append((self.stages[product] - 1, 1))
        for line in self.sums:
            reads.setdefault(line, []).append((self.stages[line], 0))
        return reads

    def _emit_stage(self, stage: int) -> None:
        instructions: list[Instruction] = []
        products: list[Product] = []
        self.lowered.stages.append((instructions, products))
        if stage == 0:
            for line, v in enumerate(self.values):
                if not v.args:
                    self._hand_out(line, self._source(line), instructions)
        for product in self.products:
            line = self.parts[product][0]
            if self.stages[product] == stage:
                self._hand_out(line, self.places[line], instructions)
        lines = [line for line in self.computed if self.stages[line] == stage]
        for i, line in enumerate(lines):
            self._compute(line, set(lines[i + 1 :]), instructions)
        for product in self.products:
            if self.stages[product] == stage + 1:
                self._multiply(product, products)

    def _compute(self, line: int, later: set[int], instructions: list[Instruction]) -> None:
        """Emit what computes a line, and give back the registers that nothing later reads."""
        value = self.values[line]
        reads_a_row = value.op in READ_A_ROW
        if reads_a_row:
            out = self._place(line)
        args = tuple(self._where(arg) for arg in value.args)
        for arg in set(value.args):
            operand = self.places.get(arg)
            if operand is not None and self._is_register(arg) and not self._is_read(arg, later):
                self.free.setdefault(self.values[arg].width, []).append(operand.array)
                del self.places[arg]
        if not reads_a_row:
            out = self._place(line)
        number = float(value.at[0]) if value.op == "pow" else 0.0
        if value.op == "look_up":
            weight, column, rows = value.at
            number = float(rows)
            args += (Operand(self.array(Array(Place.TABLE, weight, 0)), column),)
        width = max(value.width, self.values[value.args[0]].width)  # of a sum, what is summed
        spread = 0
        if _is_of_several(value) and value.width > 1:
            spread = sum(
                (self.values[arg].width == 1) << which for which, arg in enumerate(value.args)
            )
        instructions.append(Instruction(OPS[value.op], width, out, args, number, spread))
        self._hand_out(line, out, instructions)

    def _is_read(self, line: int, later: set[int]) -> bool:
        return any(line in self.values[user].args for user in later)

    def _is_register(self, line: int) -> bool:
        """Return whether a line's value is read only by instructions of its own stage."""
        value = self.values[line]
        return (
            bool(value.args)
            and value.op not in ("product", "back")
            and line not in {final for final, *_ in self.parts.values()}
            and not self._direct(line)
            and not self._waits(line)
            and all(read == (self.stages[line], 0) for read in self.reads.get(line, []))
        )

    def _waits(self, line: int) -> bool:
        """Return whether a line's value is copied to where it goes only after all else."""
        places = [self.lowered.arrays[o.array].place for o in self.wanted.get(line, [])]
        return Place.ARRIVED in places

    def _direct(self, line: int) -> Operand | None:
        """Return where a line's value can be computed right where it is to go."""
        for operand in self.wanted.get(line, []):
            if self._is_safe(line, operand):
                return operand
        return None

    def _is_safe(self, line: int, operand: Operand) -> bool:
        """Return whether nothing that is yet to be read lies where a line's value goes."""
        array = self.lowered.arrays[operand.array]
        if array.place != Place.ARRIVED:
            return bool(self.values[line].args)
        sources = [
            i for i, v in enumerate(self.values) if v.op == "arrived" and v.at[0] == array.which
        ]
        readers = [i for i in self.computed for arg in self.values[i].args if arg in sources]
        by_products = [p for p, part in self.parts.items() if set(part[1:]) & set(sources)]
        made_by = [p for p, part in self.parts.items() if part[0] == line]
        now = (self.stages[line], line) if not made_by else (self.stages[line], -1)
        return (
            bool(self.values[line].args)
            and all((self.stages[reader], reader) <= now for reader in readers)
            and all((self.stages[p], -1) < now or p in made_by for p in by_products)
            and not any(source in self.wanted for source in sources)
        )

    def _place(self, line: int) -> Operand:
        """Return where a line's value is to be computed."""
        width = self.values[line].width
        operand = self._direct(line)
        if operand is None and self._is_register(line):
            free = self.free.setdefault(width, [])
            operand = Operand(free.pop() if free else self.new_array(Place.REGISTER, 0, width))
        elif operand is None:
            operand = Operand(self.new_array(Place.SCRATCH, 0, width))
        self.places[line] = operand
        return operand

    def _where(self, line: int) -> Operand:
        return self._source(line) if not self.values[line].args else self.places[line]

    def _source(self, line: int) -> Operand:
        """Return where the value of a line lies that no operation makes."""
        op, _, width, at = self.values[line]
        if op == "constant":
            return Operand(self.array(self._constant(at[0], width)))
        if op == "vector":
            return Operand(self.array(Array(Place.VECTOR, at[0], width, at[1])))
        if op == "saved":
            return Operand(self.array(Array(Place.SAVED, self.saved[at[0]], width)))
        if op == "p":
            return Operand(self.array(Array(Place.INPUT, 0, self.shape.p)), at[0])
        of_states = {
            "state": Place.PAST,
            "new": Place.NEW,
            "above": Place.ABOVE,
            "arrived": Place.ARRIVED,
        }
        state, column, *delay = at
        array = Array(of_states[op], state, self.shape.states[state][0], *delay)
        return Operand(self.array(array), column)

    def _constant(self, number: float, width: int) -> Array:
        """Return the array of a number in every column."""
        constants = self.lowered.constants
        if number not in constants:
            constants.append(number)
        return Array(Place.CONSTANT, constants.index(number), width)

    def _hand_out(self, line: int, place: Operand, instructions: list[Instruction]) -> None:
        """Emit the copies and the sums of a value that is there now."""
        width = self.values[line].width
        for operand in self.wanted.get(line, []):
            if operand == place:
                continue
            if self.lowered.arrays[operand.array].place == Place.ARRIVED:
                scratch = place
                if not self.values[line].args:
                    scratch = Operand(self.new_array(Place.SCRATCH, 0, width))
                    instructions.append(Instruction(OPS["copy"], width, scratch, (place,)))
                self.last.append((width, scratch, operand))
            else:
                instructions.append(Instruction(OPS["copy"], width, operand, (place,)))
        instructions += [
            Instruction(OPS["accumulate"], width, operand, (place,))
            for operand in self.sums.get(line, [])
        ]

    def _emit_last(self) -> None:
        """Emit what goes to where something else was read."""
        instructions, _ = self.lowered.stages[-1]
        for width, place, operand in self.last:
            instructions.append(Instruction(OPS["copy"], width, operand, (place,)))
        for operand, width in self.zeros:
            zero = self.array(self._constant(0.0, width))
            instructions.append(Instruction(OPS["copy"], width, operand, (Operand(zero),)))

    def _multiply(self, product: int, products: list[Product]) -> None:
        """Emit a product, beside those of the same rows."""
        value = self.values[product]
        line, rows, vector = self.parts[product]
        part = Part(
            self._place(line),
            value.width,
            NOTHING if rows is None else self._where(rows),
            NOTHING if vector is None else self._where(vector),
        )
        if value.op == "back":
            z, blocks = Operand(self.groups[value.args]), list[Block]()
            for delta, at in zip(value.args, value.at, strict=True):
                block = block_at(at, value.width, self.values[delta].width)
                if blocks and blocks[-1].is_followed_by(block):
                    block = blocks.pop().with_more(block.columns)
                blocks.append(block)
            products.append(Product(z, True, tuple(blocks), (part,)))
            return
        block = block_at(value.at, self.values[value.args[0]].width, value.width)
        z = self._where(value.args[0])
        if (
            products
            and products[-1].z == z
            and not products[-1].is_back
            and self._alone(part, products[-1])
        ):
            last = products.pop()
            products.append(last._replace(blocks=(*last.blocks, block), parts=(*last.parts, part)))
        else:
            products.append(Product(z, False, (block,), (part,)))

    @staticmethod
    def _alone(part: Part, before: Product) -> bool:
        """Return whether a part adds nothing that the product beside it is yet to compute."""
        return all(part.rows.array != other.out.array for other in before.parts)


def _is_of_several(value: Value) -> bool:
    """Return whether a line is an elementwise operation of more than one argument."""
    return value.op in ELEMENTWISE and len(value.args) > 1
