"""A module as a function of its tensors, which is how a step that is a method becomes a program.

A weight may be a parameter, or computed of others as the module is called: pruned, normalised,
parametrized. That is done here, once a call, on a copy that only this call has. Other hooks cannot
run inside a loop over time, and are refused.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from bptt.errors import BpttError
from bptt.kernel.constants import constants_of_instance
from bptt.kernel.plain import is_exporting

WEIGHT_HOOKS = (BasePruningMethod, WeightNorm, SpectralNorm)
"""Hooks before a call that compute a weight of the module from its other parameters."""

HOOKS = {
    "_forward_pre_hooks": "forward pre-hook",
    "_forward_hooks": "forward hook",
    "_backward_pre_hooks": "backward pre-hook",
    "_backward_hooks": "backward hook",
}
NUMBER = "_bptt_number"
"""The attribute of a module that says which it is of all that were numbered."""
OF_ANY_MODULE = frozenset(vars(nn.Module())) - {"training"} | {NUMBER}
"""Attributes that every module has, and that no step reads."""
NUMBERED: WeakValueDictionary[int, nn.Module] = WeakValueDictionary()
"""Every module that was numbered and is still there."""
_numbers = itertools.count()

Module = TypeVar("Module", bound=nn.Module)


class Blueprint:
    """A module but for its tensors: of two alike each is the other's equal.

    names: of its tensors, such as "weight_hh" or "norm.weight".
    """

    def __init__(self, module: nn.Module, names: Sequence[str]) -> None:
        self.module, self.names = module, tuple(names)
        self._key: Hashable = None

    def of(self, tensors: Sequence[Tensor | None]) -> nn.Module:
        """Return the module with these tensors for its own."""
        return with_tensors(self.module, dict(zip(self.names, tensors, strict=True)))

    @property
    def key(self) -> Hashable:
        """What a program that was traced of the module depends on, as it is now."""
        if self._key is None:
            self._key = self.names, _constants(self.module)
        return self._key

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Blueprint) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


class StandIn(NamedTuple):
    """What torch.compile holds in a Blueprint's stead, since it takes numbers for constants."""

    number: int
    names: tuple[str, ...]

    @property
    def blueprint(self) -> Blueprint:
        """The Blueprint of the module as it is now."""
        return Blueprint(NUMBERED[self.number], self.names)


def number(module: nn.Module) -> None:
    """Give a module a number that no other one has, nor had."""
    module.__dict__[NUMBER] = next(_numbers)
    NUMBERED[module.__dict__[NUMBER]] = module


def blueprint_of(module: nn.Module, names: Sequence[str]) -> Blueprint | StandIn:
    """Return the Blueprint of a module that has a number, or what torch.compile takes for it."""
    if torch.compiler.is_compiling() and not is_exporting():
        return StandIn(getattr(module, NUMBER), tuple(names))
    return Blueprint(module, names)


def _constants(module: nn.Module) -> Hashable:
    """Return what a module and those inside read besides tensors."""
    kind = parametrize.type_before_parametrizations(module)
    attributes = {
        name: value
        for name, value in vars(module).items()
        if name not in OF_ANY_MODULE and not isinstance(value, Tensor)
    }
    inside = [(name, _constants(child)) for name, child in _children(module)]
    return kind, constants_of_instance(kind, attributes), *inside


def _children(module: nn.Module) -> list[tuple[str, nn.Module]]:
    return [(name, child) for name, child in module.named_children() if name != "parametrizations"]


def is_computed(module: nn.Module) -> bool:
    """Return whether a tensor of a module, or of one inside, is made of others; or a hook is on."""
    return any(
        parametrize.is_parametrized(part)
        or "forward" in vars(part)
        or any(getattr(part, hooks) for hooks in HOOKS)
        for part in module.modules()
    )


def names_of(module: nn.Module) -> list[str]:
    """Return the names of the tensors of a module and of those inside."""
    names = [name for name, value in vars(module).items() if isinstance(value, Tensor)]
    for tensors in (module._parameters, module._buffers):
        names += [name for name, value in tensors.items() if value is not None]
    names += list(module.parametrizations) if parametrize.is_parametrized(module) else []  # type: ignore
    inside = [f"{key}.{name}" for key, child in _children(module) for name in names_of(child)]
    return [*dict.fromkeys(names), *inside]


def tensors_of(module: nn.Module, name: str, remedy: str) -> dict[str, Tensor]:
    """Return the tensors of a module and of those inside, by their names, as a call sees them.

    name, remedy: what to call it, and what to do instead, if it has a hook that would not run.
    """
    seen = computed(module, name, remedy)
    names = [*seen._parameters, *seen._buffers, *vars(seen)]
    attributes = {key: getattr(seen, key) for key in dict.fromkeys(names)}
    tensors = {key: value for key, value in attributes.items() if isinstance(value, Tensor)}
    for key, child in _children(module):
        inner = tensors_of(child, f"{name}.{key}", remedy)
        tensors.update({f"{key}.{inside}": value for inside, value in inner.items()})
    return tensors


def computed(module: Module, name: str, remedy: str) -> Module:
    """Return a module with its weights as plain tensors, or itself if they are parameters.

    Their graph is made also under no_grad: whether a weight is trained shows on the tensor.
    """
    _require_no_other_hooks(module, name, remedy)
    is_parametrized = parametrize.is_parametrized(module)
    if not module._forward_pre_hooks and not is_parametrized:
        return module
    seen = copy_of(module)
    with torch.enable_grad():
        if is_parametrized:
            weights = list(module.parametrizations)  # type: ignore[arg-type]
            seen.__dict__.update({weight: getattr(module, weight) for weight in weights})
        for hook in module._forward_pre_hooks.values():
            hook(seen, ())
    return seen


def _require_no_other_hooks(module: nn.Module, name: str, remedy: str) -> None:
    for attribute, kind in HOOKS.items():
        hooks = getattr(module, attribute)
        if hooks and not all(isinstance(hook, WEIGHT_HOOKS) for hook in hooks.values()):
            raise BpttError(f"{name} has a {kind}, which would not run: {remedy}")
    if "forward" in vars(module):
        raise BpttError(f"{name}.forward was replaced, and would not run: {remedy}")


def note_arguments(made: Any, args: Sequence[Any], options: Mapping[str, Any]) -> None:
    """Set `arguments` of an object that is being made, by name, from which to make the same again.

    They are not set where __init__ will refuse them, nor of a copy, which is not initialised.
    """
    try:
        bound = inspect.signature(type(made).__init__).bind(made, *args, **options)
    except TypeError:
        return
    bound.apply_defaults()
    arguments: dict[str, Any] = {}
    for name, value in [*bound.arguments.items()][1:]:
        is_rest = bound.signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD
        arguments.update(value if is_rest else {name: value})
    made.__dict__["arguments"] = arguments


def with_tensors(module: Module, tensors: Mapping[str, Tensor | None]) -> Module:
    """Return a copy of a module, and of those inside, with some tensors for its own."""
    seen = copy_of(module)
    inside: dict[str, dict[str, Tensor | None]] = {}
    for name, tensor in tensors.items():
        child, dot, path = name.partition(".")
        if dot:
            inside.setdefault(child, {})[path] = tensor
        else:
            seen.__dict__[name] = tensor
    for name, child_module in _children(seen):
        seen._modules[name] = with_tensors(child_module, inside.get(name, {}))
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


def is_steady(module: nn.Module) -> bool:
    """Return whether two calls have the same weights: spectral_norm takes a step in each."""
    hooks = module._forward_pre_hooks.values()
    is_spectral = isinstance(module, nn.utils.parametrizations._SpectralNorm) or any(
        isinstance(hook, SpectralNorm) for hook in hooks
    )
    return not (is_spectral and module.training)
