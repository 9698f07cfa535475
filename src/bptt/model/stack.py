"""Layers over time, one above the other: how they run, whatever their cells are.

A layer's first product, pᵗ = b + U xᵗ + R yᵗ⁻¹, stands apart from its loop over time: it needs no
loop, and for a token it is no product but a look-up (see `bptt.model.encodings`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from bptt.cells.cell import Activation
from bptt.errors import BpttError, shown
from bptt.kernel import ops
from bptt.kernel.layout import DENSE, Layout, Packing
from bptt.kernel.native_step import Source
from bptt.kernel.ops import Recipe, Run
from bptt.kernel.plain import require_alike
from bptt.kernel.plain_loop import Parts
from bptt.model.hidden import Hidden, each
from bptt.model.masks import as_mask, steps_alive

STARTS = ("zero", "learned")
"""What sequences may start from."""


class Stack(nn.Module):
    """Layers of cells, each in one direction or both.

    A layer in one direction goes by a suffix, as torch names its parameters: "_l0", "_l0_reverse".
    biases: what is added to the projected input, outside the loop. closed_by: what closes the loop:
    "W" alone, with "gates", or with "more".
    """

    input_size: int
    hidden_size: int
    num_layers: int
    bidirectional: bool
    dropout: float
    batch_first: bool
    biases: ClassVar[tuple[str, ...]] = ("bias_ih",)
    closed_by: str = "W"

    def part(self, name: str, suffix: str = "") -> Any:
        """Return a tensor of a layer, such as weight_hh, or None for a bias that is missing."""
        raise NotImplementedError

    def parts_of(self, suffix: str) -> dict[str, Tensor]:
        """Return what a layer is made of, by names with its suffix: parameters, or as computed."""
        raise NotImplementedError

    def recipe(self, suffix: str) -> Recipe:
        """Return what makes the step of one layer."""
        raise NotImplementedError

    @property
    def f(self) -> Activation | None:
        """What h is of a + W h, in layers without gates."""
        raise NotImplementedError

    @property
    def is_noisy(self) -> bool:
        """Whether a call draws noise for every step."""
        return False

    @property
    def remembers_h_alone(self) -> bool:
        """Whether all parts of a state are h, of the last step or of earlier ones."""
        return len(self.state_sizes) <= 1

    @property
    def state_sizes(self) -> tuple[int, ...]:
        """How many numbers each part of a layer's state has."""
        raise NotImplementedError

    @property
    def suffixes(self) -> Iterator[str]:
        """The suffix of each layer in each direction."""
        for k in range(self.num_layers):
            for direction in ("", "_reverse")[: 1 + self.bidirectional]:
                yield f"_l{k}{direction}"

    def layer(
        self,
        suffix: str,
        rows: Tensor,
        state: Parts,
        layout: Layout,
        *,
        is_projected: bool,
        through: Run | None = None,
    ) -> tuple[Tensor, Parts]:
        """Run one layer in one direction over time, on its input or on the projection of it."""
        recipe, source = self.recipe(suffix), Source(rows)
        if not is_projected:
            source = Source(rows, self.part("weight_ih", suffix), *self._biases(suffix))
        source = self._entering(suffix, source)
        return self._over_time(recipe, source, state, layout, through or ops.run)

    def _entering(self, suffix: str, source: Source) -> Source:
        """Return what enters a layer in this call."""
        return source

    def _over_time(
        self, recipe: Recipe, source: Source, state: Parts, layout: Layout, through: Run
    ) -> tuple[Tensor, Parts]:
        """Run a layer's step over time."""
        return through(recipe, source, state, layout)

    def input_bias(self, suffix: str = "_l0") -> Tensor | None:
        """Return what is added to a layer's projected input."""
        U: Tensor = self.part("weight_ih", suffix)
        return Source(U, U, *self._biases(suffix)).bias

    def _biases(self, suffix: str) -> list[Tensor | None]:
        return [self.part(name, suffix) for name in self.biases]

    def zero_state(self, B: int) -> Hidden:
        """Return the state of B fresh sequences."""
        like: Tensor = self.part("weight_ih", "_l0")
        depth = self.num_layers * (2 if self.bidirectional else 1)
        parts = [like.new_zeros(depth, B, size) for size in self.state_sizes]
        return tuple(parts) if len(parts) > 1 else parts[0]

    def learn_start(self) -> None:
        """Make the state of fresh sequences a parameter, `start`, zero at first.

        Of each part of the state one, (layers, ·), counting a layer in two directions twice.
        """
        like: Tensor = self.part("weight_ih", "_l0")
        shapes = [(depth, size) for depth, _, size in self.state_shapes(1)]
        self.start = nn.ParameterList([nn.Parameter(like.new_zeros(shape)) for shape in shapes])

    def fresh_state(self, B: int) -> Hidden:
        """Return what B fresh sequences start from: zeros, or what was learned."""
        start: Any = self._modules.get("start")
        if start is None:
            return self.zero_state(B)
        parts = [part.unsqueeze(1).expand(-1, B, -1) for part in start]
        return tuple(parts) if len(parts) > 1 else parts[0]

    def require_no_resets(self, resets: Tensor | None) -> None:
        """Raise BpttError where a reset would zero a state that is learned."""
        if resets is not None and "start" in self._modules:
            raise BpttError(
                'resets are given with initial "learned"; expected initial "zero", which is what a '
                "reset sets the state to"
            )

    def state_shapes(self, B: int) -> list[tuple[int, int, int]]:
        """Return the shape of each part of the state of B sequences."""
        depth = self.num_layers * (2 if self.bidirectional else 1)
        return [(depth, B, size) for size in self.state_sizes]

    def run(
        self,
        rows: Tensor,
        hidden: Hidden,
        layout: Layout = DENSE,
        *,
        is_projected: bool = False,
        through: Run | None = None,
    ) -> tuple[list[Float[Tensor, "... D"]], Hidden]:
        """Return each layer's h at every step, and every layer's last state of each sequence.

        rows: the input, (T, B, I) or (N, I), or tokens, (T, B) or (N), or the first layer's
        projection of it, (…, G). through: what runs each layer's step over time.
        D is H, or 2H where bidirectional.
        """
        assert hidden is not None
        starts = hidden if isinstance(hidden, tuple) else (hidden,)
        every: list[Tensor] = []
        ends: list[Parts] = []
        for k in range(self.num_layers):
            if k > 0 and self.dropout > 0:
                rows = nn.functional.dropout(rows, self.dropout, self.training)
            heads = []
            for reverse in (False, True)[: 1 + self.bidirectional]:
                suffix = f"_l{k}" + ("_reverse" if reverse else "")
                state = tuple([start[len(ends)] for start in starts])
                h, end = self.layer(
                    suffix,
                    rows,
                    state,
                    replace(layout, reverse=True) if reverse else layout,
                    is_projected=is_projected and k == 0,
                    through=through,
                )
                heads.append(h)
                ends.append(end)
            rows = torch.cat(heads, dim=-1) if self.bidirectional else heads[0]
            every.append(rows)
        lasts = [
            torch.stack(parts)
            for parts in zip(*ends, strict=True)  # no view, of one either
        ]
        return every, tuple(lasts) if isinstance(hidden, tuple) else lasts[0]

    def run_to_ends(
        self,
        rows: Shaped[Tensor, "T B *x"],
        hidden: Hidden,
        alive: Bool[Tensor, "T B"] | None,
        resets: Bool[Tensor, "T B"] | None,
        *,
        is_projected: bool = False,
    ) -> tuple[list[Float[Tensor, "T B D"]], Hidden]:
        """Do what `run` does, of sequences that end when they are no longer alive.

        Beyond its end a sequence's h is 0; the last state is that at its end.
        """
        if alive is None:
            layout = DENSE if resets is None else Layout(resets=resets)
            return self.run(rows, hidden, layout, is_projected=is_projected)
        packing = Packing.of(alive)
        layout = packing.layout
        states, last = self.run(
            packing.pack(rows),
            each(packing.sort, hidden),
            layout if resets is None else replace(layout, resets=packing.pack(resets)),
            is_projected=is_projected,
        )
        return [packing.unpack(h, len(rows)) for h in states], each(packing.unsort, last)

    def over_sequences(
        self,
        input: Any,  # noqa: A002 (torch's name)
        hx: Any,
        lengths: Tensor | None,
        resets: Tensor | None,
    ) -> tuple[Tensor, Any]:
        """Return the top layer's h at every step, and the last state, of padded sequences.

        input, lengths and resets as in `Recurrent.forward`. Beyond its end a sequence's h is 0.
        """
        if not isinstance(input, Tensor) or input.ndim not in (2, 3) or 0 in input.shape[:-1]:
            raise BpttError(
                f"input is {shown(input)}; expected a tensor of T steps, (T, B, {self.input_size})"
            )
        if input.shape[-1] != self.input_size or not input.is_floating_point():
            raise BpttError(
                f"input is {shown(input)}; expected real numbers, {self.input_size} a row"
            )
        require_alike("input", input, self.part("weight_ih", "_l0"))
        is_single = input.ndim == 2
        rows = input.unsqueeze(1) if is_single else input
        if self.batch_first and not is_single:
            rows = rows.transpose(0, 1)
            resets = resets.t() if isinstance(resets, Tensor) and resets.ndim == 2 else resets
        T, B = rows.shape[:2]
        alive = steps_alive(lengths, T, B, rows.device)
        if resets is not None:
            if is_single and isinstance(resets, Tensor) and resets.ndim == 1:
                resets = resets.unsqueeze(1)
            resets = as_mask("resets", resets, T, B).to(rows.device)
            self.require_no_resets(resets)
            resets = resets if alive is None else resets & alive
        start = self.first_state(hx, B, rows, is_single=is_single)
        every, last = self.run_to_ends(rows, start, alive, resets)
        output = ops.as_output(every[-1], batch_first=self.batch_first and not is_single)
        if is_single:
            return output.squeeze(1), each(lambda part: part.squeeze(1), last)
        return output, last

    def first_state(self, hx: Any, B: int, like: Tensor, *, is_single: bool) -> Hidden:
        """Return the first state, or raise BpttError where it is that of other layers."""
        if hx is None:
            return each(lambda part: part.to(like), self.fresh_state(B))
        parts = tuple(hx) if isinstance(hx, tuple | list) else (hx,)
        shapes = self.state_shapes(B)
        wanted = [(depth, size) if is_single else (depth, B, size) for depth, _, size in shapes]
        got = [tuple(part.shape) if isinstance(part, Tensor) else None for part in parts]
        if got != wanted:
            raise BpttError(
                f"hx is {shown(hx) if None in got else ' and '.join(map(str, got))}; expected "
                f"{' and '.join(map(str, wanted))}"
            )
        for part in parts:
            require_alike("hx", part, self.part("weight_ih", "_l0"))
        starts = tuple(part.unsqueeze(1) if is_single else part for part in parts)
        return starts if len(starts) > 1 else starts[0]
