"""The one model: a recurrent layer, a linear read-out and a likelihood.

    aᵗ = b + W hᵗ⁻¹ + R yᵗ⁻¹ + U xᵗ,    hᵗ = f(aᵗ),    oᵗ = c + V hᵗ,    Lᵗ = −log p(yᵗ | oᵗ)

(Goodfellow, Bengio and Courville 2016, equations 10.8 to 10.14, with R of their figure 10.4.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from bptt.errors import BpttError, require_choice, require_memory, require_shape, require_whole
from bptt.kernel.layout import Packing
from bptt.model.encodings import (
    Encoding,
    Tokens,
    as_encoding,
    encoding_config,
    encoding_from_config,
    require_dtype,
)
from bptt.model.layers import GRU, LSTM, RNN, Feedforward, Hidden
from bptt.model.likelihoods import Likelihood, likelihood_from_config

RECURRENCES = ("hidden", "output", "both")
GATES = {"tanh": 1, "relu": 1, "gru": 3, "lstm": 4}


class State(NamedTuple):
    """What a network carries from one step to the next; every part may be left out, meaning zero.

    hidden: (layers, B, H), or a pair (h, c) of these for an LSTM; None where nothing loops over h.
    y: the last true y, (B,) for symbols.
    """

    hidden: Hidden = None
    y: Tensor | None = None


class Output(NamedTuple):
    """What a call of a network returns.

    nll: (T, B), −log p(yᵗ | oᵗ) in nats, 0 beyond a sequence's end; None without y.
    outputs: oᵗ, (T, B, O), and hidden: the top layer's hᵗ, (T, B, H), of no meaning beyond it.
    state: each sequence's at its own end.
    """

    nll: Float[Tensor, "T B"] | None
    outputs: Float[Tensor, "T B O"]
    hidden: Float[Tensor, "T B H"]
    state: State


class Reading(NamedTuple):
    """What a network made of a sequence before its read-out.

    y: as checked, and alive: (T, B), which steps lie within their sequences, if not all do.
    history: y⁰ and, if y is given, y¹ to yᵀ. start: h⁰.
    states: hᵗ, (T, B, H), of every layer or of the top one alone; last: each sequence's.
    """

    y: Tensor | None
    alive: Bool[Tensor, "T B"] | None
    history: Tensor
    start: Hidden
    states: list[Float[Tensor, "T B H"]]
    last: Hidden

    def after(self, lengths: Tensor | None) -> State:
        """Return each sequence's state at its own end."""
        if self.y is None:
            return State(self.last)
        if lengths is None:
            return State(self.last, self.history[-1].clone())  # a view would keep all of it
        return State(
            self.last,
            self.history[lengths.long(), torch.arange(len(lengths), device=lengths.device)],
        )


class Network(nn.Module):
    """A recurrent network that models y given its own past and, if there is any, x.

    likelihood: what the outputs mean, such as Categorical(n).
    inputs: what x is: 0 for none, a number of real features, or Tokens(n).
    recurrence: "hidden" (W: the textbook's RNN 1), "output" (R: RNN 2), or "both".
    cell: tanh, relu, gru or lstm; recurrence "output" goes with tanh and relu only.

    W starts orthogonal, each gate by itself, so that it keeps the norm of what it carries through
    time while the units are near the linear part of f (Saxe et al. 2014, section 3). Columns of U
    and R that stand for a token are drawn from N(0, 1), as in torch.nn.Embedding; the rest of U and
    R, V and c uniformly within ±1/√H, as in torch.nn.Linear; b is 0.

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
        cell: str = "tanh",
        layers: int = 1,
    ) -> None:
        super().__init__()
        require_choice("recurrence", recurrence, RECURRENCES)
        require_choice("cell", cell, list(GATES))
        require_whole("hidden", hidden, 1)
        require_whole("layers", layers, 1)
        self.likelihood = likelihood
        self.inputs = as_encoding(inputs)
        self.recurrence, self.cell = recurrence, cell
        width = self.inputs.width + (likelihood.encoding.width if self.feeds_back else 0)
        weights = GATES[cell] * hidden * (width + hidden + (layers - 1) * 2 * hidden)
        require_memory(
            f"a network of {layers:,} x {hidden:,} hidden units",
            4 * (weights + hidden * likelihood.outputs),
        )
        self.recurrent = _recurrent_layer(width, hidden, recurrence, cell, layers)
        self.readout = nn.Linear(hidden, likelihood.outputs)
        self._initialise()

    def _initialise(self) -> None:
        for name, parameter in self.recurrent.named_parameters():
            if name.startswith("bias"):
                nn.init.zeros_(parameter)
                parameter.requires_grad_(not name.startswith("bias_hh"))
            elif name.startswith("weight_hh"):
                for gate in parameter.detach().split(self.recurrent.hidden_size):
                    nn.init.orthogonal_(gate)
        for encoding, weight in ((self.inputs, self.U), (self.likelihood.encoding, self.R)):
            if isinstance(encoding, Tokens):
                nn.init.normal_(weight.detach())

    def config(self) -> dict[str, Any]:
        """Return the arguments that make this network, as plain values, for a file."""
        return {
            "likelihood": self.likelihood.config(),
            "inputs": encoding_config(self.inputs),
            "hidden": self.recurrent.hidden_size,
            "recurrence": self.recurrence,
            "cell": self.cell,
            "layers": self.recurrent.num_layers,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Network:
        """Return a fresh network of the kind that `config` described."""
        rest = {key: value for key, value in config.items() if key not in ("likelihood", "inputs")}
        likelihood = likelihood_from_config(config["likelihood"])
        return cls(likelihood, inputs=encoding_from_config(config["inputs"]), **rest)

    @property
    def feeds_back(self) -> bool:
        """Whether yᵗ⁻¹ enters through R."""
        return self.recurrence != "hidden"

    @property
    def x_can_be_previous_y(self) -> bool:
        """Whether x, when none is given, is taken to be yᵗ⁻¹: U then stands in R's place."""
        return not self.feeds_back and self.inputs == self.likelihood.encoding

    @property
    def U(self) -> Float[Tensor, "G I"]:
        """Input to hidden, of the first layer."""
        return self.recurrent.weight_ih_l0[:, : self.inputs.width]

    @property
    def R(self) -> Float[Tensor, "G Y"]:
        """Output to hidden, of the first layer; without columns where recurrence is "hidden"."""
        return self.recurrent.weight_ih_l0[:, self.inputs.width :]

    def fresh_state(self, B: int) -> State:
        """Return h⁰ = 0 and y⁰ = 0 for B sequences."""
        return State(*self._start(None, B))

    def example(self, T: int, B: int) -> tuple[Tensor, Tensor | None]:
        """Return a y and an x of the right kind, all zero."""
        weight = self.readout.weight
        blank = self.likelihood.blank(B, weight.device)
        y = torch.zeros_like(blank).expand(T, *blank.shape)
        has_x = self.inputs.width > 0 and not self.x_can_be_previous_y
        return y, self.inputs.zeros(T, B, weight) if has_x else None

    def forward(
        self,
        y: Shaped[Tensor, "T B *y"] | None = None,
        x: Shaped[Tensor, "T B *x"] | None = None,
        *,
        state: State | None = None,
        forcing: float = 1.0,
        lengths: Int[Tensor, " B"] | None = None,
    ) -> Output:
        """Run T steps with the true yᵗ⁻¹ fed back (teacher forcing).

        y and x: (T, B) for tokens, (T, B, features) for real values. y may be left out where
        nothing of it is needed, that is, with recurrence "hidden"; out.nll is then None.
        lengths: (B,), where each sequence ends if that is before T.
        """
        if forcing != 1:
            raise BpttError(f"forcing is {forcing}; expected 1, for a free run use net.generate")
        read = self._read(y, x, state, lengths)
        outputs, after = self.readout(read.states[-1]), read.after(lengths)
        if read.y is None:
            return Output(None, outputs, read.states[-1], after)
        nll = self.likelihood.nll(outputs, read.y)
        nll = nll if read.alive is None else nll.masked_fill(~read.alive, 0)
        return Output(nll, outputs, read.states[-1], after)

    def advance(
        self,
        y: Shaped[Tensor, "T B *y"] | None = None,
        x: Shaped[Tensor, "T B *x"] | None = None,
        *,
        state: State | None = None,
        lengths: Int[Tensor, " B"] | None = None,
    ) -> State:
        """Return the state that a call would return, without the outputs and their cost."""
        return self._read(y, x, state, lengths).after(lengths)

    def states_after(
        self,
        steps: Sequence[int],
        y: Shaped[Tensor, "T B *y"],
        x: Shaped[Tensor, "T B *x"] | None = None,
        *,
        state: State | None = None,
        lengths: Int[Tensor, " B"] | None = None,
    ) -> list[State]:
        """Return what `advance` would return after each of several numbers of steps, from one run.

        Not for an LSTM: of its c only the last is kept.
        """
        read = self._read(y, x, state, lengths, every=True)
        B = read.history.shape[1]
        at = torch.as_tensor(steps, device=read.history.device).unsqueeze(1).expand(-1, B)
        at = at if lengths is None else torch.minimum(at, lengths)
        row = torch.arange(B, device=at.device)
        if not isinstance(read.start, Tensor):
            return [State(None, y) for y in read.history[at, row]]
        parts = [
            torch.where((at > 0).unsqueeze(-1), h[(at - 1).clamp(min=0), row], h0)
            for h, h0 in zip(read.states, read.start, strict=True)
        ]
        hidden = torch.stack(parts, dim=1)  # (steps, layers, B, H)
        return [State(h, y) for h, y in zip(hidden, read.history[at, row], strict=True)]

    def _read(
        self,
        y: Tensor | None,
        x: Tensor | None,
        state: State | None,
        lengths: Tensor | None,
        *,
        every: bool = False,
    ) -> Reading:
        """Run the recurrent layer over the true y and x, as they are checked."""
        y, x, alive = self._checked(y, x, lengths)
        start, y0 = self._start(state, _leading(y, x)[1])
        history = y0.unsqueeze(0) if y is None else torch.cat([y0.unsqueeze(0), y])
        previous = None if y is None else history[:-1]
        states, last = self._run(previous, x, start, alive, every=every)
        return Reading(y, alive, history, start, states, last)

    @torch.no_grad()
    def stream(
        self,
        steps: int,
        *,
        x: Shaped[Tensor, "T B *x"] | None = None,
        prompt: Shaped[Tensor, "P B *y"] | None = None,
        state: State | None = None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Iterator[Shaped[Tensor, "B *y"]]:
        """Yield what `generate` returns, one step at a time."""
        require_whole("steps", steps, 0)
        given = 0 if prompt is None else len(prompt)
        if x is not None and len(x) != given + steps:
            raise BpttError(
                f"x has {len(x)} steps; expected {given + steps}, the prompt's and the free run's"
            )
        if prompt is not None:
            prompt = self.likelihood.checked("prompt", prompt, *_leading(prompt, None, "prompt"))
            state = self.advance(prompt, None if x is None else x[:given], state=state)
        hidden, y = self._start(state, _batch_size(x, state))
        for t in range(given, given + steps):
            now = None if x is None else x[t : t + 1]
            now = self._checked_x(now, 1, len(y), None)
            states, hidden = self._run(y.unsqueeze(0), now, hidden, None)
            y = self.likelihood.sample(self.readout(states[-1][0]), temperature, generator)
            yield y

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

        prompt: true values (P, B) to read first; x, if the network has any, covers them too.
        state: where to go on from; temperature divides the logits, and 0 takes the likeliest.

        >>> import bptt
        >>> net = bptt.Network(bptt.Categorical(5), hidden=8)
        >>> net.generate(3, prompt=torch.tensor([[0], [2]])).shape
        torch.Size([3, 1])
        """
        run = list(
            self.stream(
                steps,
                x=x,
                prompt=prompt,
                state=state,
                temperature=temperature,
                generator=generator,
            )
        )
        if run:
            return torch.stack(run)
        B = _batch_size(prompt if prompt is not None else x, state)
        return self.likelihood.blank(B, self.readout.weight.device).unsqueeze(0)[:0]

    def _run(
        self,
        previous: Tensor | None,
        x: Tensor | None,
        hidden: Hidden,
        alive: Tensor | None,
        *,
        every: bool = False,
    ) -> tuple[list[Tensor], Hidden]:
        """Run the recurrent layers on x and yᵗ⁻¹; return the states of every one or of the top."""
        rows, is_projected = self._rows(previous, x)
        if alive is None:
            states, last = self.recurrent.run(rows, hidden, is_projected=is_projected)
            return states if every else states[-1:], last
        packing = Packing.of(alive)
        states, last = self.recurrent.run(
            packing.pack(rows),
            _each(packing.sort, hidden),
            packing.layout,
            is_projected=is_projected,
        )
        shown = [packing.unpack(h, len(rows)) for h in (states if every else states[-1:])]
        return shown, _each(packing.unsort, last)

    def _rows(self, previous: Tensor | None, x: Tensor | None) -> tuple[Tensor, bool]:
        """Return what enters the recurrent layer, and whether it is pᵗ = b + U xᵗ + R yᵗ⁻¹.

        It need not be where x or yᵗ⁻¹ is all that enters, or both are rows of numbers.
        """
        if x is None and self.x_can_be_previous_y:
            x = previous
        enter = [] if x is None else [(self.inputs, x, self.U)]
        if previous is not None and self.feeds_back:
            enter.append((self.likelihood.encoding, previous, self.R))
        if len(enter) == 1:
            return enter[0][1], False
        if enter and not any(isinstance(encoding, Tokens) for encoding, _, _ in enter):
            return torch.cat([values for _, values, _ in enter], dim=-1), False
        p = self.recurrent.input_bias()
        assert p is not None  # a Network's layers all have one
        assert previous is not None
        for encoding, values, weight in enter:
            p = p + encoding.project(values, weight)
        return p.expand(*previous.shape[:2], -1), True

    def _checked(
        self, y: Tensor | None, x: Tensor | None, lengths: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None, Bool[Tensor, "T B"] | None]:
        """Return y and x, 0 beyond the sequences' ends, and which steps lie before, or raise.

        What lies beyond an end may be any filler, even NaN, so nothing may be computed from it.
        """
        if y is None and self.feeds_back:
            raise BpttError(
                f'y is missing; expected the true values, since recurrence "{self.recurrence}" '
                "feeds them back (for a free run use net.generate)"
            )
        T, B = _leading(y, x)
        alive = steps_alive(lengths, T, B, self.readout.weight.device)
        x = self._checked_x(x, T, B, alive)
        return None if y is None else self.likelihood.checked("y", y, T, B, alive), x, alive

    def _checked_x(self, x: Tensor | None, T: int, B: int, alive: Tensor | None) -> Tensor | None:
        if x is not None and self.inputs.width == 0:
            raise BpttError("x is given; expected none, since the network was made with inputs=0")
        if x is None and self.inputs.width > 0 and not self.x_can_be_previous_y:
            raise BpttError(f"x is missing; expected it, since the network has {self.inputs}")
        if x is None:
            return None
        return self.inputs.checked("x", x, T, B, self.readout.weight, alive)

    def _start(self, state: State | None, B: int) -> tuple[Hidden, Tensor]:
        """Return h⁰ and y⁰, zero where the state does not give them, or raise BpttError."""
        if not isinstance(state, State | None):
            raise BpttError(
                f"state is a {type(state).__name__}; expected what an earlier call returned, "
                "or bptt.State(hidden)"
            )
        hidden, y = state or State()
        zero = self.recurrent.zero_state(B)
        hidden = zero if hidden is None else hidden
        if len(_parts(hidden)) != len(_parts(zero)):
            raise BpttError(
                f'state.hidden is another cell\'s; expected (h, c) for "lstm", None for recurrence '
                f'"output", else h: this is cell "{self.cell}", recurrence "{self.recurrence}"'
            )
        for name, got, want in zip("hc", _parts(hidden), _parts(zero), strict=False):
            require_shape(f"state.hidden ({name})", got.shape, "(layers, B, H)", want.shape)
            require_dtype(f"state.hidden ({name})", got, want)
        blank = self.likelihood.blank(B, self.readout.weight.device)
        y = blank if y is None else y
        require_shape("state.y", y.shape, "(B, ...)", blank.shape)
        y = self.likelihood.encoding.checked("state.y", y.unsqueeze(0), 1, B, y).squeeze(0)
        return hidden, y


def _recurrent_layer(
    width: int, hidden: int, recurrence: str, cell: str, layers: int
) -> RNN | GRU | LSTM | Feedforward:
    if recurrence == "output" and cell in ("gru", "lstm"):
        raise BpttError(
            f'recurrence is "output" with cell "{cell}"; expected tanh or relu, '
            "since a gated cell carries h in its gates"
        )
    if recurrence == "output":
        return Feedforward(width, hidden, layers, nonlinearity=cell)
    columns = max(width, 1)
    layer = (
        RNN(columns, hidden, layers, nonlinearity=cell)
        if cell in ("tanh", "relu")
        else (GRU if cell == "gru" else LSTM)(columns, hidden, layers)
    )
    if width == 0:  # nothing comes in but the state, which torch's constructors refuse
        layer.input_size = 0
        layer.weight_ih_l0 = nn.Parameter(layer.weight_ih_l0.detach()[:, :0])
    return layer


def _leading(y: Tensor | None, x: Tensor | None, name: str = "y") -> tuple[int, int]:
    """Return T and B of y, or else of x, both at least 1, or raise BpttError."""
    leader, name = (x, "x") if y is None else (y, name)
    if leader is None:
        raise BpttError("neither y nor x is given; expected at least one, to know T and B")
    if leader.ndim < 2 or 0 in leader.shape[:2]:
        raise BpttError(
            f"{name} has shape {tuple(leader.shape)}; expected (T, B) or (T, B, features), "
            "with at least one step and one sequence"
        )
    return leader.shape[0], leader.shape[1]


def _each(change: Callable[[Tensor], Tensor], hidden: Hidden) -> Hidden:
    """Return the state with every part of it changed."""
    if isinstance(hidden, tuple):
        return tuple(change(part) for part in hidden)
    return None if hidden is None else change(hidden)


def _parts(hidden: Hidden) -> tuple[Tensor, ...]:
    if hidden is None:
        return ()
    return hidden if isinstance(hidden, tuple) else (hidden,)


def _batch_size(sequence: Tensor | None, state: State | None) -> int:
    """Return B as the sequence or else the state has it, or 1."""
    if sequence is not None:
        return _leading(None, sequence)[1]
    if state is not None and state.y is not None:
        return len(state.y)
    hidden = _parts(state.hidden) if state is not None else ()
    return hidden[0].shape[1] if hidden else 1


def steps_alive(
    lengths: Tensor | None, T: int, B: int, device: torch.device
) -> Bool[Tensor, "T B"] | None:
    """Return which steps lie within each sequence's length, or None where all do."""
    require_lengths(lengths, T, B)
    if lengths is None:
        return None
    return torch.arange(T, device=device).unsqueeze(1) < lengths


def require_lengths(lengths: Tensor | None, T: int, B: int) -> None:
    """Raise BpttError unless there are no lengths, or B of them, each from 0 to T."""
    if lengths is None:
        return
    if not isinstance(lengths, Tensor):
        raise BpttError(f"lengths are a {type(lengths).__name__}; expected a tensor of shape (B,)")
    require_shape("lengths", lengths.shape, "(B,)", (B,))
    if lengths.is_floating_point() or int(lengths.min()) < 0 or int(lengths.max()) > T:
        raise BpttError(f"lengths are {lengths.tolist()}; expected whole numbers from 0 to T = {T}")
