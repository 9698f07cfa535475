"""Every public function with every argument in turn of a wrong type: BpttError, or a right result.

A case is a valid call. Each of its arguments is replaced by each of the wrong values; what a case
says is right for an argument, of those, may give a result.
"""

from __future__ import annotations

import functools
import inspect
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import nn

import bptt
from bptt.errors import BpttError
from bptt.gradient.analysis import fixed_points

T, B, N, H = 12, 2, 5, 3
seed = torch.default_generator.manual_seed
"""Quicker than torch.manual_seed, which notes a stack trace for each kind of device."""
Y = torch.arange(T * B).view(T, B) % N


def symbols() -> bptt.Network:
    seed(0)
    return bptt.Network(bptt.Categorical(N), hidden=H)


def dropping() -> bptt.Network:
    seed(0)
    return bptt.Network(bptt.Categorical(N), hidden=H, dropout=0.5)


def numbers(inputs: int = 0) -> bptt.Network:
    seed(0)
    return bptt.Network(bptt.Gaussian(2), hidden=H, inputs=inputs)


def table(rows: int = 20) -> bptt.Table | bptt.Panel:
    return bptt.read_table(pl.DataFrame({"a": np.sin(np.arange(rows))}))


def collection() -> bptt.Collection:
    return bptt.Collection.of([np.arange(6) % N] * 4)


WRONG: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "str": lambda: "abc",
    "list": lambda: [[1, 2], [3, 4]],
    "5": lambda: 5,
    "-1": lambda: -1,
    "huge": lambda: 10**400,
    "1.5": lambda: 1.5,
    "nan": lambda: float("nan"),
    "True": lambda: True,
    "complex": lambda: 1j,
    "bytes": lambda: b"abc",
    "tuple": lambda: (Y, Y),
    "set": lambda: {1, 2},
    "array": lambda: np.zeros((T, B)),
    "array of texts": lambda: np.array([["a"] * B] * T),
    "array of objects": lambda: np.array([[object()] * B] * T),
    "complex array": lambda: np.zeros((T, B), dtype=np.complex64),
    "float tensor": lambda: torch.zeros(T, B),
    "float64 tensor": lambda: torch.zeros(T, B, 2, dtype=torch.float64),
    "complex tensor": lambda: torch.zeros(T, B, 2, dtype=torch.complex64),
    "bool tensor": lambda: torch.zeros(T, B, dtype=torch.bool),
    "sparse tensor": lambda: torch.zeros(T, B, 2).to_sparse(),
    "meta tensor": lambda: torch.zeros(T, B, 2, device="meta"),
    "rank 4": lambda: torch.zeros(T, B, 2, 2),
    "rank 0": lambda: torch.tensor(3),
    "empty": lambda: torch.zeros(0, B, dtype=torch.int64),
    "wrong size": lambda: torch.zeros(T + 1, B + 1, 7),
    "dict": lambda: {"a": [1, 2]},
    "object": object,
    "function": lambda: lambda x: x,
    "class": lambda: bptt.Network,
    "DataLoader": lambda: torch.utils.data.DataLoader([1, 2]),
    "optimizer": lambda: torch.optim.Adam([nn.Parameter(torch.zeros(1))]),
    "module": lambda: nn.Linear(2, 2),
    "Network": symbols,
    "Collection": collection,
    "Settings": bptt.Settings,
    "Path": lambda: Path("nowhere"),
}


@dataclass
class Case:
    """A valid call, and for its arguments which of the wrong values are right.

    random: torch's generator when the last call began. valid: the arguments of the last call, if it
    was refused: the next one has them again, since to make them takes longer than to refuse them.
    """

    name: str
    call: Callable[..., Any]
    arguments: dict[str, Callable[[], Any]]
    right: dict[str, set[str]] = field(default_factory=dict)
    skipped: dict[str, set[str]] = field(default_factory=dict)
    random: torch.Tensor = field(default_factory=torch.get_rng_state)
    valid: dict[str, Any] = field(default_factory=dict, init=False)

    def run(self, name: str | None = None, wrong: str = "None") -> Any:
        valid = self.valid or {key: make() for key, make in self.arguments.items()}
        values = valid if name is None else {**valid, name: WRONG[wrong]()}
        positional = [value for key, value in values.items() if key.startswith("/")]
        named = {key: value for key, value in values.items() if not key.startswith("/")}
        self.random, self.valid = torch.get_rng_state(), {}
        try:
            return self.call(*positional, **named)
        except BpttError:
            self.valid = valid
            raise

    def drew(self) -> bool:
        """Return whether the last call has drawn random numbers."""
        return not torch.equal(self.random, torch.get_rng_state())

    def by_chance(self) -> Case:
        """Return the same call of a network that draws: dropped units, and whose y is fed back."""
        net = dropping()
        call: Callable[..., Any] = self.call
        if isinstance(self.call, bptt.Network):
            call = net
        elif isinstance(getattr(self.call, "__self__", None), bptt.Network):
            call = getattr(net, self.call.__name__)
        arguments = {
            **self.arguments,
            **({"/net": dropping} if "/net" in self.arguments else {}),
            **({"forcing": value(0.5)} if "forcing" in self.arguments else {}),
            **({"stride": value(None)} if "stride" in self.arguments else {}),
        }
        return replace(self, call=call, arguments=arguments)


def value(it: Any) -> Callable[[], Any]:
    return lambda: it


NET_Y = {"/net": symbols, "/y": lambda: Y}
RUN = {
    "x": value(None),
    "state": value(None),
    "forcing": value(1.0),
    "feedback": value("sample"),
    "lengths": value(torch.tensor([T, 5])),
    "resets": value(torch.zeros(T, B, dtype=torch.bool)),
}
RIGHT_RUN = {
    "x": {"None"},
    "state": {"None"},
    "lengths": {"None"},
    "resets": {"None", "bool tensor", "float tensor"},
    "forcing": {"bool tensor", "float tensor", "True"},
}


def without(some: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: one for name, one in some.items() if name not in names}


@functools.cache
def flow() -> bptt.GradientFlow:
    return bptt.gradient_flow(symbols(), Y)


def drained(make: Callable[[], Any], name: str) -> Callable[..., Any]:
    return lambda *args, **kwargs: list(getattr(make(), name)(*args, **kwargs))


OPTIONAL = {"None", "5"}
CASES = [
    Case(
        "backward",
        bptt.backward,
        {
            **NET_Y,
            **RUN,
            "window": value(4),
            "stride": value(2),
            "memory": value("1MB"),
            "loss_weights": value(torch.ones(T, B)),
            "reduction": value("mean"),
            "penalty": value(None),
        },
        {
            **RIGHT_RUN,
            "forcing": {"True"},
            "window": {"5"},
            "stride": {"None"},
            "memory": {"None"},
            "loss_weights": {"None"},
            "penalty": {"None"},
        },
        {"/net": {"module"}},
    ),
    Case(
        "gradient_flow",
        bptt.gradient_flow,
        {
            **NET_Y,
            **RUN,
            "window": value(4),
            "max_lag": value(4),
            "loss_weights": value(torch.ones(T, B)),
        },
        {
            **RIGHT_RUN,
            "window": {"None", "5"},
            "max_lag": OPTIONAL,
            "loss_weights": {"None", "array", "bool tensor", "float tensor"},
        },
    ),
    Case(
        "jacobians",
        bptt.jacobians,
        {**NET_Y, **RUN, "steps": value(3)},
        {**RIGHT_RUN, "steps": {"None", "5"}},
    ),
    Case(
        "lyapunov_exponents",
        bptt.lyapunov_exponents,
        {**NET_Y, **without(RUN, "lengths", "resets"), "count": value(2), "transient": value(1)},
        {**RIGHT_RUN, "count": {"None"}, "transient": OPTIONAL},
    ),
    Case(
        "lyapunov_spectrum",
        bptt.lyapunov_spectrum,
        {
            "/step": value(torch.sin),
            "/x0": lambda: torch.ones(3),
            "/steps": value(3),
            "count": value(1),
            "transient": value(1),
        },
        {
            "/step": {"function"},
            "/x0": {"float tensor", "array", "1.5"},
            "/steps": {"5"},
            "count": {"None"},
            "transient": OPTIONAL,
        },
        {"/step": {"module"}},
    ),
    Case(
        "fixed_points",
        bptt.fixed_points,
        {
            "/net": symbols,
            "/states": lambda: torch.zeros(2, H),
            "y": value(1),
            "tolerance": value(0.1),
            "apart": value(0.1),
        },
        {
            "y": {"None", "rank 0", "-1"},
            "tolerance": {"5", "-1", "1.5", "True"},
            "apart": {"5", "-1", "1.5", "True"},
        },
    ),
    Case(
        "composition_profile",
        bptt.composition_profile,
        {
            "/net": symbols,
            "steps": value(3),
            "points": value(5),
            "span": value(1.0),
            "y": value(None),
            "seed": value(0),
        },
        {
            "steps": {"5"},
            "points": {"5"},
            "span": {"5", "1.5", "True"},
            "y": {"None", "rank 0", "-1"},
            "seed": {"5"},
        },
    ),
    Case("spectrum", bptt.spectrum, {"/net": symbols, "layer": value(0)}, {}),
    Case(
        "plan",
        bptt.plan,
        {
            "/net": symbols,
            "/T": value(T),
            "/B": value(B),
            "/memory": value("1MB"),
            "y": lambda: Y,
            "x": value(None),
        },
        {"/T": {"5"}, "/memory": {"None"}, "y": {"None"}, "x": {"None"}},
        {"/net": {"module"}},
    ),
    Case(
        "watch",
        bptt.watch,
        {
            "/model": lambda: nn.GRU(2, 3),
            "every": value(1),
            "max_lag": value(3),
            "window": value(3),
            "on_flows": value(print),
            "writer": value(None),
        },
        {
            "every": {"5"},
            "max_lag": {"None", "5"},
            "window": {"None", "5"},
            "on_flows": {"None", "function", "class", "module", "Network"},
            "writer": {"None"},
        },
    ),
    Case("explain", bptt.explain, {"/model": lambda: nn.GRU(2, 3)}, {"/model": {"Network"}}),
    Case(
        "Cell",
        lambda x, state, input_size, hidden_size: bptt.cells.MinGRU(input_size, hidden_size)(
            x, state
        ),
        {
            "/x": lambda: torch.zeros(B, 3),
            "/state": lambda: torch.zeros(B, H),
            "/input_size": value(3),
            "/hidden_size": value(H),
        },
        {"/state": {"None"}, "/hidden_size": set()},
    ),
    Case(
        "Recurrent",
        lambda cells, x, hx, *, dropout=0.0, batch_first=False, initial="zero", **more: (
            bptt.Recurrent(cells, dropout=dropout, batch_first=batch_first, initial=initial)(
                x, hx, **more
            )
        ),
        {
            "/cells": lambda: bptt.cells.MinGRU(3, H),
            "/x": lambda: torch.zeros(T, B, 3),
            "/hx": lambda: torch.zeros(1, B, H),
            "dropout": value(0.0),
            "batch_first": value(False),
            "initial": value("zero"),
            "lengths": lambda: torch.tensor([T] * B),
            "resets": lambda: torch.zeros(T, B, dtype=torch.bool),
        },
        {
            "/hx": {"None"},
            "lengths": {"None"},
            "resets": {"None", "float tensor", "bool tensor"},
        },
    ),
    Case(
        "accelerate",
        bptt.accelerate,
        {"/model": lambda: nn.GRU(2, 3)},
        {"/model": {"module", "Network"}},
    ),
    Case(
        "unaccelerate",
        bptt.unaccelerate,
        {"/model": lambda: bptt.GRU(2, 3)},
        {"/model": {"module", "Network"}},
    ),
    Case(
        "Network",
        bptt.Network,
        {
            "/likelihood": lambda: bptt.Categorical(N),
            "inputs": value(0),
            "hidden": value(H),
            "recurrence": value("both"),
            "cell": value("tanh"),
            "layers": value(1),
            "init": value("orthogonal"),
            "leak": value(0.5),
            "learn_leak": value(False),
            "skips": value((2,)),
            "norm": value(False),
            "dropout": value(0.1),
            "initial": value("zero"),
        },
        {
            "inputs": {"5"},
            "hidden": {"5"},
            "layers": {"5"},
            "leak": {"None"},
            "learn_leak": {"True"},
            "norm": {"True"},
            "skips": {"5", "rank 0"},
        },
    ),
    Case("Network.forward", symbols(), {"/y": lambda: Y, **RUN}, {**RIGHT_RUN}),
    Case("Network.advance", symbols().advance, {"/y": lambda: Y, **RUN}, {**RIGHT_RUN}),
    Case(
        "Network.states_after",
        symbols().states_after,
        {"/steps": value([1, 2]), "/y": lambda: Y, **without(RUN, "forcing", "feedback")},
        {
            **RIGHT_RUN,
        },
    ),
    Case(
        "Network.generate",
        symbols().generate,
        {
            "/steps": value(3),
            "x": value(None),
            "prompt": lambda: Y,
            "state": value(None),
            "temperature": value(1.0),
            "generator": torch.Generator,
        },
        {
            "/steps": {"5"},
            "x": {"None"},
            "prompt": {"None"},
            "state": {"None"},
            "temperature": {"5", "1.5", "True"},
            "generator": {"None"},
        },
    ),
    Case(
        "Network.stream",
        drained(symbols, "stream"),
        {"/steps": value(3), "prompt": lambda: Y, "temperature": value(1.0)},
        {"/steps": {"5"}, "prompt": {"None"}, "temperature": {"5", "1.5", "True"}},
    ),
    Case(
        "Network.forecast",
        numbers().forecast,
        {
            "/steps": value(3),
            "x": value(None),
            "prompt": lambda: torch.zeros(T, B, 2),
            "state": value(None),
            "paths": value(4),
            "generator": torch.Generator,
        },
        {
            "/steps": {"5"},
            "x": {"None"},
            "prompt": {"None"},
            "state": {"None"},
            "paths": {"5"},
            "generator": {"None"},
        },
    ),
    Case(
        "Network.forward of numbers",
        numbers(2),
        {"/y": lambda: torch.zeros(T, B, 2), "x": lambda: torch.zeros(T, B, 2)},
        {},
    ),
    Case("Network.fresh_state", symbols().fresh_state, {"/B": value(2)}, {"/B": {"5"}}),
    Case(
        "Network.example",
        symbols().example,
        {"/T": value(2), "/B": value(2)},
        {"/T": {"5"}, "/B": {"5"}},
    ),
    Case("Network.from_config", bptt.Network.from_config, {"/config": lambda: symbols().config()}),
    Case(
        "Forecast.quantile",
        lambda share: numbers().forecast(2).quantile(share),
        {"share": value(0.5)},
        {"share": {"True"}},
    ),
    Case("Features", bptt.Features, {"/width": value(2)}, {"/width": {"5"}}),
    Case("Tokens", bptt.Tokens, {"/width": value(2)}, {"/width": {"5"}}),
    Case("Categorical", bptt.Categorical, {"/n": value(2)}, {"/n": {"5"}}),
    Case("Bernoulli", bptt.Bernoulli, {"/d": value(2)}, {"/d": {"5"}}),
    *[
        Case(kind.__name__, kind, {"/d": value(2), "scale": value("fixed")}, {"/d": {"5"}})
        for kind in (bptt.Gaussian, bptt.Laplace, bptt.StudentT)
    ],
    *[
        Case(kind.__name__, kind, {"/d": value(2)}, {"/d": {"5"}})
        for kind in (bptt.Poisson, bptt.NegativeBinomial, bptt.Beta)
    ],
    Case(
        "GaussianMixture",
        bptt.GaussianMixture,
        {"/d": value(2), "components": value(3)},
        {"/d": {"5"}, "components": {"5"}},
    ),
    Case("PenStrokes", bptt.PenStrokes, {"components": value(3)}, {"components": {"5"}}),
    Case("advice", bptt.advice, {"/flow": lambda: bptt.gradient_flow(symbols(), Y)}),
    Case(
        "penalties.Activity",
        bptt.penalties.Activity,
        {"strength": value(0.1), "power": value(2.0)},
        {name: {"5", "1.5", "True"} for name in ("strength", "power")},
    ),
    Case(
        "penalties.Weights",
        bptt.penalties.Weights,
        {"weights": lambda: [torch.ones(2)], "strength": value(0.1), "power": value(2.0)},
        {name: {"5", "1.5", "True"} for name in ("strength", "power")},
    ),
    Case(
        "Initial",
        bptt.Initial,
        {
            "W": value("gaussian"),
            "radius": value(1.0),
            "std": value(1.0),
            "forget_bias": value(None),
            "chrono": value(9),
        },
        {
            "radius": {"None", "5", "1.5", "True"},
            "std": {"None", "5", "1.5", "True"},
            "forget_bias": {"None"},
            "chrono": {"None", "5"},
        },
    ),
    Case(
        "Architecture",
        bptt.Architecture,
        {
            "/edges": value([("x", "h", 0), ("h", "h", 1), ("h", "o", 0)]),
            "inputs": value(("x",)),
            "outputs": value(("o",)),
        },
    ),
    Case(
        "Architecture.stacked",
        bptt.Architecture.stacked,
        {"/n": value(2), "/recurrence": value("both"), "source": value("x"), "skips": value((2,))},
        {"/n": {"5"}, "source": {"str"}},
    ),
    Case("Architecture.unfold", bptt.Architecture.rnn1().unfold, {"/T": value(3)}, {"/T": {"5"}}),
    Case(
        "Architecture.paths",
        drained(bptt.Architecture.rnn1, "paths"),
        {"/edge": value(("h", "h")), "/loss_step": value(3)},
        {"/loss_step": {"5"}},
    ),
    Case(
        "Architecture.count_paths",
        bptt.Architecture.rnn1().count_paths,
        {"/edge": value(("h", "h")), "/loss_step": value(3)},
        {"/loss_step": {"5"}},
    ),
    Case(
        "GradientFlow.horizon",
        lambda tolerance: flow().horizon(tolerance),
        {"tolerance": value(0.1)},
        {"tolerance": {"5", "1.5", "True"}},
    ),
    Case(
        "Spectrum.powers",
        lambda v, n: bptt.spectrum(symbols()).powers(v, n),
        {"/v": lambda: np.ones(H), "/n": value(2)},
        {"/n": {"5"}},
    ),
    Case(
        "Collection.of",
        bptt.Collection.of,
        {
            "/y": lambda: [np.arange(6) % N] * 4,
            "x": value(None),
            "loss_weights": value(None),
            "validation": value(None),
        },
        {"x": {"None"}, "/y": {"list"}, "loss_weights": {"None"}, "validation": {"None"}},
    ),
    Case(
        "Labelled.of",
        bptt.Labelled.of,
        {
            "/x": lambda: [np.arange(6)[: 3 + k] for k in range(4)],
            "/labels": value([0, 1, 0, 1]),
            "validation": value(None),
        },
        {"validation": {"None"}},
    ),
    Case(
        "read_labelled",
        bptt.read_labelled,
        {
            "/path": value("nowhere"),
            "tokens": value("characters"),
            "vocabulary": value(None),
            "classes": value(None),
        },
    ),
    Case(
        "read_collection",
        bptt.read_collection,
        {"/path": value("nowhere.npz"), "symbols": value(None)},
    ),
    Case(
        "read_text",
        bptt.read_text,
        {"/path": value(None), "tokens": value("characters"), "vocabulary": value(None)},
        {"/path": {"None"}, "vocabulary": {"None"}},
    ),
    Case(
        "Columns",
        bptt.Columns,
        {
            "target": value(("a",)),
            "inputs": value(("b",)),
            "time": value("t"),
            "fill": value("linear"),
            "difference": value(False),
            "validation_share": value(0.5),
            "categories": value(("c",)),
            "calendar": value(("hour",)),
            "series": value("s"),
            "validation_by": value("time"),
            "units": value("common"),
            "label": value(None),
        },
        {
            "target": {"str"},
            "inputs": {"str"},
            "categories": {"str"},
            "series": {"str"},
            "validation_by": {"None"},
            "units": {"None"},
            "time": {"str"},
            "fill": {"None"},
            "difference": {"True"},
            "label": {"None"},
        },
    ),
    Case(
        "Dialect",
        bptt.Dialect,
        {
            "separator": value(";"),
            "decimal": value(","),
            "thousands": value("'"),
            "comment": value("#"),
            "missing": value(("none",)),
            "encoding": value("utf-8"),
            "header": value(True),
        },
        {
            "missing": {"str"},
            "separator": {"None"},
            "decimal": {"None"},
            "thousands": {"None"},
            "comment": {"None", "str"},
            "encoding": {"None"},
            "header": {"None", "True"},
        },
    ),
    Case(
        "read_table",
        bptt.read_table,
        {"/data": value("nowhere.csv"), "columns": bptt.Columns, "measures": value(None)},
    ),
    Case(
        "backtest",
        bptt.backtest,
        {
            "/model": lambda: bptt.Network(bptt.Gaussian(1), hidden=2),
            "/table": lambda: table(100),
            "/horizon": value(2),
            "origins": value(2),
            "season": value(None),
            "quantiles": value((0.1, 0.9)),
            "paths": value(3),
            "seed": value(0),
        },
        {
            "/horizon": {"5"},
            "origins": {"5"},
            "season": {"None", "5"},
            "paths": {"5"},
            "seed": {"None", "5"},
        },
    ),
    Case(
        "forecast",
        bptt.forecast,
        {
            "/model": lambda: bptt.Network(bptt.Gaussian(1), hidden=2),
            "/table": table,
            "/steps": value(2),
            "future": value(None),
            "quantiles": value((0.1, 0.9)),
            "paths": value(3),
            "seed": value(0),
        },
        {
            "future": {"None"},
            "paths": {"5"},
            "/steps": {"5"},
            "seed": {"None", "5"},
        },
    ),
    Case(
        "fit",
        bptt.fit,
        {
            "/net": symbols,
            "/data": collection,
            "settings": value(bptt.Settings(max_updates=1)),
            "out": value(None),
            "seed": value(3),
            "on_update": value(None),
            "penalty": value(None),
            "validation": value(None),
            "optimizer": value(None),
            "schedule": value(None),
            "loss": value(None),
            "progress": value(False),
        },
        {
            "/net": {"Network"},
            "/data": {"Collection", "tuple"},
            "out": {"None"},
            "seed": {"None", "5", "-1"},
            "on_update": {"None", "function", "class", "module", "Network"},
            "penalty": {"None"},
            "validation": {"None"},
            "optimizer": {"None"},
            "schedule": {"None"},
            "loss": {"None"},
        },
        {"settings": {"None", "Settings"}},
    ),  # which train for long
    Case(
        "resume",
        bptt.resume,
        {
            "/run": value("nowhere"),
            "data": value(None),
            "max_updates": value(None),
            "max_seconds": value(None),
            "on_update": value(None),
            "penalty": value(None),
            "validation": value(None),
            "net": value(None),
            "optimizer": value(None),
            "schedule": value(None),
            "loss": value(None),
            "progress": value(False),
        },
    ),
    Case(
        "diagnose",
        bptt.diagnose,
        {
            "/net": symbols,
            "/sample": lambda: bptt.Sample(Y),
            "window": value(3),
            "stride": value(None),
            "max_lag": value(5),
        },
        {"window": {"None", "5"}, "stride": {"None"}, "max_lag": OPTIONAL},
    ),
    Case(
        "diagnose_run",
        bptt.diagnose_run,
        {
            "/run": value("nowhere"),
            "/data": value(None),
            "steps": value(None),
            "sequences": value(3),
            "max_lag": value(None),
        },
    ),
    Case(
        "exposure",
        bptt.exposure,
        {
            **NET_Y,
            "x": value(None),
            "steps": value(3),
            "starts": value(2),
            "feedback": value("sample"),
            "seed": value(0),
        },
        {"x": {"None"}, "steps": {"5"}, "starts": {"5"}, "seed": {"5"}},
    ),
    Case("Run.open", bptt.Run.open, {"/path": value("nowhere")}),
    Case(
        "Settings",
        bptt.Settings,
        {
            "batch": value(2),
            "window": value(4),
            "stride": value(2),
            "memory": value("1MB"),
            "steps_per_update": value(8),
            "forcing": value(1.0),
            "forcing_end": value(None),
            "forcing_schedule": value("linear"),
            "feedback": value("sample"),
            "epochs": value(1.0),
            "max_updates": value(3),
            "max_seconds": value(1.0),
            "optimizer": value("adam"),
            "learning_rate": value(0.1),
            "clip": value(1.0),
            "clip_value": value(1.0),
            "omega": value(1.0),
            "omega_halved_after": value(3),
            "validate_every": value(1),
            "stop_when_solved": value(True),
        },
        {
            "batch": OPTIONAL,
            "window": {"5"},
            "stride": {"None"},
            "memory": {"None", "5"},
            "steps_per_update": OPTIONAL,
            "forcing": {"True"},
            "forcing_end": {"None", "True"},
            "max_updates": OPTIONAL,
            "validate_every": OPTIONAL,
            "omega_halved_after": OPTIONAL,
            "stop_when_solved": {"True"},
            **{
                name: {"None", "5", "1.5", "True"}
                for name in ("epochs", "max_seconds", "clip_value")
            },
            **{name: {"5", "1.5", "True"} for name in ("learning_rate", "clip", "omega")},
        },
    ),
    Case("Task", bptt.Task, {"/name": value("copy"), "/lengths": value((20, 30))}),
    Case(
        "Task.parse",
        bptt.Task.parse,
        {"/name": value("copy"), "/length": value(30)},
        {"/length": {"5"}},
    ),
    Case(
        "write_report",
        bptt.write_report,
        {"/path": value("report.html"), "/diagnosis": flow},
        {"/path": {"str", "Path"}},
    ),
    Case(
        "State",
        lambda state: symbols()(Y, state=state),
        {"state": lambda: bptt.State(torch.zeros(1, B, H))},
        {"state": {"None"}},
    ),
    *(
        Case(
            f"State.{part}",
            lambda part=part, **one: symbols()(Y, state=bptt.State(**one), forcing=0.5),
            {part: value(None)},
            {part: {"None"}},
        )
        for part in bptt.State._fields
    ),
]


def plots() -> list[Case]:
    found = {"/flow": flow}
    names = ["plot_norms", "plot_by_lag", "plot_summations", "plot_truncation"]
    cases = [Case(name, getattr(bptt.plots, name), found) for name in names]
    rnn = bptt.Architecture.rnn1
    return [
        *cases,
        Case(
            "plot_singular_values",
            bptt.plots.plot_singular_values,
            {"/jacobians": lambda: bptt.jacobians(symbols(), Y)},
        ),
        Case(
            "plot_eigenvalues",
            bptt.plots.plot_eigenvalues,
            {"/spectrum": lambda: bptt.spectrum(symbols())},
        ),
        Case(
            "plot_lyapunov",
            bptt.plots.plot_lyapunov,
            {"/lyapunov": lambda: bptt.lyapunov_exponents(symbols(), Y)},
        ),
        Case(
            "plot_exposure",
            bptt.plots.plot_exposure,
            {"/exposure": lambda: bptt.exposure(symbols(), Y, steps=3)},
        ),
        Case("plot_architecture", bptt.plots.plot_architecture, {"/architecture": rnn}),
        Case(
            "plot_unfolded",
            bptt.plots.plot_unfolded,
            {"/architecture": rnn, "/T": value(3), "ways": value(())},
            {"/T": {"5"}},
        ),
        Case(
            "plot_learning",
            bptt.plots.plot_learning,
            {"/metrics": value([{"update": 1, "train_nll": 1.0}])},
        ),
        Case(
            "plot_criterion",
            bptt.plots.plot_criterion,
            {
                "/metrics": value([{"update": 1, "score": 1.0}]),
                "/criterion": lambda: bptt.Task.parse("copy", 20).criterion,
            },
        ),
        Case(
            "plot_confusion",
            bptt.plots.plot_confusion,
            {"/confusion": value(np.eye(2, dtype=int)), "/classes": value(("a", "b"))},
        ),
        Case("plot_costs", bptt.plots.plot_costs, {"/costs": value([])}, {}),
        Case("plot_horizon", bptt.plots.plot_horizon, {"/snapshots": value([])}, {}),
        Case("plot_snapshots", bptt.plots.plot_snapshots, {"/snapshots": value([])}, {}),
        *(
            Case(name, getattr(bptt.plots, name), {"/backtest": value(1)})
            for name in ("plot_coverage", "plot_errors_ahead", "plot_examples")
        ),
        Case("plot_forecast", bptt.plots.plot_forecast, {"/table": value(1), "/ahead": value(1)}),
        Case(
            "write_figure", bptt.plots.write_figure, {"/figure": value(1), "/path": value("x.html")}
        ),
    ]


CASES += plots()
CHANCE = [case.by_chance() for case in CASES if {"/net", "forcing"} & set(case.arguments)]
"""Those that a network can draw random numbers in, when it does."""
NOT_VALID = {
    "read_collection",
    "read_labelled",
    "read_table",
    "resume",
    "diagnose_run",
    "Run.open",
    "plot_coverage",
    "plot_errors_ahead",
    "plot_examples",
    "plot_forecast",
    "write_figure",
}
"""Cases whose valid call needs a file: their arguments are wrong by themselves."""


ITEMS = {
    ("backward", "penalty"): {"Network", "class", "module"},
    ("fit", "on_update"): {"Network", "class", "module"},
    ("fit", "penalty"): {"Network", "class", "module"},
    ("fit", "optimizer"): {"Network", "class", "module"},
    ("fit", "schedule"): {"Network", "class", "module"},
    ("fit", "loss"): {"Network", "class", "module", "function"},
    ("fit", "progress"): {"True"},
    ("fit", "out"): {"str", "Path"},
    ("fit", "seed"): {"-1"},
    ("Run.open", "/path"): {"str", "Path"},
    ("write_report", "/path"): {"str", "Path"},
    ("plot_confusion", "/classes"): {"list", "tuple"},
    ("plot_unfolded", "ways"): {"list", "tuple", "set", "DataLoader"},
    **{
        (f"plot_{name}", f"/{rows}"): {"list", "tuple"}
        for name, rows in (
            ("learning", "metrics"),
            ("criterion", "metrics"),
            ("costs", "costs"),
            ("horizon", "snapshots"),
            ("snapshots", "snapshots"),
        )
    },
}
"""Not tried: what is right there, or is a list of anything."""


LATE = {"None", "str", "-1", "nan", "array", "float tensor", "sparse tensor", "meta tensor"}
LATE |= {"rank 4", "empty", "wrong size", "module", "Network"}
"""Values that are refused late, if anything is: where a call has looked at its other arguments.

A call that refuses one of them has drawn no random numbers.
"""


def late_for(case: Case) -> set[str]:
    """Return the values at which to look for draws: none if the call draws a network itself."""
    return set() if getattr(case.call, "__name__", "") == "<lambda>" else LATE


def require_valid(case: Case) -> None:
    if case.name not in NOT_VALID:
        case.run()


def failures_of(case: Case) -> list[str]:
    late, failures = late_for(case), []
    for name in case.arguments:
        require_valid(case)  # still, with what the calls before it have refused to go with
        for wrong in sorted(
            set(WRONG) - case.skipped.get(name, set()) - ITEMS.get((case.name, name), set())
        ):
            is_right = wrong in case.right.get(name, set())
            try:
                case.run(name, wrong)
                if not is_right and not _is_the_same(case, name, wrong):
                    failures.append(f"{name} = {wrong}: no error")
            except BpttError as error:
                if is_right:
                    failures.append(f"{name} = {wrong}: refused: {error}")
                elif "\n" in str(error) or len(str(error)) > 700:
                    failures.append(f"{name} = {wrong}: not one line: {error}")
                elif wrong in late and case.drew():
                    failures.append(f"{name} = {wrong}: refused after a draw: {error}")
            except Exception as error:  # noqa: BLE001 (what is looked for)
                failures.append(f"{name} = {wrong}: {type(error).__name__}: {str(error)[:90]}")
    require_valid(case)
    return [f"{case.name}: {failure}" for failure in failures]


def draws_of(case: Case) -> list[str]:
    """Return with which wrong arguments a call draws random numbers, and is refused then."""
    failures = []
    for name in case.arguments:
        not_tried = case.skipped.get(name, set()) | ITEMS.get((case.name, name), set())
        for wrong in sorted(LATE - not_tried):
            try:
                case.run(name, wrong)
            except BpttError as error:
                if case.drew():
                    failures.append(f"{case.name}: {name} = {wrong}: refused after a draw: {error}")
    return failures


def test_a_wrong_type_is_a_bptt_error() -> None:
    """In a process of its own, in which nothing else has drawn."""
    command = [sys.executable, "-m", "tests.without_compiler", "tests.test_wrong_types"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == ""


def _is_the_same(case: Case, name: str, wrong: str) -> bool:
    """Whether the wrong value is of the kind that a valid call has."""
    valid, other = case.arguments[name](), WRONG[wrong]()
    return type(valid) is type(other) and type(valid) in (bptt.Network, bptt.Collection)


def test_every_public_name_is_walked() -> None:
    results = {"Jacobians", "Lyapunov", "CompositionProfile", "FixedPoints", "GradientFlow", "Plan"}
    results |= {
        "Remedy",
        "Snapshot",
        "Spectrum",
        "Watch",
        "Watched",
        "Forecast",
        "Backtest",
        "PanelForecast",
        "SeriesForecast",
        "Output",
        "State",
        "Diagnosis",
        "Exposure",
        "Explanation",
    }
    results |= {
        "Interrupted",
        "Run",
        "Sample",
        "Text",
        "Table",
        "Panel",
        "Dataset",
    }  # made by us: values
    torchs = {"RNN", "GRU", "LSTM", "RNNCell", "GRUCell", "LSTMCell"}  # whose errors are torch.nn's
    not_called = {"BpttError", "Likelihood", "kernel", "plots", "cells"}
    walked = {case.name.split(".")[0] for case in CASES}
    assert set(bptt.__all__) - {"__version__"} <= walked | results | torchs | not_called
    figures = {name for name in bptt.plots.__all__ if inspect.isfunction(getattr(bptt.plots, name))}
    assert figures <= walked


if __name__ == "__main__":
    torch.set_num_threads(1)
    # Of 300 and 40: where it comes to rest is not looked at.
    fixed_points.DESCENT = fixed_points.NEWTON = 3
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for one in CASES:
            for failure in failures_of(one):
                sys.stdout.write(failure + "\n")
        for one in CHANCE:
            for failure in draws_of(one):
                sys.stdout.write(failure + "\n")
        os.chdir("/")
