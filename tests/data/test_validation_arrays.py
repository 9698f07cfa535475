"""Weights of losses, and sequences to validate on, in collections and labelled sequences."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import bptt
from bptt.cli import main
from bptt.training.evaluation import evaluate
from bptt.training.sample import held_out

RANDOM = np.random.default_rng(0)
LENGTHS, OTHER = RANDOM.integers(2, 9, 20), RANDOM.integers(1, 6, 7)
Arrays = dict[str, Any]


def numbers(lengths: np.ndarray, d: int = 2) -> list[np.ndarray]:
    return [RANDOM.normal(size=(n, d)).astype(np.float32) for n in lengths]


def weights(lengths: np.ndarray) -> list[np.ndarray]:
    """Return weights with several zeros, and one sequence without any."""
    drawn = [RANDOM.integers(0, 3, n).astype(np.float32) for n in lengths]
    drawn[1][:] = 0
    drawn[0][-1] = 0.5
    return drawn


Y, X, W = numbers(LENGTHS), numbers(LENGTHS, 3), weights(LENGTHS)
PART: Arrays = {"y": numbers(OTHER), "x": numbers(OTHER, 3), "loss_weights": weights(OTHER)}


def arrays_of(data: bptt.Collection, ending: str = "") -> Arrays:
    """Return the arrays of a collection as a file has them."""
    names = ("y", "x", "lengths", "loss_weights")
    arrays = {f"{name}{ending}": getattr(data, name) for name in names}
    if data.validation is not None:
        arrays |= arrays_of(data.validation, "_validation")
    return {name: one for name, one in arrays.items() if one is not None}


@pytest.fixture
def data() -> bptt.Collection:
    return bptt.Collection.of(Y, X, loss_weights=W, validation=PART)


@pytest.fixture
def save(tmp_path: Path) -> Callable[[Arrays], Path]:
    def save(arrays: Arrays) -> Path:
        np.savez(tmp_path / "a.npz", **arrays)
        return tmp_path / "a.npz"

    return save


def mean_alone(net: bptt.Network, y: Any, x: Any, weights: Any) -> float:
    """Return the weighted mean of the losses of sequences one at a time."""
    total = 0.0
    for one, its_x, its in zip(y, x, weights, strict=True):
        rows, its_rows = (torch.from_numpy(part).unsqueeze(1) for part in (one, its_x))
        total += float(net(rows, x=its_rows).nll.detach()[:, 0] @ torch.from_numpy(its))
    return total / sum(float(its.sum()) for its in weights)


def test_a_batch_is_each_sequence_alone_with_its_weights(data: bptt.Collection) -> None:
    net = bptt.Network(bptt.Gaussian(2), inputs=3, hidden=4)
    expected = mean_alone(net, PART["y"], PART["x"], PART["loss_weights"])
    for size in (3, 32):
        assert evaluate(net, data.validation_batches(size)) == pytest.approx(expected, rel=1e-5)
    expected = mean_alone(net, Y, X, W)
    assert evaluate(net, data.training_batches(3, None, 1)) == pytest.approx(expected, rel=1e-5)
    whole = data.training_batches(32, None, 1).get(0, 0)
    done = bptt.backward(net, whole.y, x=whole.x, lengths=whole.lengths, loss_weights=whole.weights)
    assert float(done.loss) == pytest.approx(expected, rel=1e-5)


def test_without_a_validation_part_the_last_tenth_has_its_weights() -> None:
    data = bptt.Collection.of(Y, X, loss_weights=W)
    net = bptt.Network(bptt.Gaussian(2), inputs=3, hidden=4)
    expected = mean_alone(net, Y[18:], X[18:], W[18:])
    assert evaluate(net, data.validation_batches(2)) == pytest.approx(expected, rel=1e-5)


def test_every_sequence_that_counts_is_trained_on(data: bptt.Collection) -> None:
    assert data.cut == 20
    assert not data.counts[1]
    batches = data.training_batches(4, None, seed=1)
    seen = []
    for k in range(len(batches)):
        batch = batches.get(0, k)
        assert batch.loss_weights is not None
        assert (batch.loss_weights.sum(0) > 0).all()
        n = batch.lengths if batch.lengths is not None else [len(batch.y)] * batch.y.shape[1]
        seen += [batch.y[:length, b].numpy().tobytes() for b, length in enumerate(n)]
    expected = [one.tobytes() for one, its in zip(Y, W, strict=True) if its.any()]
    assert sorted(seen) == sorted(expected)


def test_weights_of_one_are_none() -> None:
    ones = [np.ones(n) for n in LENGTHS]
    net = bptt.Network(bptt.Gaussian(2), inputs=3, hidden=4)
    losses = [
        evaluate(net, bptt.Collection.of(Y, X, loss_weights=each).validation_batches(8))
        for each in (None, ones)
    ]
    assert losses[0] == pytest.approx(losses[1])


def test_an_archive_is_the_same(
    data: bptt.Collection, save: Callable[[Arrays], Path], tmp_path: Path
) -> None:
    arrays = arrays_of(data)
    assert sorted(arrays)[-2:] == ["y", "y_validation"]
    within = np.arange(len(data.y))[:, None] < data.lengths
    arrays["loss_weights"] = np.where(within, arrays["loss_weights"], np.nan)  # filler
    read = bptt.read_collection(save(arrays))
    for name, one in arrays_of(read).items():
        np.testing.assert_array_equal(one, arrays_of(data)[name])
    torch.manual_seed(0)
    net = bptt.Network(read.likelihood, inputs=read.inputs, hidden=3)
    settings = bptt.Settings(max_updates=4, batch=4, validate_every=2)
    bptt.fit(net, read, settings, out=tmp_path / "run", progress=False)
    net, done = bptt.resume(tmp_path / "run", max_updates=8, progress=False)
    assert done.validation_nll == pytest.approx(evaluate(net, data.validation_batches(4)))


def test_going_on_is_bit_for_bit(save: Callable[[Arrays], Path], tmp_path: Path) -> None:
    path = save(arrays_of(bptt.Collection.of(Y, X, loss_weights=W, validation=PART)))
    ends = []
    for stops in ((9,), (4, 9)):
        torch.manual_seed(0)
        data = bptt.read_collection(path)
        net: Any = bptt.Network(data.likelihood, inputs=data.inputs, hidden=3)
        settings = bptt.Settings(max_updates=stops[0], batch=4, schedule="constant", keep="last")
        out = tmp_path / f"run-{len(stops)}"
        bptt.fit(net, data, settings, out=out, progress=False)
        if len(stops) > 1:
            net, _ = bptt.resume(out, max_updates=stops[1], progress=False)
        ends.append([p.detach() for p in net.parameters()])
    assert all(map(torch.equal, *ends))


def test_units_are_those_of_the_training_part(save: Callable[[Arrays], Path]) -> None:
    far = {**PART, "y": [1e5 + one for one in PART["y"]]}
    data = bptt.Collection.of(Y, X, loss_weights=W, validation=far, standardise=True)
    assert data.validation is not None
    steps = np.concatenate([data.y[:n, k] for k, n in enumerate(data.lengths)])
    np.testing.assert_allclose(steps.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(steps.std(0), 1, rtol=1e-5)
    first = data.validation.y[: OTHER[0], 0]
    np.testing.assert_allclose(data.restore(first), far["y"][0], rtol=1e-5)
    raw = bptt.Collection.of(Y, X, loss_weights=W, validation=far)
    read = bptt.read_collection(save(arrays_of(raw)), standardise=True)
    assert read.validation is not None
    np.testing.assert_array_equal(read.validation.y, data.validation.y)


def test_symbols_are_those_of_both_parts(save: Callable[[Arrays], Path]) -> None:
    y = RANDOM.integers(0, 3, (6, 8))
    data = bptt.read_collection(save({"y": y, "y_validation": np.full((2, 1), 4)}))
    assert repr(data.likelihood) == "Categorical(5)"
    assert data.validation_batches(3).get(0, 0).y.tolist() == [[4], [4]]
    one = bptt.Collection.of([y[:, 0]], validation={"y": [y[:, 1]]})  # of each there may be one
    assert one.training_batches(2, None, 0).get(0, 0).y.shape == (6, 1)


def test_flow_looks_at_as_many_steps_as_it_takes_for_losses(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    save: Callable[[Arrays], Path],
) -> None:
    monkeypatch.chdir(tmp_path)
    late = np.zeros((12, 20))
    late[9:] = 1
    y = RANDOM.normal(size=(12, 20, 1))
    save({"y": y, "loss_weights": late, "y_validation": y, "loss_weights_validation": late})
    data = bptt.read_collection(tmp_path / "a.npz")
    assert held_out(data.validation_batches(4), 3, 4).y.shape == (10, 4, 1)
    assert held_out(data.validation_batches(4), 11, 4).y.shape == (11, 4, 1)
    small = ["--hidden", "3", "--max-updates", "2", "--out", "run", "--report"]
    assert main(["train", "a.npz", *small]) == 0
    assert main(["flow", "run", "--steps", "11"]) == 0
    assert capsys.readouterr().err == ""
    assert main(["flow", "run", "--steps", "5"]) == 2
    assert "steps is 5; expected at least 10, by which each" in capsys.readouterr().err
    assert main(["train", "a.npz", "--from", "run", "--max-updates", "2"]) == 0


FULL = {"y": np.ones((4, 3, 1)), "y_validation": np.ones((2, 2, 1))}
WEIGHTS = {"loss_weights": np.ones((4, 3)), "loss_weights_validation": np.ones((2, 2))}
NEGATIVE, NO_NUMBER, LARGE = np.ones((4, 3)), np.ones((4, 3)), np.ones((4, 3))
NEGATIVE[2, 1], NO_NUMBER[1, 2], LARGE[0, 0] = -1, np.nan, 1e300
BAD: list[tuple[Arrays, str]] = [
    ({"x_validation": np.ones((2, 2, 1))}, "has x_validation, and no x; expected both parts"),
    ({"x": np.ones((4, 3, 1))}, "has x, and no x_validation; expected both parts"),
    ({"lengths": np.array([1, 2, 3])}, "has lengths, and no lengths_validation"),
    ({"lengths_validation": np.array([1, 2])}, "has lengths_validation, and no lengths"),
    ({"loss_weights": np.ones((4, 3))}, "has loss_weights, and no loss_weights_validation"),
    ({"y_validation": None, "x_validation": np.ones((2, 2, 1))}, "has y, and no y_validation"),
    ({"y_validation": np.ones((2, 2, 2))}, r"training y of Gaussian\(1.* validation y of Gaus"),
    ({"y_validation": np.ones((2, 2), int)}, "for validation y of symbols; expected the same"),
    ({"y_validation": np.ones((2, 2, 1), bool)}, r"for validation y of Bernoulli\(1\)"),
    ({"y_validation": np.ones(2)}, r"y_validation in .* has shape \(2,\); expected"),
    ({"y_validation": np.full((2, 2, 1), np.inf)}, "y_validation in .* is inf at step 0"),
    (
        {"x": np.ones((4, 3, 1)), "x_validation": np.ones((2, 2, 2))},
        "and x of 1 features, and for validation .* and x of 2 features; expected the same",
    ),
    (
        {"x": np.ones((4, 3, 1)), "x_validation": np.ones((2, 3, 1))},
        r"x_validation in .* has shape \(2, 3, 1\); expected \(T, N, features\), \(2, 2",
    ),
    (
        {"lengths": np.array([1, 2, 3]), "lengths_validation": np.array([1, 3])},
        "lengths_validation in .* are not 2 whole numbers from 1 to 2",
    ),
    ({**WEIGHTS, "loss_weights": NEGATIVE}, "is -1.0 at step 2 of sequence 1; expected finite"),
    ({**WEIGHTS, "loss_weights": NO_NUMBER}, "is nan at step 1 of sequence 2; expected finite"),
    ({**WEIGHTS, "loss_weights": LARGE}, r"is 1e\+300 at step 0 of sequence 0; expected finite"),
    ({**WEIGHTS, "loss_weights": np.ones(4)}, r"expected numbers of shape \(T, N\), \(4, 3\)"),
    (
        {**WEIGHTS, "loss_weights": np.zeros((4, 3))},
        "loss_weights in .* are all 0 for the sequences to train on; expected one above 0",
    ),
    (
        {**WEIGHTS, "loss_weights_validation": np.zeros((2, 2))},
        "are all 0 for the sequences to validate on",
    ),
    (
        {"y_validation": None, "loss_weights": np.ones((4, 3)) * [1, 1, 0]},
        "are all 0 for the sequences to validate on",
    ),
    ({"y": np.ones((4, 1, 1)), "y_validation": None}, "has one sequence; .*, or y_validation"),
]


@pytest.mark.parametrize(("changes", "message"), BAD)
def test_archives_that_do_not_go_together(
    save: Callable[[Arrays], Path], changes: Arrays, message: str
) -> None:
    arrays = {name: one for name, one in {**FULL, **changes}.items() if one is not None}
    with pytest.raises(bptt.BpttError, match=message) as caught:
        bptt.read_collection(save(arrays))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validation": {"x": Y}}, "validation is a dict; expected a dict of y, and x"),
        ({"validation": {"y": Y, "lengths": LENGTHS}}, "expected a dict of y"),
        ({"validation": Y}, "validation is a list; expected a dict"),
        ({"validation": {"y": Y, "x": X[:3]}}, "x_validation and y_validation have different"),
        ({"validation": {"y": 5}}, "y_validation is 5; expected a list of arrays"),
        ({"validation": {"y": Y, "x": X}}, "has x_validation, and no x"),
        ({"loss_weights": W[1:]}, "loss_weights and y have different lengths; expected one number"),
        ({"loss_weights": Y}, "loss_weights and y have different lengths"),
        ({"loss_weights": [-one for one in W]}, "loss_weights in the collection is -"),
        ({"loss_weights": 1.0}, "loss_weights is 1.0; expected a list of arrays"),
    ],
)
def test_lists_that_do_not_go_together(options: Arrays, message: str) -> None:
    with pytest.raises(bptt.BpttError, match=message):
        bptt.Collection.of(Y, **options)


def test_labelled_sequences_to_validate_on(save: Callable[[Arrays], Path], tmp_path: Path) -> None:
    x, other = RANDOM.normal(size=(6, 30, 2)), RANDOM.normal(size=(9, 5, 2))
    lengths, others = RANDOM.integers(1, 7, 30), RANDOM.integers(1, 10, 5)
    labels, answers = RANDOM.integers(0, 2, 30), np.array([0, 1, 1, 0, 2])
    arrays = {"x": x, "labels": labels, "lengths": lengths}
    part = {"x_validation": other, "labels_validation": answers, "lengths_validation": others}
    data = bptt.read_labelled(save({**arrays, **part}))
    assert data.held_out.tolist() == [False] * 30 + [True] * 5
    assert data.classes == ("0", "1", "2")
    assert data.labels[30:].tolist() == answers.tolist()
    last = data.x[len(data.x) - others[-1] :]
    np.testing.assert_allclose(last, other[: others[-1], -1], rtol=1e-6)
    assert data.validation_batches(8).steps == 5
    sequences = [x[:n, k] for k, n in enumerate(lengths)]
    validation = {"x": [other[:n, k] for k, n in enumerate(others)], "labels": list(answers)}
    again = bptt.Labelled.of(sequences, list(labels), validation=validation)
    for name in ("x", "lengths", "labels", "held_out"):
        np.testing.assert_array_equal(getattr(again, name), getattr(data, name))
    net = bptt.Network(data.likelihood, inputs=data.inputs, hidden=3, recurrence="hidden")
    bptt.fit(net, data, bptt.Settings(max_updates=2), out=tmp_path / "run", progress=False)
    _, done = bptt.resume(tmp_path / "run", max_updates=4, progress=False)
    assert done.score is not None

    def refused(message: str, **changes: Any) -> None:
        changed = {**arrays, **part, **changes}
        with pytest.raises(bptt.BpttError, match=message):
            bptt.read_labelled(save({k: one for k, one in changed.items() if one is not None}))

    refused("has lengths, and no lengths_validation", lengths_validation=None)
    refused("has labels, and no labels_validation", labels_validation=None)
    refused("has x, and no x_validation", x_validation=None)
    refused("not of one kind for training and validation", labels_validation=answers / 2)
    refused(r"labels_validation in .* are a ndarray", labels_validation=answers[:2])
    refused("lengths_validation in .* are not 5 whole numbers", lengths_validation=others + 9)
    refused(r"x\[30\] of .* is a ndarray .*all of them alike", x_validation=other[..., :1])
    with pytest.raises(bptt.BpttError, match="validation is a dict; expected a dict of x and"):
        bptt.Labelled.of(sequences, list(labels), validation={"x": sequences})
    with pytest.raises(bptt.BpttError, match="for validation 30 sequences and 1 labels"):
        bptt.Labelled.of(sequences, list(labels), validation={"x": sequences, "labels": [1]})
