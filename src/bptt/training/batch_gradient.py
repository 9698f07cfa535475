"""The gradient of one update's batch, of which every rank has a part.

The loss is the mean over the steps of the whole batch. Alone, `bptt.backward` gives its gradient.
Several ranks each take the sum over their own steps, and add up the gradients once: those of
recurrent weights are complete only at the end of the sweep back in time, so that there is nothing
to send before.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

from torch import Tensor, nn

from bptt.data.batches import Batch
from bptt.errors import BpttError
from bptt.gradient.exact.backward import Backward, backward
from bptt.gradient.sequences import device_of
from bptt.model.call import forced_steps
from bptt.model.dropout import units_dropped
from bptt.model.network import Network
from bptt.training.functions import Functions
from bptt.training.loss import of_what_it_returned, with_loss
from bptt.training.penalties import with_settings
from bptt.training.ranks import Ranks
from bptt.training.remedies import Omega
from bptt.training.seeds import seeded
from bptt.training.settings import Settings


class Moment(NamedTuple):
    """When an update is: its number from 0, what share of training is done, and its seed."""

    number: int
    share: float
    seed: int


class Learnt(NamedTuple):
    """What a batch gave besides the gradients: loss in nats per step, and steps, of all ranks.

    state: after the last step, of this rank's columns; is_interrupted: whether a rank has a signal.
    """

    loss: float
    steps: int
    state: Any
    is_interrupted: bool


class BatchGradient:
    """Adds the gradient of a batch to .grad, with the penalties and the Ω of settings."""

    def __init__(
        self, net: nn.Module, settings: Settings, functions: Functions, ranks: Ranks
    ) -> None:
        self.net, self.settings, self.ranks = net, settings, ranks
        self.scored = with_loss(net, functions.loss)
        self.penalty = with_settings(functions.penalty, settings, net)
        if functions.loss is not None and self.penalty is not None:
            self.penalty = of_what_it_returned(self.penalty)

    def add(
        self,
        batch: Batch,
        state: Any,
        moment: Moment,
        parameters: list[nn.Parameter],
        *,
        is_interrupted: bool,
    ) -> Learnt:
        """Add a batch's gradient; state: what this rank's columns go on from.

        The other ranks do the same. Raises BpttError if one of them has failed.
        """
        part = self.ranks.part_of(batch).of(self.net)
        with self._drawing(batch, moment) as forcing:
            if self.ranks.is_alone:
                done = self._backward(part, state, forcing, self._omega(moment, 1.0, part.B))
                return Learnt(float(done.loss), done.steps, done.state, is_interrupted)
            weight = part.total_weight()
            loss, steps, after = 0.0, 0.0, None
            # Ω is a mean over all sequences, beside a loss that is divided by all weights later.
            totals = self.ranks.meet(weight, part.B) if self.settings.omega > 0 else (0.0, 0)
            if part.B > 0:
                omega = self._omega(moment, *totals)
                done = self._backward(part, state, forcing, omega, reduction="sum")
                loss, steps, after = float(done.loss), done.steps, done.state
        if not math.isfinite(loss):
            return Learnt(loss, int(steps), after, is_interrupted)
        loss, weight, steps, signals = self.ranks.meet(loss, weight, steps, is_interrupted)
        if not 0 < weight < math.inf:
            raise BpttError(
                f"the loss weights of all ranks sum to {weight}; expected a positive, finite sum "
                "to divide by"
            )
        self.ranks.add_gradients(parameters, weight)
        return Learnt(loss / weight, int(steps), after, signals > 0)

    @contextmanager
    def _drawing(self, batch: Batch, moment: Moment) -> Iterator[float | Tensor]:
        """Give the forcing, and draw the rest from a seed of this rank's own, while entered.

        What is drawn for the whole batch, where to force and which units to leave out, comes from
        the update's seed: it is the same for any number of ranks.
        """
        device, seed, of_rank = device_of(self.net), moment.seed, self.ranks.seed(moment.seed)
        with seeded(seed, device):
            forcing: float | Tensor = self.settings.forcing_at(moment.share)
            if batch.is_shared and 0 < forcing < 1:
                mask = forced_steps(forcing, len(batch.y), batch.B, device)
                assert mask is not None
                forcing = mask[:, self.ranks.columns(batch.B)]
            with (
                units_dropped(self.net),
                seeded(of_rank, device) if of_rank != seed else nullcontext(),
            ):
                yield forcing

    def _omega(
        self, moment: Moment, weight: float, sequences: float
    ) -> AbstractContextManager[object]:
        """Return what adds the gradient of Ω, times a weight, while it is entered."""
        omega = self.settings.omega_at(moment.number)
        if omega > 0 and isinstance(self.net, Network):
            return Omega(self.net, omega * weight, sequences=int(sequences))
        return nullcontext()

    def _backward(
        self,
        batch: Batch,
        state: Any,
        forcing: float | Tensor,
        omega: AbstractContextManager[object],
        reduction: str = "mean",
    ) -> Backward:
        with omega:
            return backward(
                self.scored,
                batch.y,
                x=batch.x,
                state=None if batch.is_start else state,
                window=self.settings.reach,
                stride=self.settings.stride,
                memory=self.settings.memory,
                forcing=forcing,
                feedback=self.settings.feedback,
                lengths=batch.lengths,
                resets=batch.resets,
                loss_weights=batch.weights,
                reduction=reduction,
                penalty=self.penalty,
            )
