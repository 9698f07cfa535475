"""Collections of sequences: read, padded, bucketed, trained on, and refused."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np
import pytest
import torch

import bptt
from bptt.data.batches import Padded
from bptt.training.evaluation import evaluate

RANDOM = np.random.default_rng(0)


def ragged(count: int = 25, d: int = 2) -> list[np.ndarray]:
    return [RANDOM.normal(size=(n, d)).astype(np.float32) for n in RANDOM.integers(1, 9, count)]


def test_every_sequence_is_read_once_an_epoch_beside_others_of_its_length() -> None:
    y = ragged()
    data = bptt.Collection.of(y)
    batches = data.training_batches(4, None, seed=3)
    assert (len(batches), batches.steps) == (6, sum(len(one) for one in y[:23]))
    epochs = []
    for epoch in range(2):
        seen, spans = [], []
        for i in range(len(batches)):
            batch = batches.get(epoch, i)
            assert batch.is_start
            assert batch.y.shape[1] <= 4
            lengths = [len(batch.y)] * batch.y.shape[1] if batch.lengths is None else batch.lengths
            rows = [batch.y[:n, k].numpy() for k, n in enumerate(lengths)]
            spans.append((min(map(len, rows)), max(map(len, rows))))
            seen += [row.tobytes() for row in rows]
        assert sorted(seen) == sorted(one.tobytes() for one in y[:23])
        epochs.append(seen)
        starts, ends = zip(*sorted(spans), strict=True)
        assert all(a <= b for a, b in zip(ends, starts[1:], strict=False))  # buckets by length
    assert epochs[0] != epochs[1]
    again = data.training_batches(4, None, seed=3).get(1, 2)
    assert torch.equal(again.y, batches.get(1, 2).y)


def test_a_padded_batch_is_each_sequence_alone() -> None:
    y, x = ragged(), [RANDOM.normal(size=(0, 1))] * 0
    x = [RANDOM.normal(size=(len(one), 3)).astype(np.float32) for one in y]
    data = bptt.Collection.of(y, x)
    net = bptt.Network(bptt.Gaussian(2), inputs=3, hidden=5)
    total = 0.0
    for one, its_x in zip(y[23:], x[23:], strict=True):
        rows, its_rows = (torch.from_numpy(part).unsqueeze(1) for part in (one, its_x))
        total += float(net(rows, x=its_rows).nll.detach().sum())
    mean = total / sum(len(one) for one in y[23:])
    assert evaluate(net, data.validation_batches(32)) == pytest.approx(mean, rel=1e-5)


@pytest.mark.parametrize("compressed", [False, True])
def test_an_archive_is_the_arrays_that_were_saved(tmp_path: Path, compressed: bool) -> None:
    data = bptt.Collection.of(ragged(), [one[:, :1] for one in ragged(0)] or None)
    save = np.savez_compressed if compressed else np.savez
    save(tmp_path / "a.npz", y=data.y, lengths=data.lengths)
    read = bptt.read_collection(tmp_path / "a.npz")
    assert _is_mapped(read.y)
    np.testing.assert_array_equal(read.y, data.y)
    np.testing.assert_array_equal(read.lengths, data.lengths)
    assert (repr(read.likelihood), read.inputs) == (repr(bptt.Gaussian(2)), 0)


def _is_mapped(array: np.ndarray) -> bool:
    base: object = array
    while isinstance(base, np.ndarray):
        base = base.base
    return isinstance(base, mmap.mmap)


@pytest.mark.parametrize(
    ("y", "likelihood"),
    [
        (np.array([[0, 2], [1, 0]]), "Categorical(3)"),
        (np.ones((2, 2, 3), bool), "Bernoulli(3)"),
        (np.ones((2, 2, 3), np.uint8), "Bernoulli(3)"),
        (np.ones((2, 2, 3)), "Gaussian(3, learned)"),
    ],
)
def test_what_y_holds_says_what_its_likelihood_is(
    tmp_path: Path, y: np.ndarray, likelihood: str
) -> None:
    np.savez(tmp_path / "a.npz", y=y, x=np.zeros((2, 2, 4)))
    data = bptt.read_collection(tmp_path / "a.npz")
    assert (repr(data.likelihood), data.inputs) == (likelihood, 4)
    net = bptt.Network(data.likelihood, inputs=4, hidden=3)
    done = bptt.fit(net, data, bptt.Settings(max_updates=3))
    assert done.updates == 3


def test_learns_and_goes_on_bit_for_bit(tmp_path: Path) -> None:
    y = [np.tile([0, 1, 2], n) for n in RANDOM.integers(1, 6, 40)]
    padded = bptt.Collection.of(y)
    np.savez(tmp_path / "a.npz", y=padded.y, lengths=padded.lengths)
    data = bptt.read_collection(tmp_path / "a.npz")
    weights = []
    for stops in ((30,), (7, 30)):
        torch.manual_seed(1)
        net = bptt.Network(data.likelihood, hidden=8)
        settings = bptt.Settings(
            batch=4, max_updates=30, learning_rate=0.05, forcing_end=0.5, validate_every=10
        )
        out = tmp_path / f"run-{len(stops)}"
        if len(stops) == 1:
            done = bptt.fit(net, data, settings, out=out)
        else:
            with pytest.raises(bptt.Interrupted):
                bptt.fit(net, data, settings, out=out, on_update=lambda update: _stop_at(update, 7))
            net, done = bptt.resume(out)
        assert done.updates == 30
        weights.append([p.detach() for p in net.parameters()])
    assert all(map(torch.equal, *weights))
    assert done.validation_nll < 0.6 * np.log(3)


def _stop_at(update: bptt.training.updates.Update, when: int) -> None:
    import os  # noqa: PLC0415
    import signal  # noqa: PLC0415

    if update.number == when:
        os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": np.ones(3)}, r"has a; expected y"),
        (
            {"y": np.array([np.ones(2), np.ones(3)], dtype=object)},
            "y in .* is ragged, or .*; pad it to",
        ),
        ({"y": np.ones(3)}, r"y in .* has shape \(3,\); expected \(T, N\) for symbols or"),
        ({"y": np.ones((3, 1, 1))}, "has one sequence; expected at least 2"),
        ({"y": np.ones((3, 2))}, r"is \(T, N\) of float64; expected whole numbers for symbols"),
        ({"y": np.full((3, 2), -1)}, "has symbols from -1 to -1; expected 0 to n"),
        ({"y": np.full((3, 2, 1), 7)}, "of whole numbers from 7 to 7; expected bits, 0 and 1"),
        ({"y": np.full((3, 2, 1), np.nan)}, "y in .* is nan at step 0 of sequence 0, feature 0"),
        ({"y": np.ones((3, 2, 1)), "x": np.ones((3, 2))}, r"x in .* has shape \(3, 2\); expected"),
        (
            {"y": np.ones((3, 2, 1)), "x": np.full((3, 2, 1), np.inf)},
            "x in .* is inf at step 0 of sequence 0",
        ),
        ({"y": np.ones((3, 2, 1)), "lengths": np.array([1, 4])}, "2 whole numbers from 1 to 3"),
        ({"y": np.ones((3, 2, 1)), "lengths": np.array([1.0, 2])}, "not 2 whole numbers"),
    ],
)
def test_bad_archives(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(bptt.BpttError, match=message):
        bptt.read_collection(tmp_path / "a.npz")


def test_more_bad_input(tmp_path: Path) -> None:
    with pytest.raises(bptt.BpttError, match=r"no such file: .*; give the path of a .npz file"):
        bptt.read_collection(tmp_path / "absent.npz")
    (tmp_path / "bad.npz").write_text("no archive")
    with pytest.raises(bptt.BpttError, match=r"bad.npz is no .npz file, .*; write one with numpy"):
        bptt.read_collection(tmp_path / "bad.npz")
    with pytest.raises(bptt.BpttError, match="x and y have different lengths"):
        bptt.Collection.of([np.ones((2, 1))], [np.ones((3, 1))])
    with pytest.raises(bptt.BpttError, match="different shapes beyond time"):
        bptt.Collection.of([np.ones((2, 1)), np.ones((3, 2))])
    data = bptt.Collection.of(ragged())
    with pytest.raises(bptt.BpttError, match=r"likelihood is Categorical.*; expected Gaussian"):
        bptt.fit(bptt.Network(bptt.Categorical(2), hidden=2), data)
    with pytest.raises(bptt.BpttError, match="the network expects x, Features"):
        bptt.fit(bptt.Network(bptt.Gaussian(2), inputs=1, hidden=2), data)


def test_nan_beyond_a_sequences_end_is_only_filler() -> None:
    data = bptt.Collection.of(ragged())
    filled = np.where(np.arange(len(data.y))[:, None, None] < data.lengths[:, None], data.y, np.nan)
    rows = Padded(filled, None, data.lengths, range(25), 8)
    net = bptt.Network(bptt.Gaussian(2), hidden=2)
    expected = evaluate(net, Padded(data.y, None, data.lengths, range(25), 8))
    assert evaluate(net, rows) == pytest.approx(expected)


@pytest.mark.parametrize("order", [1, -1])
def test_whole_numbers_beside_others_cut_nothing(order: int) -> None:
    y = [np.array([[1], [2]]), np.array([[0.5], [1.5], [2.5]]), np.array([[3], [4]])][::order]
    data = bptt.Collection.of(y)
    for k, one in enumerate(y):
        np.testing.assert_array_equal(data.y[: len(one), k], one)
    assert isinstance(data.likelihood, bptt.Gaussian)


def large(spread: float = 3.0) -> list[np.ndarray]:
    return [1e6 + spread * one for one in ragged()]


def test_large_numbers_are_refused_or_standardised(tmp_path: Path) -> None:
    with pytest.raises(
        bptt.BpttError, match=r"y in the collection has mean 1e\+06 .*--standardise"
    ):
        bptt.Collection.of(large())
    x = [np.full((5, 1), 1e9)] * 3
    with pytest.raises(bptt.BpttError, match="feature 0 of x in the collection has mean"):
        bptt.Collection.of([one[:, :1] / 1e9 for one in x], x)
    y = large()
    assert bptt.Collection.of(y, standardise=False).y_scaling is None
    data = bptt.Collection.of(y, standardise=True)
    steps = np.concatenate([data.y[:n, k] for k, n in enumerate(data.lengths[: data.cut])])
    np.testing.assert_allclose(steps.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(steps.std(0), 1, rtol=1e-5)
    for k, one in enumerate(y):
        np.testing.assert_allclose(data.restore(data.y[: len(one), k]), one, atol=0.01)
        assert (data.y[len(one) :, k] == 0).all()
    np.savez(tmp_path / "a.npz", y=bptt.Collection.of(y, standardise=False).y, lengths=data.lengths)
    read = bptt.read_collection(tmp_path / "a.npz", standardise=True)
    np.testing.assert_array_equal(read.y, data.y)
    net = bptt.Network(read.likelihood, hidden=3)
    bptt.fit(net, read, bptt.Settings(max_updates=2), out=tmp_path / "run")
    np.testing.assert_array_equal(bptt.Run.open(tmp_path / "run").read_data().y, data.y)


def test_symbols_and_bits_have_no_units() -> None:
    for y in ([np.array([0, 1])] * 3, [np.ones((2, 2), bool)] * 3):
        with pytest.raises(bptt.BpttError, match=r"standardise .* is for numbers"):
            bptt.Collection.of(y, standardise=True)
