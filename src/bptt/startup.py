"""What a process that we start does before it imports torch."""

from __future__ import annotations

import importlib
import operator
import os
import sys
from contextlib import nullcontext
from types import ModuleType, SimpleNamespace
from typing import Any

SPINS = "1000"
"""How often a thread of torch looks for work before it sleeps: some microseconds long."""
PACKAGE = "torch._dynamo"
ANSWERS: dict[str, dict[str, Any]] = {
    PACKAGE: {
        "disable": lambda function, *_, **__: function,  # nothing compiles it
        "graph_break": lambda *_, **__: None,  # there is no graph
        "compiled_autograd": SimpleNamespace(_disable=nullcontext),  # it is not on
    },
    "torch.fx.experimental.symbolic_shapes": {"expect_true": bool, "sym_eq": operator.eq},
}
"""What torch asks of modules that it imports without compiling anything."""


def spin_briefly() -> None:
    """Let torch's threads, once it is imported, not wait for work for long on a core.

    They would for milliseconds, and where another process has that core, all wait for each other.
    What the user has set stays.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)


def put_off_compiler() -> None:
    """Let torch import its compiler, and its symbols of sizes, when something is compiled.

    Its optimizers, dispatch modes, autograd and torch.func import them to say that they are not to
    be compiled, and that two sizes are equal, which takes longer than importing torch. Until
    somebody asks for more, stand-ins answer that.
    """
    for name, answers in ANSWERS.items():
        sys.modules.setdefault(name, _NotYet(name, answers))


class _NotYet(ModuleType):
    """Stands in for a module until somebody asks for more than it has answers to."""

    def __init__(self, name: str, answers: dict[str, Any]) -> None:
        super().__init__(name)
        vars(self).update(answers)

    def __getattr__(self, name: str) -> Any:
        is_asked_for_more = name == "__path__" and self.__name__ == PACKAGE  # by a module in it
        if name.startswith("__") and not is_asked_for_more:  # as of those who look at every module
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)
