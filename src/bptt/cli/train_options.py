"""What `bptt train` takes of a network, its first weights and its data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from bptt.cells.registry import CellName
from bptt.cli.options import comma_separated


@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """What network to train."""

    hidden: int = 128
    """Hidden units of each layer."""

    layers: int = 1
    """Recurrent layers, one on top of the other."""

    cell: CellName = "tanh"
    """What one unit computes."""

    recurrence: Literal["hidden", "output", "both"] | None = None
    """Where the loop runs: hidden to hidden, output to hidden, or both; by default both, and for
    labels and tasks that have inputs hidden."""

    leak: Annotated[tuple[float, ...], comma_separated(float)] = ()
    """Leaky units (tanh and relu): how much of a unit's state is new at each step, such as 0.1; or
    two numbers, such as 0.01,1, over which the units are spread."""

    learn_leak: bool = False
    """Learn the leak of each unit, from there on."""

    skips: Annotated[tuple[int, ...], comma_separated(int)] = ()
    """Skip connections through time (tanh and relu): more delays by which the hidden state enters,
    such as 4,16."""

    norm: bool = False
    """Layer normalisation of what the units add up (tanh and relu)."""

    dropout: float = 0.0
    """The probability with which a hidden unit is left out of all steps of an update alike."""

    initial: Literal["zero", "learned"] = "zero"
    """What the hidden state of a sequence is before its first step."""


@dataclass(frozen=True, kw_only=True)
class InitialOptions:
    """How its weights start."""

    init: Literal["orthogonal", "identity", "gaussian"] = "orthogonal"
    """How W starts; with identity all other weights start near 0."""

    radius: float | None = None
    """The spectral radius that W is then scaled to."""

    init_std: float | None = None
    """The spread of the weights that start gaussian; by default 0.1."""

    forget_bias: float | None = None
    """Of gates: the first bias of the one that keeps the state."""

    chrono: int | None = None
    """Of gates: the longest dependency that is expected, in steps, for biases that fit it."""


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """What the data is."""

    tokens: str = "characters"
    """Of a text: what to predict one at a time: characters; bytes, which takes any file; or bpe:N,
    such as bpe:4000, N tokens that byte-pair encoding joins of them."""

    corpus: bool = False
    """Of a folder: one text of all files below it, and not a class for each."""

    standardise: bool | None = None
    """Of a collection: put its numbers in standard units, as those of tables are; by default they
    are taken as they are, and refused if they are large."""

    length: str | None = None
    """Of a task: how long, such as 200, or 50-200, one drawn for every batch; by default 100."""

    scale: Literal["learned", "fixed"] | None = None
    """Of numbers in tables and collections: whether their spread is learned, as it is by default,
    or the loss is the squared error."""
