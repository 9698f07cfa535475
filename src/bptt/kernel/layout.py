"""How the rows of a batch of sequences lie in memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from bptt.errors import BpttError


@dataclass(frozen=True)
class Layout:
    """Which rows belong to which step.

    batch_sizes: None for T steps of B rows each, in tensors (T, B, ·). Otherwise how many rows
    each step has, never rising, in tensors (N, ·), as in torch's PackedSequence: row r of every
    step is the same sequence.
    resets: rows before which the state is zeroed, (T, B) or (N,).
    reverse: time runs from the last step to the first.
    """

    batch_sizes: Int[Tensor, " T"] | None = None
    resets: Bool[Tensor, "..."] | None = None
    reverse: bool = False

    def steps(self, rows: Tensor) -> list[Tensor]:
        """Return a tensor's rows step by step, in the order of computation."""
        if self.batch_sizes is None:
            parts = rows.unbind(0)
        else:
            parts = rows.split(self.batch_sizes.tolist())
        return list(parts)[::-1] if self.reverse else list(parts)

    def join(self, parts: list[Tensor]) -> Tensor:
        """Return what `steps` took apart."""
        parts = parts[::-1] if self.reverse else parts
        return torch.stack(parts) if self.batch_sizes is None else torch.cat(parts)

    def require(self, rows: int, most: int | None = None) -> None:
        """Raise BpttError unless this is how so many rows can lie.

        The numbers of rows of the steps must add up and never rise; each row has its reset. most:
        for how many sequences there is a state, which the first step's rows are not to exceed.
        """
        sizes, resets = self.batch_sizes, self.resets
        if sizes is not None and not self.is_whole(rows):
            raise BpttError(
                f"batch_sizes are {str(sizes.tolist())[:60]} for {rows} rows; expected int64 "
                "numbers on the CPU that never rise, and whose sum is the number of rows"
            )
        if sizes is not None and most is not None and int(sizes[0]) > most:
            raise BpttError(
                f"batch_sizes begin with {int(sizes[0])}, but the state has {most} rows; expected "
                "a row for each sequence"
            )
        if resets is not None and (resets.numel() != rows or resets.dtype != torch.bool):
            raise BpttError(
                f"resets are {resets.numel()} values of {resets.dtype}; expected {rows} of "
                "torch.bool, one for each row"
            )

    def is_whole(self, rows: int) -> bool:
        """Return whether batch_sizes are those of so many packed rows."""
        sizes = self.batch_sizes
        return sizes is None or (
            sizes.dtype == torch.int64
            and sizes.is_cpu
            and sizes.ndim == 1
            and len(sizes) > 0
            and int(sizes[-1]) >= 0
            and int(sizes.sum()) == rows
            and bool((sizes[1:] <= sizes[:-1]).all())
        )

    def held(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Return the kernel's arrays: rows of each step, where they begin, and bytes of resets."""
        sizes, resets = self.batch_sizes, self.resets
        if resets is not None:
            resets = resets.to(torch.uint8).contiguous()
        if sizes is None:
            return None, None, resets
        sizes = sizes.contiguous()
        return sizes, sizes.cumsum(0) - sizes, resets

    def last(self, h: Tensor, h0: Tensor) -> Tensor:
        """Return each row's last computed state, (B, H): h0 for a row that has no step."""
        if self.batch_sizes is None:
            return h[0 if self.reverse else -1].clone()
        rows = torch.arange(len(h0), device=self.batch_sizes.device)
        lengths = (self.batch_sizes.unsqueeze(1) > rows).sum(0)
        final = torch.zeros_like(lengths) if self.reverse else (lengths - 1).clamp(min=0)
        index = (self.batch_sizes.cumsum(0) - self.batch_sizes)[final] + rows
        has_step = (lengths > 0).unsqueeze(1)
        return torch.where(has_step, h[index.clamp(max=len(h) - 1)], h0)

    def last_of_two(
        self, states: Float[Tensor, "2 B H"], steps: int, h0: Float[Tensor, "B H"]
    ) -> Float[Tensor, "B H"]:
        """Return each row's last state, of those of every even and every odd step that were last.

        steps: of how many there are, where every step has all rows.
        """
        sizes = self.batch_sizes
        if sizes is None:
            return states[(steps - 1) % 2].clone()
        rows = torch.arange(len(h0))
        lengths = (sizes.unsqueeze(1) > rows).sum(0)
        last = torch.full_like(lengths, len(sizes) - 1) if self.reverse else lengths - 1
        return torch.where((lengths > 0).unsqueeze(1), states[last % 2, rows], h0)

    def lasts(
        self, h: Float[Tensor, "... H"], h0: Float[Tensor, "D B H"]
    ) -> Float[Tensor, "D B H"]:
        """Return each row's last D states, the latest first; h0: those before its first.

        What lies before a reset is 0.
        """
        D, B, _ = h0.shape
        if self.batch_sizes is None and self.resets is None and len(h) >= D:
            return h[:D].clone() if self.reverse else h[len(h) - D :].flip(0)
        sizes = self.batch_sizes
        if sizes is None:
            sizes = torch.full((len(h),), B, device="cpu")
        rows, j = torch.arange(B, device="cpu"), torch.arange(D, device="cpu").unsqueeze(1)
        lengths = (sizes.unsqueeze(1) > rows).sum(0)
        t = j.expand(D, B) if self.reverse else lengths - 1 - j
        within = j < lengths
        starts = sizes.cumsum(0) - sizes
        index = ((starts[t.clamp(0, len(sizes) - 1)] + rows) * within).to(h.device)
        older = (j - lengths).clamp(min=0).to(h.device)
        states = torch.where(
            within.unsqueeze(-1).to(h.device),
            h.flatten(0, -2)[index],
            h0[older, rows.to(h.device)],
        )
        if self.resets is None:
            return states
        reset = self.resets.flatten()[index] & within.to(h.device)
        cut = (reset.cumsum(0) - reset.int()) > 0  # by a reset after the state, not before it
        return states.masked_fill(cut.unsqueeze(-1), 0)

    def previous(self, h: Tensor, h0: Tensor) -> Tensor:
        """Return the state that each row was computed from, laid out as h, 0 where it was reset."""
        before, state = [], h0
        for now in self.steps(h):
            before.append(state[: len(now)])
            state = torch.cat([now, state[len(now) :]])
        rows = self.join(before)
        return rows if self.resets is None else rows.masked_fill(self.resets.unsqueeze(-1), 0)


DENSE = Layout()
"""T steps of B rows each, forward in time."""


@dataclass(frozen=True)
class Packing:
    """How padded sequences (T, B, ·) become packed rows (N, ·), longest first, and back."""

    order: Int[Tensor, " B"]
    index: Int[Tensor, " N"]
    layout: Layout

    @classmethod
    def of(cls, alive: Bool[Tensor, "T B"]) -> Packing:
        """Return the packing of the steps that are alive, which come first in each sequence."""
        order = alive.sum(0).argsort(descending=True, stable=True)
        positions = torch.arange(alive.numel(), device=alive.device).view(alive.shape)
        sizes = alive.sum(1).cpu()
        return cls(order, positions[:, order][alive[:, order]], Layout(sizes[sizes > 0]))

    def pack(self, rows: Shaped[Tensor, "T B ..."]) -> Shaped[Tensor, "N ..."]:
        """Return the rows that are alive."""
        return rows.flatten(0, 1).index_select(0, self.index)

    def unpack(self, rows: Float[Tensor, "N H"], T: int) -> Float[Tensor, "T B H"]:
        """Return the rows in their places, and 0 in the others."""
        B, H = len(self.order), rows.shape[1]
        return rows.new_zeros(T * B, H).index_copy(0, self.index, rows).view(T, B, H)

    def sort(self, states: Float[Tensor, "layers B H"]) -> Float[Tensor, "layers B H"]:
        """Return the sequences' states in the packing's order."""
        return states[:, self.order]

    def unsort(self, states: Float[Tensor, "layers B H"]) -> Float[Tensor, "layers B H"]:
        """Return the sequences' states in their own order."""
        return states[:, self.order.argsort()]
