"""Sequences with labels from files: folders of texts, and arrays."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np

from bptt.data.input_files import system_errors
from bptt.data.sequences.archive import read_arrays
from bptt.data.sequences.labels import (
    Labelled,
    are_held_out,
    labelled,
    require_both_parts,
    require_known,
    with_validation,
)
from bptt.data.sequences.validation_arrays import NAME_END, parts_of
from bptt.data.texts.text_files import TextFile
from bptt.data.texts.vocabularies import kind_of
from bptt.data.texts.vocabulary import Vocabulary
from bptt.errors import (
    BpttError,
    require_kind,
    require_path,
    require_several,
    shown,
)


def read_labelled(
    path: str | Path,
    tokens: str = "characters",
    *,
    vocabulary: Vocabulary | None = None,
    classes: Sequence[str] | None = None,
    symbols: int = 0,
) -> Labelled:
    """Read texts with labels from a folder, or sequences with labels from a .npz file.

    A folder has a folder for each class, with its texts, a file each; or a file for each class,
    with its texts, a line each. A .npz file has x, (T, N) of tokens or (T, N, d) of numbers, and
    labels, and lengths if they differ; x_validation, labels_validation and lengths_validation are
    then to validate on, if they are there.
    tokens: as in `read_text`. vocabulary, classes: in place of those that there are.
    symbols: how many tokens arrays may have, if that is more than they show.
    """
    require_path("the labelled sequences", path)
    require_kind("vocabulary", vocabulary, (Vocabulary, NoneType), "a Vocabulary, or None")
    kind = kind_of(tokens) if vocabulary is None else type(vocabulary)
    if classes is not None:
        require_several("classes", classes, "a list of names")
    path = Path(path)
    with system_errors("read", path):
        is_folder = path.is_dir()
    if not is_folder:
        return _read_arrays(path, classes, symbols)
    if (path / "config.json").exists():
        raise BpttError(
            f"{path} holds a run; expected a folder of texts: a run is gone on with by resuming it "
            "(--resume), and begun from with (--from)"
        )
    kind.require_package()
    named = _texts_of(path, is_raw=kind.is_raw)
    known = sorted(named) if classes is None else list(classes)
    require_known(str(path), named, known)
    texts = [text for name in sorted(named) for text in named[name]]
    labels = [name for name in sorted(named) for _ in named[name]]
    held_out = are_held_out(text.encode(errors="surrogateescape") for text in texts)
    require_both_parts(str(path), held_out)
    if vocabulary is None:
        trained = ([text] for text, held in zip(texts, held_out, strict=True) if not held)
        vocabulary = kind.learn(tokens, trained)
    coded = [vocabulary.encode(text).numpy() for text in texts]
    digest = hashlib.sha256(repr(list(zip(labels, texts, strict=True))).encode())
    data = labelled(str(path), coded, labels, held_out, known, vocabulary.size)
    return replace(data, path=path, sha256=digest.hexdigest(), vocabulary=vocabulary)


def _texts_of(folder: Path, *, is_raw: bool) -> dict[str, list[str]]:
    """Return the texts of each class, or raise BpttError."""
    with system_errors("read", folder):
        inside = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
        folders = [p for p in inside if p.is_dir()]
    if folders and len(folders) < len(inside):
        loose = next(p for p in inside if p not in folders)
        raise BpttError(
            f"{folder} has folders, and beside them {loose.name}; expected a folder for each "
            "class, with a text in each file, or a file for each class, with a text in each line; "
            "or train on all of it as one text (--corpus)"
        )
    texts: dict[str, list[str]] = {}
    for place in inside:
        name = place.name if folders else place.stem
        if name in texts:
            raise BpttError(f"{folder} has two files called {name}; expected one for each class")
        each = (
            _files_in(place, is_raw=is_raw)
            if folders
            else _text_of(place, is_raw=is_raw).split("\n")
        )
        texts[name] = [text for text in (line.removesuffix("\r") for line in each) if text.strip()]
        if not texts[name]:
            raise BpttError(f"{place} has no text in it; expected some of its class, or no {name}")
    if len(texts) < 2:
        raise BpttError(
            f"{folder} has {'one class' if texts else 'nothing in it'}; expected at least two: a "
            "folder for each, with a text a file, or a file for each, with a text a line; or train "
            "on all of it as one text (--corpus)"
        )
    return texts


def _files_in(folder: Path, *, is_raw: bool) -> list[str]:
    """Return the texts of a folder's files."""
    with system_errors("read", folder):
        files = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    return [_text_of(file, is_raw=is_raw) for file in files]


def _text_of(file: Path, *, is_raw: bool) -> str:
    """Return a file's text; of bytes that are no UTF-8 each as a character that stands for it."""
    if is_raw:
        return b"".join(TextFile(file).blocks()).decode(errors="surrogateescape")
    return "".join(TextFile(file).pieces())


def _read_arrays(path: Path, classes: Sequence[str] | None, symbols: int) -> Labelled:
    """Return the labelled sequences of a .npz file."""
    names = ("labels", "x", "lengths")
    sha256, arrays = read_arrays(path, (*names, *(name + NAME_END for name in names)))
    training, validation = parts_of(str(path), arrays, "labels")
    sequences, labels = _apart(path, training)
    held_out = None
    if validation:
        part = _apart(path, validation, NAME_END)
        sequences, labels, held_out = with_validation(str(path), (sequences, labels), part)
    is_tokens = sequences[0].ndim == 1
    known = None if classes is None or training["labels"].dtype.kind not in "iu" else list(classes)
    data = labelled(str(path), sequences, labels, held_out, known, symbols if is_tokens else 0)
    return replace(data, path=path, sha256=sha256)


def _apart(
    path: Path, arrays: dict[str, np.ndarray], ending: str = ""
) -> tuple[list[np.ndarray], list[Any]]:
    """Return the sequences of one part of a file, and their labels; or raise BpttError."""
    x, labels = arrays.get("x"), arrays["labels"]
    if x is None or x.ndim not in (2, 3) or 0 in x.shape:
        raise BpttError(
            f"x{ending} in {path} is {shown(x)}; expected (T, N) of tokens or (T, N, d) of numbers"
        )
    T, N = x.shape[:2]
    lengths = arrays.get("lengths", np.full(N, T))
    is_whole = lengths.dtype.kind in "iu" and lengths.shape == (N,)
    if not is_whole or lengths.min() < 1 or lengths.max() > T:
        raise BpttError(f"lengths{ending} in {path} are not {N} whole numbers from 1 to {T}")
    if labels.shape[:1] != (N,) or labels.ndim > 2:
        raise BpttError(
            f"labels{ending} in {path} are {shown(labels)}; expected ({N},) or ({N}, d)"
        )
    return [np.asarray(x[: lengths[i], i]) for i in range(N)], list(labels)
