"""How the gradient flows through the recurrent layers of any torch model, from its own backward."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from bptt.errors import BpttError, require_callable, require_kind, require_whole
from bptt.gradient.analysis.flow import GradientFlow, flow_of
from bptt.gradient.analysis.replay import LayerCall, Layers, chains_of, draws
from bptt.gradient.analysis.snapshot import Snapshot
from bptt.model.network import Network

ITSELF = "model"
DIRECTION = re.compile(r"\.l\d+(_reverse)?$")
"""What the names of flows of bidirectional layers end in."""


class Watched(NamedTuple):
    """What the watch saw of one forward and backward. update: its number, from 0."""

    update: int
    flows: dict[str, GradientFlow]


OnFlows = Callable[[Watched], None]


class Writer(Protocol):
    """What numbers over time can be written to, such as TensorBoard's SummaryWriter."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> object:
        """Write a number of an update."""


@dataclass(eq=False, repr=False)
class Watch(Mapping[str, GradientFlow]):
    """A GradientFlow for each recurrent layer of a model, by name; made by `bptt.watch`.

    The flows are those of the last update that was looked at. history: by layer, a Snapshot of each
    update that was. `bptt.write_report` takes it as it is.
    """

    model: nn.Module
    every: int = 1
    max_lag: int | None = None
    window: int | None = None
    on_flows: OnFlows | None = None
    writer: Writer | None = None
    history: dict[str, list[Snapshot]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._flows: dict[str, GradientFlow] = {}
        self._updates = -1
        self._is_open = False
        self._random: dict[str, Tensor] = {}
        self._calls = 0
        self._reached: dict[str, tuple[int, LayerCall]] = {}
        self._reasons: dict[str, BpttError] = {}
        self._handles: list[RemovableHandle] = []
        self._layers = _recurrent_layers(self.model)

    def __enter__(self) -> Watch:
        """Listen to the model's forward and backward passes."""
        listen = self._handles.append
        listen(self.model.register_forward_pre_hook(lambda *_: self._next_update()))
        for name, layer in self._layers.items():
            listen(layer.register_forward_pre_hook(self._before(name)))
            listen(layer.register_forward_hook(self._after(name), with_kwargs=True))
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        """Stop listening, and work out the last update that was looked at."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        if kind is None:
            self._settle()
        self._reached.clear()

    def __getitem__(self, name: str) -> GradientFlow:
        """Return the flow through a layer, at the last update that was looked at."""
        flows = self._flows
        for layer in (name, DIRECTION.sub("", name)):
            if layer in self._reasons:
                raise self._reasons[layer]
        if name in flows:
            return flows[name]
        if not flows:
            raise BpttError(
                "no gradient reached a recurrent layer while it was watched; expected a forward "
                "pass of the model and loss.backward() inside the with block (what torch.compile "
                "has compiled is not seen)"
            )
        raise BpttError(f"there is no flow of {name!r}; expected one of {', '.join(flows)}")

    def __iter__(self) -> Iterator[str]:
        """Go over the layers' names."""
        return iter(self._flows)

    def __len__(self) -> int:
        """How many layers a gradient reached."""
        return len(self._flows)

    @property
    def unseen(self) -> dict[str, str]:
        """The layers that could not be looked into at their last call, each with the reason."""
        return {name: str(reason) for name, reason in self._reasons.items()}

    def _next_update(self) -> None:
        """Note that the model is called again; settle what the call before has left."""
        if not torch.is_grad_enabled() or torch.compiler.is_compiling():
            return
        is_backward = torch._C._current_graph_task_id() != -1
        if is_backward and self._is_open:  # the same call again, by torch.utils.checkpoint
            return
        self._settle()
        self._updates += 1
        self._is_open = not is_backward

    @property
    def _looks(self) -> bool:
        return (
            torch.is_grad_enabled()
            and self._updates % self.every == 0
            and not torch.compiler.is_compiling()
        )

    def _before(self, name: str) -> Callable[..., None]:
        def note(layer: Layers, _: object) -> None:
            if self._looks and draws(layer):
                self._random[name] = torch.get_rng_state()

        return note

    def _after(self, name: str) -> Callable[..., None]:
        def note(layer: Layers, args: Any, kwargs: Any, output: Any) -> None:
            random = self._random.pop(name, None)
            if not self._looks:
                return
            self._calls += 1
            number = self._calls

            def reached(call: LayerCall) -> None:
                if number >= self._reached.get(name, (0, call))[0]:
                    self._reached[name] = number, call

            with self._reasons_recorded(name):
                if torch._C._are_functorch_transforms_active():
                    raise BpttError(
                        f"{name} was called inside a transform of torch.func, whose gradients pass "
                        "no hooks; expected loss.backward()"
                    )
                # The call lives as long as its graph, by the hooks there; the watch keeps of each
                # layer only the last that a gradient has reached.
                LayerCall.of(layer, args, kwargs, output, random, reached)

        return note

    @contextmanager
    def _reasons_recorded(self, name: str) -> Iterator[None]:
        """Keep why a layer cannot be looked into, for when its flow is asked for.

        Whatever goes wrong with looking, the model's own forward and backward go on.
        """
        try:
            yield
        except BpttError as reason:
            self._reasons[name] = reason
        except Exception as error:  # noqa: BLE001 (raised when the flow is asked for)
            self._reasons[name] = BpttError(
                f"{name} cannot be looked into: {type(error).__name__}: {error}; expected a layer "
                "that is called, and computes, as torch.nn's"
            )
            self._reasons[name].__cause__ = error

    def _settle(self) -> None:
        """Work out the flows of the calls that a gradient has reached."""
        flows: dict[str, GradientFlow] = {}
        reached, self._reached = self._reached, {}
        in_order = sorted(reached.items(), key=lambda pair: pair[1][0])
        for name, (_, call) in in_order:
            self._reasons.pop(name, None)
            with (
                self._reasons_recorded(name),
                torch.autocast(call.output.device.type, enabled=False),
            ):
                for suffix, chain in chains_of(name, call).items():
                    most = chain.T - 1 if self.max_lag is None else min(self.max_lag, chain.T - 1)
                    flows[name + suffix] = flow_of(chain, most, self.window)
        if not flows:
            return
        self._flows = flows
        for name, flow in flows.items():
            snapshot = Snapshot.of(self._updates, flow)
            self.history.setdefault(name, []).append(snapshot)
            if self.writer is not None:
                for scalar, value in snapshot.scalars().items():
                    self.writer.add_scalar(f"{name}/{scalar}", value, self._updates)
        if self.on_flows is not None:
            self.on_flows(Watched(self._updates, flows))


def watch(
    model: nn.Module,
    *,
    every: int = 1,
    max_lag: int | None = None,
    window: int | None = None,
    on_flows: OnFlows | None = None,
    writer: Writer | None = None,
) -> Watch:
    """Return a context manager that sees how the gradient flows back through a model's layers.

    model: any module with torch.nn's or bptt's RNN, GRU or LSTM layers, stacked, bidirectional or
    packed. Nothing of it is changed, and its gradients are bit for bit what they were.
    every: how many calls of the model's own forward go by from one that is looked at to the next,
    for a training loop inside the with block; `history` has a Snapshot of each. on_flows: called
    with each `Watched`, whose flows are kept no longer than that, but for the last.
    writer: a SummaryWriter of TensorBoard, or what has its add_scalar: for the growth, the horizon
    and the norms of some lags of each layer.
    max_lag, window: as in `bptt.gradient_flow`.

    Flows are named as the layers are; of a bidirectional layer those of each direction, as torch
    names their parameters: "encoder.l0" and "encoder.l0_reverse". Of a layer that is called several
    times, the last call that a gradient reached counts; gradients that reach it in several backward
    passes add up, as in .grad. Weights of half precision are looked at in float32, and so is what
    ran under autocast. Where a layer cannot be looked into, as with NaN in its weights, with
    create_graph=True, or under torch.func, asking for its flow raises BpttError with the reason;
    the training itself goes on, and `unseen` has the reasons.

    >>> rnn = torch.nn.RNN(3, 8)
    >>> with watch(rnn) as flows:
    ...     output, last = rnn(torch.randn(20, 4, 3))
    ...     output[-1].sum().backward()
    >>> flows["model"].norms.shape, list(flows)
    ((20, 20), ['model'])
    """
    require_kind("model", model, nn.Module, "a torch module")
    if on_flows is not None:
        require_callable("on_flows", on_flows, "a function of a Watched, or None")
    if writer is not None:
        require_callable(
            "writer.add_scalar",
            getattr(writer, "add_scalar", None),
            "a writer such as TensorBoard's SummaryWriter, or None",
        )
    require_whole("every", every, 1)
    if max_lag is not None:
        require_whole("max_lag", max_lag, 0)
    if window is not None:
        require_whole("window", window, 1)
    if every > 1 and type(model).forward is nn.Module.forward:
        raise BpttError(
            f"every is {every} for a {type(model).__name__}, which has no forward whose calls can "
            "be counted; expected every=1, or a module whose forward calls the layers"
        )
    return Watch(model, every, max_lag, window, on_flows, writer)


def _recurrent_layers(model: nn.Module) -> dict[str, Layers]:
    """Return the model's recurrent layers by name, or raise BpttError."""
    if any(isinstance(module, Network) for module in model.modules()):
        raise BpttError(
            "the model is, or has, a bptt.Network; expected other modules: bptt.gradient_flow "
            "looks into a Network"
        )
    layers = {
        name or ITSELF: module
        for name, module in model.named_modules()
        if isinstance(module, Layers)
    }
    if not layers:
        raise BpttError(
            f"{type(model).__name__} has no recurrent layer; expected a torch.nn.RNN, GRU or LSTM, "
            "or bptt's (cells that are stepped by hand are not seen)"
        )
    return layers
