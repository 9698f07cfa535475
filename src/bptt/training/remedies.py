"""What keeps gradients from vanishing and exploding: clipping, and Ω in a training step."""

from __future__ import annotations

import math
from collections.abc import Iterable
from types import TracebackType

import torch
from torch import Tensor

from bptt.cells.registry import ELMAN
from bptt.errors import BpttError
from bptt.kernel.omega import OmegaTerm, reading
from bptt.model.feedforward import Feedforward
from bptt.model.network import Network


def clip_gradient(
    parameters: Iterable[Tensor], norm: float = math.inf, value: float | None = None
) -> float:
    """Clip the gradient in place, each part to a value first, and then the whole to a norm.

    g ← g · min(1, norm / ‖g‖) (Pascanu et al. 2013, algorithm 1). Returns ‖g‖ as it was before
    that. It is added up in float64: exploding gradients are those whose squares overflow.
    """
    grads = [p.grad for p in parameters if p.grad is not None]
    if value is not None:
        for grad in grads:
            grad.clamp_(-value, value)
    norms = [torch.linalg.vector_norm(grad, dtype=torch.float64) for grad in grads]
    total_norm = float(torch.linalg.vector_norm(torch.stack(norms))) if norms else 0.0
    if norm < total_norm < math.inf:
        for grad in grads:
            grad.mul_(norm / total_norm)
    return total_norm


class Omega:
    """Adds weight · ∂Ω/∂W to W's .grad, from the backward passes inside its with block.

    Ω (see `bptt.kernel.omega`) is the mean over sequences, and summed over the pairs of steps that
    were run together. It is read in the thread of the block alone. Where means are fed back, there
    is none.

    >>> import bptt
    >>> net = bptt.Network(bptt.Categorical(5), hidden=8)
    >>> with Omega(net, 4.0, sequences=2) as omega:
    ...     done = bptt.backward(net, torch.randint(5, (30, 2)))
    >>> omega.value > 0
    True
    """

    def __init__(self, net: Network, weight: float, *, sequences: int) -> None:
        require_omega(net)
        f, layers = net.f, range(int(net.recurrent.num_layers))
        assert f is not None  # require_omega has seen to it
        matrices = [net.recurrent.get_parameter(f"weight_hh_l{k}") for k in layers]
        self.term = OmegaTerm(weight / sequences, f, matrices)
        self.reading = reading(self.term)
        self.sequences = sequences

    @property
    def value(self) -> float:
        """Ω until now."""
        return self.term.value / self.sequences

    def __enter__(self) -> Omega:
        """Have Ω read."""
        self.reading.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        """Raise BpttError if nothing was read, unless something else went wrong."""
        self.reading.__exit__(None, None, None)
        unread = [W for W in self.term.unread if W.requires_grad]
        if kind is None and unread:
            raise BpttError(
                "omega is given, and no gradient passed through W in its with block; expected "
                "bptt.backward(net, ...) or a loss.backward() there, of teacher forcing or of "
                "samples fed back, and no torch.compile around weights that are computed"
            )


def require_omega(net: Network) -> None:
    """Raise BpttError unless the network has what Ω is about."""
    if net.f is None:
        raise BpttError(f'omega is given with cell "{net.cell}"; expected {" or ".join(ELMAN)}')
    if net.loop.beside_w:
        raise BpttError(
            f"omega is given with {' and '.join(net.loop.beside_w)}; expected one or the other: it "
            "keeps the gradient on its one way through W, and theirs has others"
        )
    if isinstance(net.recurrent, Feedforward):
        raise BpttError(
            'omega is given with recurrence "output"; expected "hidden" or "both", which have a W'
        )
    for name in (f"weight_hh_l{k}" for k in range(int(net.recurrent.num_layers))):
        if name not in net.recurrent._parameters:
            raise BpttError(
                f"omega is given, and {name} is computed from other parameters; expected W itself "
                "as a parameter: remove the pruning or parametrization"
            )
