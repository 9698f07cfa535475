"""Where a call of a network enters its parts: each weight is computed here, once a call.

A Network computes its layer, its read-out and its likelihood together, and does not call them as
modules. What torch does when a module is called is therefore done here, on copies that only this
call has: weights that are pruned, normalised or parametrized are computed from what they are made
of, and those of dropped units are set to 0. Other hooks cannot run, and are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, TypeVar

from jaxtyping import Float
from torch import Tensor, nn

from bptt.errors import BpttError
from bptt.kernel.blueprint import computed, copy_of, is_steady
from bptt.model.modules import Modules
from bptt.model.recurrent import Recurrent

INSTEAD = (
    "a Network computes its parts together; expected the hook on the network itself, whose output "
    "has .outputs and .hidden"
)

Module = TypeVar("Module", bound=nn.Module)


class Units(NamedTuple):
    """What the weights' columns are multiplied by: 0 where a unit is dropped, else 1 / (1 − p).

    recurrent: by the name of the recurrent layer's weight. top: of the read-out's.
    """

    recurrent: Mapping[str, Float[Tensor, " H"]]
    top: Float[Tensor, " H"]


def enter(modules: Modules) -> Modules:
    """Return a network's modules as one call sees them, with each weight computed.

    Raises BpttError where one has a hook that would not run.
    """
    layers = computed(modules.recurrent, "net.recurrent", INSTEAD)
    return modules._replace(
        recurrent=layers.as_called() if isinstance(layers, Recurrent) else layers,
        readout=computed(modules.readout, "net.readout", INSTEAD),
        likelihood=computed(modules.likelihood, "net.likelihood", INSTEAD),
    )


def draw_noise(modules: Modules) -> Modules:
    """Return the modules as a call sees them whose cells have their noise."""
    layers = modules.recurrent
    return modules._replace(
        recurrent=layers.perturbed() if isinstance(layers, Recurrent) else layers
    )


def leave_out(modules: Modules, units: Units | None) -> Modules:
    """Return the modules as a call sees them that leaves out some units, or none."""
    if units is None:
        return modules
    recurrent = _scaled(modules.recurrent, units.recurrent)
    readout = _scaled(modules.readout, {"weight": units.top})
    return modules._replace(recurrent=recurrent, readout=readout)


def require_steady(net: nn.Module) -> None:
    """Raise BpttError where two calls of a Network inside differ: spectral_norm takes a step each.

    For a backward pass that runs some steps twice, which have to come out the same.
    """
    for module in net.modules():
        if not is_steady(module):
            raise BpttError(
                "a weight has spectral_norm, which changes it at every call, and some steps would "
                "be run twice; expected no memory= and no window below T, or that part in eval()"
            )


def _scaled(part: Module, scales: Mapping[str, Tensor]) -> Module:
    """Return a copy of a part with the columns of its weights multiplied."""
    seen = copy_of(part)
    seen.__dict__.update({name: getattr(part, name) * scale for name, scale in scales.items()})
    return seen
