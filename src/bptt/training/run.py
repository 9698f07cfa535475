"""A run is one folder: config.json, metrics.jsonl and checkpoint.safetensors."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from bptt.errors import BpttError, require_path
from bptt.model.network import Network
from bptt.training import checkpoint
from bptt.training.batches import Data
from bptt.training.collection import read_collection
from bptt.training.data import Vocabulary, read_text
from bptt.training.settings import Settings
from bptt.training.tables import Columns, Scaling, Table, read_table
from bptt.training.tasks import Task

CONFIG, METRICS, CHECKPOINT = "config.json", "metrics.jsonl", "checkpoint.safetensors"


@dataclass(frozen=True)
class Run:
    """A run's folder, and what its config.json says."""

    path: Path
    config: dict[str, Any]

    @classmethod
    def create(cls, path: str | Path, config: dict[str, Any]) -> Run:
        """Make the folder, unless it holds a run already."""
        path = Path(path)
        if (path / CONFIG).exists():
            raise BpttError(
                f"{path} holds a run already; give another folder with out (--out), "
                "or go on with that run by resuming it (--resume)"
            )
        try:
            path.mkdir(parents=True, exist_ok=True)
            if (path / METRICS).exists():
                raise BpttError(
                    f"{path} is taken, by a run that is starting or one that never did; "
                    "give another folder with out (--out)"
                )
            (path / METRICS).touch(exist_ok=False)  # of two that come here at once, one wins
        except OSError as error:
            raise BpttError(f"cannot write a run to {path}: {error.strerror}") from None
        return cls(path, config)

    def write_config(self) -> None:
        """Write config.json, which makes the folder a run: after its first checkpoint is there."""
        checkpoint.write_atomically(self.path / CONFIG, json.dumps(self.config, indent=2) + "\n")

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """Return the run in a folder, or raise BpttError if there is none."""
        require_path("the run", path)
        path = Path(path)
        try:
            config = json.loads((path / CONFIG).read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            raise BpttError(
                f"{path} holds no run; expected a folder with a {CONFIG}, as 'bptt train' makes it"
            ) from None
        except (OSError, ValueError) as error:
            raise BpttError(f"{path / CONFIG} cannot be read: {error}") from None
        if not isinstance(config, dict) or not {"network", "data", "training", "trained"} <= set(
            config
        ):
            raise BpttError(f"{path / CONFIG} is not what 'bptt train' writes; is it another's?")
        return cls(path, config)

    def with_training(self, **changes: Any) -> Run:
        """Return the run with other training settings."""
        return Run(self.path, {**self.config, "training": {**self.config["training"], **changes}})

    def settings(self) -> Settings:
        """Return how it is trained."""
        with self._understood():
            return Settings(**self.config["training"])

    @contextmanager
    def _understood(self) -> Iterator[None]:
        """Say which file is at fault when what config.json says makes no sense."""
        try:
            yield
        except (KeyError, TypeError) as error:
            raise BpttError(
                f"{self.path / CONFIG} is not what 'bptt train' writes: {error}"
            ) from None

    @property
    def kind(self) -> str:
        """What it was trained on: "text", "table", "sequences" or "task"."""
        with self._understood():
            return str(self.config["data"]["kind"])

    @property
    def inputs(self) -> tuple[str, ...]:
        """The columns of the table that are inputs, if it was trained on a table."""
        with self._understood():
            return tuple(self.config["data"]["columns"]["inputs"]) if self.kind == "table" else ()

    @property
    def unit(self) -> str:
        """What a step is called."""
        return self.vocabulary.unit if self.kind == "text" else "step"

    @property
    def vocabulary(self) -> Vocabulary:
        """The tokens that the run was trained on, if that was a text."""
        with self._understood():
            data = self.config["data"]
            return Vocabulary(data["tokens"], data["characters"])

    def read_data(self, path: str | Path | None = None) -> Data:
        """Read the run's data again, from where it was or from `path`; it must be unchanged."""
        kind = self.kind
        with self._understood():
            config = self.config["data"]
            source, sha256 = path if path is not None else config["path"], config["sha256"]
            low, high = config["lengths"] if kind == "task" else (0, 0)
            name, symbols = config.get("name"), config.get("symbols")
        data: Data
        if kind == "task":
            if path is not None:
                raise BpttError(
                    f"the data is given as {path}, but {self.path} was trained on a task, which is "
                    "drawn and has no file; leave it out"
                )
            data = Task(str(name), (low, high))
        elif kind == "text":
            vocabulary = self.vocabulary
            data = read_text(source, vocabulary.kind, vocabulary)
        elif source is None:
            raise BpttError(
                f"the data of {self.path} came from memory; expected a file to read it from"
            )
        elif kind == "table":
            data = self.read_table(source)
        else:
            data = read_collection(source, symbols)
        if data.sha256 != sha256:
            raise BpttError(
                f"{data.source} is not the {self.kind} that {self.path} was trained on "
                f"(SHA-256 {data.sha256[:12]}, expected {sha256[:12]}); "
                "give the original, or start a new run"
            )
        return data

    def read_table(self, path: str | Path) -> Table:
        """Read a table as the run's own was: the same columns, in the same units."""
        with self._understood():
            config = self.config["data"]
            columns, y = Columns(**config["columns"]), Scaling(**config["y_scaling"])
            x = None if config["x_scaling"] is None else Scaling(**config["x_scaling"])
        return read_table(path, columns, scaling=(y, x))

    def network(self) -> Network:
        """Return the trained network."""
        tensors, _ = self.load()
        with self._understood():
            net = Network.from_config(self.config["network"])
            trained = set(self.config["trained"])
        checkpoint.load_weights(net, under("network", tensors), self.path / CHECKPOINT)
        for name, parameter in net.named_parameters():
            parameter.requires_grad_(name in trained)
        return net

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the checkpoint's tensors and notes."""
        if not (self.path / CHECKPOINT).exists():
            raise BpttError(f"{self.path} has no {CHECKPOINT}; nothing can be loaded from it")
        return checkpoint.load(self.path / CHECKPOINT)

    def save(self, tensors: dict[str, Tensor], notes: dict[str, Any]) -> None:
        """Replace the checkpoint; the metrics up to it are on the disk before it is."""
        if (self.path / METRICS).exists():
            checkpoint.sync(self.path / METRICS)
        checkpoint.save(self.path / CHECKPOINT, tensors, notes)

    def log(self, row: dict[str, float]) -> None:
        """Add a line to metrics.jsonl."""
        try:
            with (self.path / METRICS).open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise BpttError(f"cannot write {self.path / METRICS}: {error.strerror}") from None

    def metrics(self) -> list[dict[str, float]]:
        """Return the lines of metrics.jsonl, less one that was cut off half way."""
        path = self.path / METRICS
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        return [json.loads(line) for line in text.splitlines() if line.endswith("}")]

    def forget_after(self, step: int) -> None:
        """Drop what metrics.jsonl says of later steps, since they will be run again."""
        kept = [json.dumps(row) + "\n" for row in self.metrics() if row["step"] <= step]
        checkpoint.write_atomically(self.path / METRICS, "".join(kept))


def under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names start with `prefix.`, without it."""
    return {
        name.removeprefix(f"{prefix}."): tensor
        for name, tensor in tensors.items()
        if name.startswith(f"{prefix}.")
    }


def next_folder(data: Path | None) -> Path:
    """Return the first of runs/NAME-1, runs/NAME-2, … that is free, named for the data."""
    name = "topics" if data is None else re.sub(r"[^\w.-]", "-", data.stem) or "run"
    folders = (Path("runs") / f"{name}-{number}" for number in itertools.count(1))
    return next(folder for folder in folders if not folder.exists())
