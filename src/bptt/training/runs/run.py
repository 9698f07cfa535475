"""A run is one folder: config.json, metrics.jsonl, two checkpoints, and the best weights."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor, nn

from bptt.data.batches import Dataset
from bptt.data.input_files import parse_json, read_bytes, system_errors
from bptt.data.sequences.collection import read_collection
from bptt.data.sequences.labelled_files import read_labelled
from bptt.data.sequences.labels import Labelled
from bptt.data.tables.columns import UNKNOWN, Columns
from bptt.data.tables.labelled_table import LabelledTable
from bptt.data.tables.measures import Measures
from bptt.data.tables.panels import Panel
from bptt.data.tables.table import Table
from bptt.data.tables.table_reader import read_table
from bptt.data.tasks.task import Task
from bptt.data.texts.text import Text, read_text
from bptt.data.texts.vocabularies import recalled
from bptt.data.texts.vocabulary import Vocabulary
from bptt.errors import BpttError, BpttWarning, require_path
from bptt.model.network import Network
from bptt.training.runs import checkpoint, files
from bptt.training.runs.plain_values import as_dataclass
from bptt.training.runs.run_config import require_config, require_sizes
from bptt.training.runs.run_lines import drop_cut_off, read_lines, require_metrics
from bptt.training.runs.weights import every_weight, tie
from bptt.training.settings import Settings

M = TypeVar("M", bound=nn.Module)
CONFIG, METRICS, CHECKPOINT = "config.json", "metrics.jsonl", "checkpoint.safetensors"
BEFORE = "checkpoint-before.safetensors"
"""The checkpoint before the last one, to go on from if that is damaged."""
BEST = "best.safetensors"
"""The weights whose validation was the best, to use; the checkpoint has the last, to go on from."""
FLOW = "flow.jsonl"
TRAINED_ON = {
    "text": "a text",
    "table": "a table",
    "sequences": "a collection of sequences",
    "labelled": "sequences with labels",
    "task": "a task",
    "loader": "batches of a loader",
}
"""What to call what a run was trained on."""
MOST_UNKNOWN = 0.05
"""Of the characters of a text on which a network trains that comes with a vocabulary."""
MOST_CONFIG = 1 << 25
"""Bytes of a config.json; one with all characters of Unicode has less than half."""


@dataclass(frozen=True)
class Run:
    """A run's folder, and what its config.json says."""

    path: Path
    config: dict[str, Any]

    def write_config(self) -> None:
        """Write config.json, which makes the folder a run: after its first checkpoint is there."""
        files.write(self.path / CONFIG, json.dumps(self.config, indent=2) + "\n", files.JSON)

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """Return the run in a folder, or raise BpttError if there is none."""
        require_path("the run", path)
        path = Path(path)
        with system_errors("read", path):
            is_there = (path / CONFIG).exists()
        if not is_there:
            raise BpttError(
                f"{path} holds no run; expected a folder with a {CONFIG}, as 'bptt train' makes it"
            )
        source = str(path / CONFIG)
        config = parse_json(read_bytes(source, "what 'bptt train' writes", MOST_CONFIG), source)
        require_config(config, source)
        return cls(path, config)

    def with_training(self, **changes: Any) -> Run:
        """Return the run with other training settings."""
        return Run(self.path, {**self.config, "training": {**self.config["training"], **changes}})

    def settings(self) -> Settings:
        """Return how it is trained."""
        return Settings(**self.config["training"])

    @property
    def kind(self) -> str:
        """What it was trained on: "text", "table", "sequences", "labelled", "task" or "loader"."""
        return str(self.config["data"]["kind"])

    @property
    def inputs(self) -> tuple[str, ...]:
        """The columns of the table that are inputs, if it was trained on a table."""
        if self.kind != "table":
            return ()
        columns = self.config["data"]["columns"]
        return (*columns["inputs"], *columns["categories"])

    @property
    def has_columns(self) -> bool:
        """Whether it was trained on a table, of series as such or with a label each."""
        return self.config["data"].get("columns") is not None

    @property
    def unit(self) -> str:
        """What a step is called."""
        return self.vocabulary.unit if self.config["data"].get("tokens") else "step"

    @property
    def loss_unit(self) -> str:
        """What has a loss: a step, or a label."""
        return "label" if self.kind == "labelled" else self.unit

    @property
    def vocabulary(self) -> Vocabulary:
        """The tokens that the run was trained on, if that was a text, or texts."""
        return recalled(self.config["data"])

    def read_data(self, path: str | Path | None = None) -> Dataset:
        """Read the run's data again, from where it was or from `path`; it must be unchanged."""
        kind, config = self.kind, self.config["data"]
        source = path if path is not None else config["path"]
        data: Dataset
        if kind == "loader":
            raise BpttError(
                f"the data of {self.path} came from an iterable of batches; expected it again: "
                "bptt.resume(run, data=...)"
            )
        if kind == "task":
            if path is not None:
                raise BpttError(
                    f"the data is given as {path}, but {self.path} was trained on a task, which is "
                    "drawn and has no file; leave it out"
                )
            low, high = config["lengths"]
            data = Task(config["name"], (low, high))
        elif source is None and kind != "text":  # without a path that is the built-in one
            raise BpttError(
                f"the data of {self.path} came from memory; expected a file to read it from"
            )
        elif kind == "text":
            data = read_text(source, vocabulary=self.vocabulary)
        elif kind == "table":
            data = self.read_table(source)
        elif kind == "labelled":
            data = self._read_labelled(source)
        else:
            units = config.get("standardise", False)
            data = read_collection(source, config["symbols"], standardise=units)
        if data.sha256 != config["sha256"]:
            raise BpttError(
                f"{data.source} is not the data that {self.path} was trained on "
                f"(SHA-256 {data.sha256[:12]}, expected {config['sha256'][:12]}); "
                "give the original, or start a new run"
            )
        return data

    def read_like_its_own(self, path: str | Path | None) -> Dataset:
        """Read other data as the run's own was: with its tokens, columns and units.

        path: None for the built-in text.
        """
        config = self.config["data"]
        if self.kind == "text":
            return self._known(read_text(path, vocabulary=self.vocabulary))
        if path is not None and self.kind == "labelled":
            return self._read_labelled(path)
        if path is None or self.kind not in ("table", "sequences"):
            raise BpttError(
                f"{self.path} was trained on {TRAINED_ON[self.kind]}, of which there is no other "
                "file; expected a run that was trained on a text, a table or a collection"
            )
        if self.kind == "table":
            return self.read_table(path)
        if config.get("standardise"):
            raise BpttError(
                f"{self.path} was trained in standard units of its own data, which its folder does "
                "not hold; expected a run without (--standardise)"
            )
        return read_collection(path, config["symbols"], standardise=False)

    def _read_labelled(self, path: str | Path) -> Labelled:
        """Read labelled sequences with the run's own tokens and classes."""
        config = self.config["data"]
        if self.has_columns:
            labelled = self._read_columns(path)
            assert isinstance(labelled, Labelled)
            return labelled
        vocabulary = None if config["tokens"] is None else self.vocabulary
        classes = config["classes"] or None
        known = {"vocabulary": vocabulary, "classes": classes, "symbols": config["symbols"]}
        return read_labelled(path, **known)

    def _known(self, text: Text) -> Text:
        """Return a text that says how much of it the vocabulary lacks, or raise BpttError."""
        unknown = text.vocabulary.unknown
        if unknown is None:
            return text
        share = float((text.training == unknown).float().mean())
        words = f"{share:.1%} of the characters in {text.source} are unknown to {self.path}"
        if share > MOST_UNKNOWN:
            raise BpttError(
                f"{words}, whose vocabulary is kept; expected at most {MOST_UNKNOWN:.0%}: train a "
                "new network on that text"
            )
        return replace(text, about=(*text.about, words)) if share > 0 else text

    def read_table(self, data: Any) -> Table | Panel:
        """Read a table, from a file or a frame, as the run's own was: its columns, its units."""
        self.require_table()
        table = self._read_columns(data)
        assert isinstance(table, Table | Panel)
        return table

    def _read_columns(self, data: Any) -> Table | Panel | LabelledTable:
        config = self.config["data"]
        measures = as_dataclass(Measures, config["measures"], str(self.path / CONFIG))
        columns = Columns(**config["columns"])
        if not isinstance(data, str | Path):
            columns = replace(columns, dialect=UNKNOWN)
        return read_table(data, columns, measures=measures)

    def require_table(self) -> None:
        """Raise BpttError unless it was trained on a table."""
        if self.kind != "table":
            raise BpttError(
                f"{self.path} was trained on {TRAINED_ON[self.kind]}; expected a run that was "
                "trained on a table"
            )

    def table_path(self) -> str:
        """Return where the run's own table was, or raise BpttError if it came from memory."""
        path = self.config["data"]["path"]
        if path is None:
            raise BpttError(
                f"the table of {self.path} came from memory; expected it, or another like it"
            )
        return str(path)

    def network(self, tensors: dict[str, Tensor] | None = None, *, last: bool = False) -> Network:
        """Return the trained network.

        last: with its last weights, and not those whose validation was the best. tensors: a
        checkpoint's, if they are loaded already.
        """
        if module := self.config["network"].get("module"):
            raise BpttError(
                f"{self.path} trained a {module}, which it cannot make again; expected that "
                "module: bptt.Run.open(run).load_into(module), or bptt.resume(run, net=module)"
            )
        weights = self._every_weight(tensors, last=last)
        require_sizes(self.config["network"], weights, str(self.path / CHECKPOINT))
        net = Network.from_config(self.config["network"])
        tie(net, self._tied, str(self.path / CONFIG))
        return self._filled(net, weights)

    def load_into(
        self, net: nn.Module, tensors: dict[str, Tensor] | None = None, *, last: bool = False
    ) -> nn.Module:
        """Put the trained weights into a module like the one that was trained, and return it.

        last, tensors: as in `network`.
        """
        return self._filled(net, self._every_weight(tensors, last=last))

    @property
    def _tied(self) -> dict[str, str]:
        """Which parameters are others under a second name."""
        return self.config.get("tied") or {}

    def _every_weight(self, tensors: dict[str, Tensor] | None, *, last: bool) -> dict[str, Tensor]:
        """Return the network's weights under all of their names."""
        if tensors is None:
            tensors = self.weights(last=last)
        return every_weight(under("network", tensors), self._tied, str(self.path / CHECKPOINT))

    def _filled(self, net: M, weights: dict[str, Tensor]) -> M:
        """Return a module with these weights, of which those are to be trained that were."""
        checkpoint.load_weights(net, weights, self.path / CHECKPOINT)
        trained = set(self.config["trained"])
        if unknown := sorted(trained - dict(net.named_parameters()).keys()):
            raise BpttError(f"{self.path / CONFIG} has {unknown[0]} among what is trained")
        for name, parameter in net.named_parameters():
            parameter.requires_grad_(name in trained)
        return net

    def weights(self, *, last: bool = False) -> dict[str, Tensor]:
        """Return the tensors of the best weights, or of the last where there are no others."""
        if last or not (self.path / BEST).exists():
            return self.load()[0]
        return checkpoint.load(self.path / BEST)[0]

    def save_best(self, tensors: dict[str, Tensor], notes: dict[str, Any]) -> None:
        """Replace the best weights."""
        tensors = {f"network.{name}": tensor for name, tensor in tensors.items()}
        checkpoint.save(self.path / BEST, tensors, notes)

    def load(self, *, to_go_on: bool = False) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the checkpoint's tensors and notes; with a warning the one before if it is torn.

        to_go_on: the one before then takes its place, before anything is written; the caller holds
        the run's lock. BpttError is raised where neither can be read.
        """
        last, before = self.path / CHECKPOINT, self.path / BEFORE
        try:
            if not last.exists():
                raise BpttError(f"{self.path} has no {CHECKPOINT}; nothing can be loaded from it")
            return checkpoint.load(last)
        except BpttError as torn:
            if not before.exists():
                raise
            files.require_ours(last, files.CHECKPOINT)
            try:
                tensors, notes = checkpoint.load(before)
            except BpttError:
                raise torn from None
            warnings.warn(
                f"{torn}; the one before, of update {notes.get('update')}, is taken",
                BpttWarning,
                stacklevel=2,
            )
        if to_go_on:
            files.keep_as(before, last, files.CHECKPOINT)
        return tensors, notes

    def save(self, tensors: dict[str, Tensor], notes: dict[str, Any]) -> None:
        """Replace the checkpoint; the metrics up to it are on the disk before it is."""
        if (self.path / METRICS).exists():
            files.sync(self.path / METRICS)
        files.keep_as(self.path / CHECKPOINT, self.path / BEFORE, files.CHECKPOINT)
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
        rows = read_lines(self.path / METRICS)
        for row in rows:
            require_metrics(row.value, row.source)
        return [row.value for row in rows]

    def best_row(self) -> dict[str, float] | None:
        """Return the line of the metrics of the validation that was the best, if there is one."""
        rows = [row for row in self.metrics() if "validation_nll" in row]
        key = "score" if self.kind == "task" else "validation_nll"
        return min(rows, key=lambda row: row.get(key, row["validation_nll"]), default=None)

    def forget_after(self, update: int) -> None:
        """Drop what metrics.jsonl says of later updates, since they will be made again."""
        lines = [json.dumps(row) + "\n" for row in self.metrics() if row["update"] <= update]
        files.write(self.path / METRICS, "".join(lines), files.METRICS)
        drop_cut_off(self.path / FLOW)


def under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names start with `prefix.`, without it."""
    return {
        name.removeprefix(f"{prefix}."): tensor
        for name, tensor in tensors.items()
        if name.startswith(f"{prefix}.")
    }
