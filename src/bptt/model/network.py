"""The one model: a recurrent layer, a linear read-out and a likelihood.

    aᵗ = b + W hᵗ⁻¹ + R yᵗ⁻¹ + U xᵗ,    hᵗ = f(aᵗ),    oᵗ = c + V hᵗ,    Lᵗ = −log p(yᵗ | oᵗ)

(Goodfellow, Bengio and Courville 2016, equations 10.8 to 10.14, with R of their figure 10.4.)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from bptt.cells.cell import Activation, Cell, cell_from_config
from bptt.cells.elman import ReluCell, RNNCell
from bptt.cells.gru import GRUCell
from bptt.cells.lstm import LSTMCell
from bptt.cells.registry import CELLS, ELMAN
from bptt.errors import (
    BpttError,
    require_choice,
    require_flag,
    require_kind,
    require_memory,
    require_whole,
    shown,
)
from bptt.model.architecture import RECURRENCES, Architecture
from bptt.model.call import Call, batch_size, checked, fresh_state
from bptt.model.dropout import DropsUnits, units_of
from bptt.model.encodings import Encoding, as_encoding, encoding_config, encoding_from_config
from bptt.model.entry import draw_noise, enter, leave_out
from bptt.model.feedforward import Feedforward
from bptt.model.free_run import MOST_STEPS, Forecast, forecast, stream
from bptt.model.initial import Initial, initialise
from bptt.model.layers import GRU, LSTM, RNN
from bptt.model.likelihoods.likelihood import Likelihood, likelihood_from_config
from bptt.model.loop_options import LoopOptions, as_delays
from bptt.model.modules import Modules
from bptt.model.reading import read, state_after
from bptt.model.recurrent import Recurrent
from bptt.model.stack import STARTS, Stack
from bptt.model.state import Output, Regime, State

MOST_UNITS = 2**31 - 1
"""What the kernel's loops can count."""
MOST_LAYERS = 1024
"""Each is a few modules, which take time to make however small they are."""


class Network(DropsUnits):
    """A recurrent network that models y given its own past and, if there is any, x.

    likelihood: what the outputs mean, such as Categorical(n).
    inputs: what x is: 0 for none, a number of real features, or Tokens(n).
    recurrence: "hidden" (W: the textbook's RNN 1), "output" (R: RNN 2), or "both".
    cell: a name (bptt.cells lists them), or a class of your own, or what makes a cell of an input
    size and a hidden size; recurrence "output" goes with tanh and relu only.

    init: how the weights start: "orthogonal", "identity" or "gaussian" for W, or an Initial, which
    says more.
    leak, learn_leak, skips, norm, dropout: what the loop has besides W; see LoopOptions.
    initial: h⁰ of a sequence that is given none: "zero", or "learned", which starts at zero.

    >>> import bptt
    >>> net = bptt.Network(bptt.Categorical(5), hidden=8)
    >>> y = torch.tensor([[0, 1], [2, 3], [4, 0]])  # T = 3 steps of B = 2 sequences
    >>> net(y).nll.shape
    torch.Size([3, 2])
    """

    def __init__(
        self,
        likelihood: Likelihood,
        *,
        inputs: int | Encoding = 0,
        hidden: int = 128,
        recurrence: str = "both",
        cell: str | Callable[[int, int], Cell] = "tanh",
        layers: int = 1,
        init: str | Initial = "orthogonal",
        leak: float | tuple[float, float] | None = None,
        learn_leak: bool = False,
        skips: int | Sequence[int] = (),
        norm: bool = False,
        dropout: float = 0.0,
        initial: str = "zero",
    ) -> None:
        super().__init__()
        _require_finished(likelihood)
        for name, flag in (("learn_leak", learn_leak), ("norm", norm)):
            require_flag(name, flag)
        self.init = init if isinstance(init, Initial) else Initial(W=init)  # type: ignore[arg-type]
        require_choice("recurrence", recurrence, RECURRENCES)
        _require_start(initial, recurrence)
        _require_maker(cell)
        require_whole("hidden", hidden, 1, MOST_UNITS)
        require_whole("layers", layers, 1, MOST_LAYERS)
        name = _name_of(cell)
        cell = name if name in CELLS else cell
        kind = CELLS[cell] if isinstance(cell, str) else Cell
        self.init.require(name, kind, recurrence)
        self.loop = LoopOptions(
            leak=leak, learn_leak=learn_leak, skips=as_delays(skips), norm=norm, dropout=dropout
        )
        self.loop.require(name, kind, recurrence)
        self.likelihood = likelihood
        self.inputs = as_encoding(inputs)
        self.recurrence, self.cell = recurrence, name
        width = self.inputs.width + (likelihood.encoding.width if self.feeds_back else 0)
        loops = len(self.loop.delays)
        weights = kind.gates * hidden * (width + loops * hidden + (layers - 1) * 2 * hidden)
        require_memory(
            f"a network of {layers:,} x {hidden:,} hidden units",
            4 * (weights + hidden * likelihood.outputs),
        )
        self.recurrent = self._recurrent_layer(cell, width, hidden, layers)
        h = self.recurrent.state_sizes[0] if self.recurrent.state_sizes else hidden
        self.readout = nn.Linear(h, likelihood.outputs)
        initialise(self.parts, kind, self.loop, self.init)
        self.initial = initial
        if initial == "learned":
            self.recurrent.learn_start()

    def config(self) -> dict[str, Any]:
        """Return the arguments that make this network, as plain values, for a file."""
        return {
            "likelihood": self.likelihood.config(),
            "inputs": encoding_config(self.inputs),
            "hidden": self.recurrent.hidden_size,
            "recurrence": self.recurrence,
            "cell": self._cell_config(),
            "layers": self.recurrent.num_layers,
            "init": asdict(self.init),
            **asdict(self.loop),
            "initial": self.initial,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Network:
        """Return a fresh network of the kind that `config` described."""
        if not isinstance(config, dict) or not {"likelihood", "inputs"} <= set(config):
            raise BpttError(f"config is {shown(config)}; expected what Network.config() returned")
        special = ("likelihood", "inputs", "init")
        rest = {key: value for key, value in config.items() if key not in special}
        likelihood = likelihood_from_config(config["likelihood"])
        inputs, init = encoding_from_config(config["inputs"]), Initial(**config.get("init", {}))
        if isinstance(rest.get("cell"), dict):
            rest["cell"] = cell_from_config(rest["cell"])
        return cls(likelihood, inputs=inputs, init=init, **rest)

    @property
    def dtype(self) -> torch.dtype:
        """What its weights, and the numbers in y and x, are made of."""
        dtype: torch.dtype = next(self.recurrent.parameters()).dtype
        return dtype

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        device: torch.device = next(self.recurrent.parameters()).device
        return device

    @property
    def f(self) -> Activation | None:
        """What h is of a + W h, in cells without gates."""
        return self.recurrent.f

    @property
    def parts(self) -> Modules:
        """What it is made of, for those who run it."""
        return Modules(self.recurrent, self.readout, self.likelihood, self.inputs, self.recurrence)

    @property
    def feeds_back(self) -> bool:
        """Whether yᵗ⁻¹ enters through R."""
        return self.recurrence != "hidden"

    @property
    def x_can_be_previous_y(self) -> bool:
        """Whether x, when none is given, is taken to be yᵗ⁻¹: U then stands in R's place."""
        return self.parts.x_can_be_previous_y

    @property
    def U(self) -> Float[Tensor, "G I"]:
        """Input to hidden, of the first layer."""
        return self.parts.U

    @property
    def R(self) -> Float[Tensor, "G Y"]:
        """Output to hidden, of the first layer; without columns where recurrence is "hidden"."""
        return self.parts.R

    @property
    def V(self) -> Float[Tensor, "O H"]:
        """Hidden to output."""
        return self.parts.V

    @property
    def architecture(self) -> Architecture:
        """The network as a graph; its input is called y where that is only yᵗ⁻¹."""
        has_x = self.inputs.width > 0
        layers = int(self.recurrent.num_layers)
        source = "x" if has_x else "y"
        return Architecture.stacked(layers, self.recurrence, source=source, skips=self.loop.skips)

    def fresh_state(self, B: int) -> State:
        """Return h⁰, zero or what was learned, and y⁰ = 0 for B sequences."""
        require_whole("B", B, 1)
        layer = self.recurrent
        size = B * layer.hidden_size * layer.num_layers * self.dtype.itemsize
        require_memory(f"a state of {B:,} sequences", size)
        return fresh_state(enter(self.parts), B)

    def example(self, T: int, B: int) -> tuple[Tensor, Tensor | None]:
        """Return a y and an x of the right kind, all zero."""
        require_whole("T", T, 1, MOST_STEPS)
        require_whole("B", B, 1)
        weight = enter(self.parts).V
        has_x = self.inputs.width > 0 and not self.x_can_be_previous_y
        size = B * (T * self.inputs.width if has_x else 1) * weight.itemsize
        require_memory(f"an example of {T:,} steps of {B:,} sequences", size)
        blank = self.likelihood.blank(B, weight)
        y = torch.zeros_like(blank).expand(T, *blank.shape)
        return y, self.inputs.zeros(T, B, weight) if has_x else None

    def forward(
        self,
        y: Shaped[Tensor, "T B *y"] | None = None,
        *,
        x: Shaped[Tensor, "T B *x"] | None = None,
        state: State | None = None,
        forcing: float | Bool[Tensor, "T B"] = 1.0,
        feedback: str = "sample",
        lengths: Int[Tensor, " B"] | None = None,
        resets: Bool[Tensor, "T B"] | None = None,
    ) -> Output:
        """Run T steps with the true yᵗ⁻¹ fed back (teacher forcing), or the generated one.

        y and x: (T, B) for tokens, (T, B, features) for real values. y may be left out where
        nothing of it is needed, that is, with recurrence "hidden" or with forcing 0; out.nll is
        then None.
        forcing: the probability that the true yᵗ⁻¹ enters, drawn for every step and sequence
        (Bengio et al. 2015), or a (T, B) mask that says where. The first step's is the state's.
        feedback: what enters elsewhere: a "sample" of the network's, or the "mean", through which
        the gradient flows.
        lengths: (B,), where each sequence ends if that is before T.
        resets: (T, B), the steps before which a sequence's state is zeroed.
        """
        regime = Regime(lengths, resets, forcing, feedback)
        net, call, regime = self._entered(y, x, state, regime)
        reading = read(net, call, feedback)
        states, outputs = reading.states[-1], reading.outputs
        outputs = net.outputs_of(states) if outputs is None else outputs
        true, alive = reading.call.y, reading.call.alive
        nll = None if true is None else net.likelihood.nll(outputs, true)
        if nll is not None and alive is not None:
            nll = nll.masked_fill(~alive, 0)
        return Output(nll, outputs, states, reading.after(regime.lengths))

    def advance(
        self,
        y: Shaped[Tensor, "T B *y"] | None = None,
        *,
        x: Shaped[Tensor, "T B *x"] | None = None,
        state: State | None = None,
        **regime: Any,
    ) -> State:
        """Return the state that a call would return, without the outputs and their cost.

        Where nothing loops over h, that is the last y, and nothing has to be computed.
        """
        net, call, where = self._entered(y, x, state, Regime(**regime))
        return state_after(net, call, where)

    def _entered(
        self, y: Tensor | None, x: Tensor | None, state: State | None, regime: Regime
    ) -> tuple[Modules, Call, Regime]:
        """Return the modules as one call sees them, and its inputs; all is checked first.

        Lengths and masks may be on any device.
        """
        net, regime = enter(self.parts), regime.to(self.device)
        call = checked(net, y, x, state, regime)
        return draw_noise(leave_out(net, units_of(self))), call, regime

    def is_parallel(self, regime: Regime) -> bool:
        """Return whether no step waits for the one before: there is no loop, or it is cut."""
        return self.parts.is_parallel(regime)

    def states_after(
        self,
        steps: Sequence[int],
        y: Shaped[Tensor, "T B *y"],
        *,
        x: Shaped[Tensor, "T B *x"] | None = None,
        state: State | None = None,
        **regime: Any,
    ) -> list[State]:
        """Return what `advance` would return after each of several numbers of steps, from one run.

        Under teacher forcing, and not for an LSTM: of its c only the last is kept.
        """
        require_kind(
            "steps", steps, (list, tuple, range), "numbers of steps, which rise, in a list"
        )
        if not self.recurrent.remembers_h_alone:
            raise BpttError(
                f'states_after is asked of cell "{self.cell}"; expected one whose state is h, or '
                "advance"
            )
        most = y.shape[0] if isinstance(y, Tensor) and y.ndim > 0 else None
        for step in steps:
            require_whole("a number of steps", step, 0, most)
        net, call, where = self._entered(y, x, state, Regime(**regime))
        reading = read(net, call, where.feedback, every=True)
        return reading.states_after(steps, where.lengths)

    def stream(self, steps: int, **options: Any) -> Iterator[Shaped[Tensor, "S B *y"]]:
        """Yield what `generate` returns, given the same arguments, a few steps at a time."""
        return stream(enter(self.parts), steps, **options)

    def generate(
        self,
        steps: int,
        *,
        x: Shaped[Tensor, "T B *x"] | None = None,
        prompt: Shaped[Tensor, "P B *y"] | None = None,
        state: State | None = None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Shaped[Tensor, "steps B *y"]:
        """Return a free run: every sampled yᵗ is fed back as the next step's yᵗ⁻¹.

        prompt: true values (P, B, ...) to read first; x, if the network has any, covers them too.
        state: where to go on from. temperature: what the logits are divided by, or the scale of a
        Gaussian multiplied by; 0 takes the likeliest value.

        >>> import bptt
        >>> net = bptt.Network(bptt.Categorical(5), hidden=8)
        >>> net.generate(3, prompt=torch.tensor([[0], [2]])).shape
        torch.Size([3, 1])
        """
        options: dict[str, Any] = {"x": x, "prompt": prompt, "state": state}
        run = list(self.stream(steps, **options, temperature=temperature, generator=generator))
        if run:
            return torch.cat(run)
        B = batch_size(prompt if prompt is not None else x, state)
        return self.likelihood.blank(B, enter(self.parts).V).unsqueeze(0)[:0]

    def forecast(
        self,
        steps: int,
        *,
        x: Shaped[Tensor, "T B *x"] | None = None,
        prompt: Float[Tensor, "P B d"] | None = None,
        state: State | None = None,
        paths: int = 100,
        generator: torch.Generator | None = None,
    ) -> Forecast:
        """Return how a series of numbers goes on: with the means fed back, and sampled paths.

        prompt: true values (P, B, d) to read first; x, if the network has any, covers them and the
        steps ahead. state: where to go on from. paths: how many samples.

        >>> import bptt
        >>> net = bptt.Network(bptt.Gaussian(2), hidden=8)
        >>> ahead = net.forecast(5, prompt=torch.zeros(3, 1, 2), paths=50)
        >>> ahead.mean.shape, ahead.paths.shape, ahead.quantile(0.9).shape
        (torch.Size([5, 1, 2]), torch.Size([50, 5, 1, 2]), torch.Size([5, 1, 2]))
        """
        options: dict[str, Any] = {"x": x, "prompt": prompt, "state": state, "paths": paths}
        return forecast(enter(self.parts), steps, generator=generator, **options)

    def feedback_weight(self, x: Tensor | None) -> Float[Tensor, "G Y"] | None:
        """Return what yᵗ⁻¹ enters by: R, or U where it stands in x's place, or None."""
        return self.parts.feedback_weight(x)

    def _recurrent_layer(
        self, cell: str | Callable[[int, int], Cell], width: int, hidden: int, layers: int
    ) -> Stack:
        f = None if callable(cell) else CELLS[cell].f
        if self.recurrence == "output" and f is None:
            raise BpttError(
                f'recurrence is "output" with cell "{self.cell}"; expected {" or ".join(ELMAN)}, '
                "since a gated cell carries h in its gates"
            )
        if self.recurrence == "output":
            return Feedforward(width, hidden, layers, nonlinearity=self.cell)
        if self.loop.beside_w:
            kind = CELLS[self.cell]
            return _stacked(lambda i, h: self.loop.cell(i, h, kind), width, hidden, layers)
        make = CELLS[cell] if isinstance(cell, str) else cell
        if not isinstance(make, type) or make not in LAYERS:
            return _stacked(make, width, hidden, layers)
        layer = LAYERS[make](max(width, 1), hidden, layers)
        if width == 0:  # nothing comes in but the state, which torch's constructors refuse
            layer.input_size = 0
            layer.weight_ih_l0 = nn.Parameter(layer.weight_ih_l0.detach()[:, :0])
        return layer

    def _cell_config(self) -> str | dict[str, Any]:
        """Return the cell's name, or the class that is not among those that have one."""
        if self.cell in CELLS or not isinstance(self.recurrent, Recurrent):
            return self.cell
        return self.recurrent.cell("_l0").config()


LAYERS: dict[type[Cell], Callable[[int, int, int], RNN | GRU | LSTM]] = {
    RNNCell: RNN,
    ReluCell: partial(RNN, nonlinearity="relu"),
    GRUCell: GRU,
    LSTMCell: LSTM,
}
"""What runs the cells that torch has layers for."""


def _name_of(cell: object) -> str:
    """Return what a cell goes by: its name, or that of its class, which is no other cell's."""
    if isinstance(cell, str):
        return cell
    names = [name for name, kind in CELLS.items() if kind is cell]
    of_class = str(getattr(cell, "__name__", type(cell).__name__))
    return names[0] if names else of_class if of_class not in CELLS else f"{of_class}()"


def _require_finished(likelihood: object) -> None:
    """Raise BpttError unless a likelihood has all that a network asks it for."""
    require_kind("the likelihood", likelihood, Likelihood, "one, such as bptt.Categorical(n)")
    for part in ("outputs", "encoding", "kind", "noise_shape"):
        if not hasattr(likelihood, part):
            raise BpttError(
                f"{type(likelihood).__name__} has no {part}; expected a finished Likelihood, "
                "which sets it"
            )


def _require_maker(cell: object) -> None:
    """Raise BpttError unless this names a cell, or makes one of an input and a hidden size."""
    if not callable(cell):
        require_choice("cell", cell, list(CELLS))
        return
    try:
        inspect.signature(cell).bind(1, 1)
        takes_sizes = not isinstance(cell, nn.Module)
    except (TypeError, ValueError):
        takes_sizes = False
    if not takes_sizes:
        raise BpttError(
            f"cell is {shown(cell)}; expected a name, or a class or function that makes a "
            "bptt.Cell of an input size and a hidden size"
        )


def _require_start(initial: str, recurrence: str) -> None:
    """Raise BpttError unless fresh sequences can start so."""
    require_choice("initial", initial, STARTS)
    if initial == "learned" and recurrence == "output":
        raise BpttError(
            'initial is "learned" with recurrence "output"; expected "zero", for nothing there '
            "loops over h"
        )


def _stacked(make: Callable[[int, int], Cell], width: int, hidden: int, layers: int) -> Recurrent:
    """Return layers of cells, each of which takes what the one below gives."""
    cells: list[Cell] = []
    for _ in range(layers):
        below = cells[-1].state_sizes[0] if cells else width
        cells.append(make(below, hidden))
        require_kind("what cell makes", cells[-1], Cell, "a bptt.Cell")
    return Recurrent(cells)
