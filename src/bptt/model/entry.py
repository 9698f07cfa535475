"""Where a call of a network enters its parts: each weight is computed here, once a call.

A Network computes its layer, its read-out and its likelihood together, and does not call them as
modules. What torch does when a module is called is therefore done here, on copies that only this
call has: weights that are pruned, normalised or parametrized are computed from what they are made
of, and those of dropped units are set to 0. Other hooks cannot run, and are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from bptt.errors import BpttError
from bptt.model.modules import Modules

WEIGHT_HOOKS = (BasePruningMethod, WeightNorm, SpectralNorm)
"""Hooks before a call that compute a weight of the module from its other parameters."""

HOOKS = {
    "_forward_pre_hooks": "forward pre-hook",
    "_forward_hooks": "forward hook",
    "_backward_pre_hooks": "backward pre-hook",
    "_backward_hooks": "backward hook",
}

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
    return modules._replace(
        recurrent=_computed("net.recurrent", modules.recurrent),
        readout=_computed("net.readout", modules.readout),
        likelihood=_computed("net.likelihood", modules.likelihood),
    )


def leave_out(modules: Modules, units: Units | None) -> Modules:
    """Return the modules as a call sees them that leaves out some units, or none."""
    if units is None:
        return modules
    recurrent = _scaled(modules.recurrent, units.recurrent)
    recurrent.__dict__["dropped"] = units.recurrent
    readout = _scaled(modules.readout, {"weight": units.top})
    return modules._replace(recurrent=recurrent, readout=readout)


def require_steady(net: nn.Module) -> None:
    """Raise BpttError where two calls of a Network inside differ: spectral_norm takes a step each.

    For a backward pass that runs some steps twice, which have to come out the same.
    """
    for module in net.modules():
        hooks = module._forward_pre_hooks.values()
        is_spectral = isinstance(module, parametrizations._SpectralNorm) or any(
            isinstance(hook, SpectralNorm) for hook in hooks
        )
        if is_spectral and module.training:
            raise BpttError(
                "a weight has spectral_norm, which changes it at every call, and some steps would "
                "be run twice; expected no memory= and no window below T, or that part in eval()"
            )


def _computed(name: str, part: Module) -> Module:
    """Return a part with its weights as plain tensors, or the part itself if they are parameters.

    Their graph is made also under no_grad: whether a weight is trained shows on the tensor.
    """
    _require_no_other_hooks(name, part)
    is_parametrized = parametrize.is_parametrized(part)
    if not part._forward_pre_hooks and not is_parametrized:
        return part
    seen = copy_of(part)
    with torch.enable_grad():
        if is_parametrized:
            names = list(part.parametrizations)  # type: ignore[arg-type]
            seen.__dict__.update({weight: getattr(part, weight) for weight in names})
        for hook in part._forward_pre_hooks.values():
            hook(seen, ())
    return seen


def _require_no_other_hooks(name: str, part: nn.Module) -> None:
    for attribute, kind in HOOKS.items():
        hooks = getattr(part, attribute)
        if hooks and not all(isinstance(hook, WEIGHT_HOOKS) for hook in hooks.values()):
            raise BpttError(
                f"{name} has a {kind}, which would not run: a Network computes its parts together; "
                "expected the hook on the network itself, whose output has .outputs and .hidden"
            )
    if "forward" in vars(part):
        raise BpttError(
            f"{name}.forward was replaced, and would not run: a Network computes its parts "
            "together; expected the change around the network itself"
        )


def _scaled(part: Module, scales: Mapping[str, Tensor]) -> Module:
    """Return a copy of a part with the columns of its weights multiplied."""
    seen = copy_of(part)
    seen.__dict__.update({name: getattr(part, name) * scale for name, scale in scales.items()})
    return seen


def copy_of(module: Module) -> Module:
    """Return a module of the same parameters, on which others can be set without changing it."""
    plain: type[Module] = parametrize.type_before_parametrizations(module)
    seen = object.__new__(plain)
    state = dict(vars(module))
    for name in ("_parameters", "_buffers", "_modules"):
        state[name] = dict(state[name])
    state["_modules"].pop("parametrizations", None)
    if "_flat_weights" in state:  # torch's recurrent layers write each weight that is set there too
        state["_flat_weights"] = list(state["_flat_weights"])
    seen.__dict__.update(state)
    return seen
