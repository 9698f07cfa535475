"""What a run's config.json has to say, whoever wrote it, before any of it is used."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from torch import Tensor

from bptt.cells.registry import CellName
from bptt.data.scaling import Scaling
from bptt.data.tables.columns import Columns
from bptt.data.tables.measures import Measures
from bptt.data.tasks.task import Task
from bptt.data.texts.vocabularies import recalled
from bptt.errors import BpttError, require_whole
from bptt.model.initial import Initial
from bptt.model.likelihoods.likelihood import likelihood_from_config
from bptt.training.runs.plain_values import as_dataclass
from bptt.training.settings import Settings

MOST_SIZE = 2**40
"""Above any size of a network; arithmetic with larger ones would be slow in itself."""


@dataclass(frozen=True)
class _Inputs:
    kind: Literal["features", "tokens"]
    width: int


@dataclass(frozen=True)
class _Network:
    likelihood: Any
    inputs: _Inputs
    hidden: int
    recurrence: Literal["hidden", "output", "both"]
    cell: CellName | dict  # type: ignore[type-arg]
    layers: int
    init: Initial = field(default_factory=Initial)
    leak: float | tuple[float, float] | None = None
    learn_leak: bool = False
    skips: tuple[int, ...] = ()
    norm: bool = False
    dropout: float = 0.0
    initial: Literal["zero", "learned"] = "zero"


@dataclass(frozen=True)
class _Module:
    module: str


@dataclass(frozen=True)
class _Loader:
    kind: Literal["loader"]
    path: None
    sha256: str


@dataclass(frozen=True)
class _Text:
    kind: Literal["text"]
    path: str | None
    sha256: str
    tokens: str
    characters: str
    merges: str | None = None


@dataclass(frozen=True)
class _Table:
    kind: Literal["table"]
    path: str | None
    sha256: str
    columns: Columns
    measures: Measures


@dataclass(frozen=True)
class _Sequences:
    kind: Literal["sequences"]
    path: str | None
    sha256: str
    symbols: int | None
    standardise: bool = False


@dataclass(frozen=True)
class _Labelled:
    kind: Literal["labelled"]
    path: str | None
    sha256: str
    tokens: str | None
    classes: tuple[str, ...]
    symbols: int
    characters: str | None = None
    merges: str | None = None
    columns: Columns | None = None
    measures: Measures | None = None


@dataclass(frozen=True)
class _Task:
    kind: Literal["task"]
    path: None
    sha256: str
    name: str
    lengths: tuple[int, int]


@dataclass(frozen=True)
class _Config:
    bptt: str
    data: Any
    network: _Network | _Module
    trained: tuple[str, ...]
    training: Settings
    seed: int | None
    tied: Any = None
    validated: bool = True
    optimizer: str | None = None
    schedule: str | None = None
    loss: str | None = None
    penalty: str | None = None


DATA = {
    "text": _Text,
    "table": _Table,
    "sequences": _Sequences,
    "task": _Task,
    "labelled": _Labelled,
    "loader": _Loader,
}


def require_config(config: object, source: str) -> None:
    """Raise BpttError, with `source` in front, unless a config.json is as `bptt train` writes it.

    All its keys have to be there, of their types, and no others; texts, tables, tasks and settings
    have to make sense by themselves.
    """
    whole = as_dataclass(_Config, config, source)
    if isinstance(whole.network, _Network):
        _require_network(whole.network, source)
    tied = {} if whole.tied is None else whole.tied
    if not isinstance(tied, dict) or not all(isinstance(name, str) for name in tied.values()):
        raise BpttError(f"{source} has tied weights that are not names; expected name: first name")
    data = _of_kind(DATA, whole.data, f"{source}, data,")
    try:
        _require_data(data)
    except BpttError as error:
        raise BpttError(f"{source}, data: {error}") from None


def _require_network(network: _Network, source: str) -> None:
    try:
        likelihood = likelihood_from_config(network.likelihood)
    except BpttError as error:
        raise BpttError(f"{source}, network.likelihood: {error}") from None
    for name, size, least in (
        ("hidden", network.hidden, 1),
        ("layers", network.layers, 1),
        ("inputs.width", network.inputs.width, 0),
        ("likelihood's size", likelihood.outputs, 1),
    ):
        require_whole(f"{source}: {name}", size, least, MOST_SIZE)


def _of_kind(kinds: dict[str, type[Any]], value: object, source: str) -> Any:
    """Return the dataclass whose kind a JSON object names."""
    kind = value.get("kind") if isinstance(value, dict) else None
    if not isinstance(kind, str) or kind not in kinds:
        expected = ", ".join(map(repr, kinds))
        raise BpttError(f"{source} is of no kind that is known; expected one of {expected}")
    return as_dataclass(kinds[kind], value, source)


def _require_data(data: _Text | _Table | _Sequences | _Task | _Labelled | _Loader) -> None:
    if isinstance(data, _Text):
        recalled(asdict(data))
    elif isinstance(data, _Labelled):
        if data.tokens is not None:
            recalled(asdict(data))
        require_whole("symbols", data.symbols, 0, MOST_SIZE)
        _require_labels(data)
    elif isinstance(data, _Task):
        Task(data.name, data.lengths)
    elif isinstance(data, _Table):
        _require_measures(data.measures)
    elif isinstance(data, _Sequences) and data.symbols is not None:
        require_whole("symbols", data.symbols, 1, MOST_SIZE)


def _require_labels(data: _Labelled) -> None:
    """Raise BpttError unless what was a table has a label, and the classes that go with it."""
    if (data.columns is None) != (data.measures is None):
        raise BpttError("it has columns or measures; expected both, as of a table, or neither")
    if data.columns is None or data.measures is None:
        return
    _require_measures(data.measures)
    if data.columns.label is None or data.measures.labels != data.classes:
        raise BpttError("its columns have no label, or other classes than its measures")


def _require_measures(measures: Measures) -> None:
    for name, scaling in (("measures.y", measures.y), ("measures.x", measures.x)):
        if scaling is not None:
            _require_scaling(name, scaling)


def _require_scaling(name: str, scaling: Scaling) -> None:
    if len(scaling.mean) != len(scaling.scale):
        raise BpttError(f"{name} has {len(scaling.mean)} means and {len(scaling.scale)} scales")
    if not all(map(math.isfinite, (*scaling.mean, *scaling.scale))) or not all(scaling.scale):
        raise BpttError(f"{name} is not of finite numbers, and scales other than 0")


def require_sizes(network: dict[str, Any], tensors: dict[str, Tensor], source: str) -> None:
    """Raise BpttError unless a network has the sizes of these weights, before it is made.

    Making it takes time and memory by what config.json says; the weights are as large as they are.
    network: of a config that `require_config` accepts.
    """
    V, U = tensors.get("readout.weight"), tensors.get("recurrent.weight_ih_l0")
    U = tensors.get("recurrent.cells.0.weight_ih") if U is None else U
    layers, outputs = network["layers"], likelihood_from_config(network["likelihood"]).outputs
    delays = 1 + len(network.get("skips", ()))
    fits = (
        V is not None
        and U is not None
        and tuple(V.shape) == (outputs, network["hidden"])
        and U.ndim == 2
        and network["inputs"]["width"] <= U.shape[1]
        and layers * delays <= len(tensors)
    )
    if not fits:
        raise BpttError(
            f"{source} does not fit the network of its run: {layers} layers of {network['hidden']} "
            f"hidden units, {outputs} outputs and {network['inputs']['width']} inputs"
        )
