"""A loss of the user's own, in place of the nll that a network returns."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jaxtyping import Float, Shaped
from torch import Tensor, nn

from bptt.errors import BpttError, require_callable, shown
from bptt.gradient.sequences import Penalty

Loss = Callable[[Any, Tensor], Tensor]
"""Of what a net returned and y, (T, B, ...), to the loss of each step, (T, B)."""


class Scored(NamedTuple):
    """What a net with a loss returns: the loss of each step, and the state after the last.

    out: what the net itself returned, without its state where that came as a pair.
    """

    nll: Float[Tensor, "T B"]
    state: Any
    out: Any


class WithLoss(nn.Module):
    """A module, called like a Network, whose nll is a loss of its outputs.

    The module itself is called so too if its forward takes y; else as torch's recurrent layers are,
    net(x, state), which return (outputs, state), or outputs alone where there is none.
    """

    def __init__(self, net: nn.Module, loss: Loss) -> None:
        super().__init__()
        require_callable("loss", loss, "a function of what the net returned and y")
        if isinstance(loss, nn.Module) and any(p.requires_grad for p in loss.parameters()):
            raise BpttError(
                f"loss is a {type(loss).__name__} with weights of its own, which nobody would "
                "train; expected one without, or a net that has them inside"
            )
        self.net, self.loss = net, loss
        known = inspect.signature(net.forward).parameters
        self.takes_y, self.takes_state = "y" in known, len(known) > 1
        self.options = None if _takes_all(known) else set(known)

    def forward(
        self,
        y: Shaped[Tensor, "T B *y"],
        x: Shaped[Tensor, "T B *x"] | None = None,
        *,
        state: Any = None,
        **options: Any,
    ) -> Scored:
        """Return the losses and the state after the last step."""
        out, after = self._called(y, x, state, options)
        nll = self.loss(out, y)
        if not isinstance(nll, Tensor) or nll.shape != y.shape[:2]:
            raise BpttError(
                f"the loss returned {shown(nll)}; expected one number for each step and sequence, "
                f"{tuple(y.shape[:2])}: with torch's losses reduction='none'"
            )
        return Scored(nll, after, out)

    def _called(self, y: Tensor, x: Any, state: Any, options: dict[str, Any]) -> tuple[Any, Any]:
        """Return what the module returned, and its state."""
        known = options if self.options is None else options.keys() & self.options
        if "resets" in options and "resets" not in known:
            raise BpttError(
                f"resets are given, and {type(self.net).__name__} does not take them; expected "
                "none, or a layer that does, such as bptt.GRU"
            )
        named = {name: options[name] for name in known}
        if self.takes_y:
            inputs = {} if x is None else {"x": x}
            out = self.net(y, state=state, **inputs, **named)
            return out, out.state if hasattr(out, "state") else out[1]
        if x is None:
            raise BpttError(
                f"there is no x, and {type(self.net).__name__} takes one; expected batches of "
                "(y, x), or a module whose forward takes y"
            )
        out = self.net(x, state, **named) if self.takes_state else self.net(x, **named)
        return out if isinstance(out, tuple) and len(out) == 2 else (out, None)


def of_what_it_returned(penalty: Penalty) -> Penalty:
    """Return a penalty of what a module with a loss itself returned."""
    return lambda scored: penalty(scored.out)


def with_loss(net: nn.Module, loss: Loss | None) -> nn.Module:
    """Return a module whose nll is a loss, or the same module where there is none.

    BpttError is raised of one that is not called like a Network, and has no loss.
    """
    if loss is not None:
        return WithLoss(net, loss)
    known = inspect.signature(net.forward).parameters
    if "state" not in known and not _takes_all(known):
        raise BpttError(
            f"the forward of {type(net).__name__} takes {', '.join(known) or 'nothing'}; expected "
            "a module that is called like a Network, net(y, x=..., state=...), or a loss with it "
            "(loss=...)"
        )
    return net


def _takes_all(parameters: Mapping[str, inspect.Parameter]) -> bool:
    """Return whether a function takes arguments of any name."""
    return any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
