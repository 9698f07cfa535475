"""Costs of gradients: every way comes back measured, after a check that can fail."""

from __future__ import annotations

import itertools
import subprocess
from pathlib import Path

import pytest
import torch

from bptt.errors import BpttError
from bptt.gradient import costs
from bptt.gradient.costs import (
    WAYS,
    Cost,
    Sizes,
    gradients,
    main,
    measure_costs,
    measure_here,
    require_agreement,
    taken_by,
)

from ..oracles import FLOAT32

TELLS_MEMORY = Path("/proc/self/clear_refs").exists()
SIZES = Sizes(hidden=8, memory=100_000, window=10)


def test_every_way_comes_back_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costs, "_in_fresh_process", measure_here)
    found = list(measure_costs([100], hidden=8))
    assert [cost.way for cost in found] == list(WAYS)
    for cost in found:
        assert cost.T == 100
        assert cost.seconds is not None
        assert cost.seconds > 0
        if TELLS_MEMORY:
            assert isinstance(cost.memory, int)
            assert cost.memory >= 0


@pytest.mark.parametrize("T", [1, 50, 150])
def test_exact_bounded_and_torch_have_the_same_gradients(T: int) -> None:
    exact = gradients("exact", T, SIZES)
    assert set(exact) == {"R", "W", "b", "V", "c"}
    for way in ("bounded", "torch"):
        its = gradients(way, T, SIZES)
        require_agreement({"exact": exact, way: its})
        for name, grad in exact.items():
            torch.testing.assert_close(its[name], grad, **FLOAT32)


def test_gradients_that_differ_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    exact, cut = (gradients(way, 50, SIZES) for way in ("exact", "truncated"))
    with pytest.raises(RuntimeError, match="the gradients of R by exact and by truncated are"):
        require_agreement({"exact": exact, "truncated": cut})
    with pytest.raises(RuntimeError, match="of c by exact and by torch are nan apart"):
        require_agreement({"exact": exact, "torch": exact | {"c": exact["c"] * float("nan")}})

    def cuts_too(way: str, T: int, sizes: Sizes) -> dict[str, torch.Tensor]:
        return cut if way == "torch" else exact

    monkeypatch.setattr(costs, "gradients", cuts_too)
    with pytest.raises(RuntimeError, match="nothing was timed"):
        next(measure_costs([50], hidden=8))


def test_the_check_leaves_the_random_numbers_alone() -> None:
    before = torch.get_rng_state()
    gradients("torch", 5, SIZES)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.skipif(not TELLS_MEMORY, reason="the system does not tell a process's memory")
@pytest.mark.parametrize("size", [20_000_000, 60_000_000])
def test_the_peak_is_that_of_the_call_alone(size: int) -> None:
    bytearray(2 * size)  # an earlier, higher peak
    taken = [taken_by(lambda: bytearray(b"1") * size) for _ in range(3)]
    # The least, as in measure_here: pages that the system took back come in again, and count too.
    assert min(one.memory for one in taken) == pytest.approx(size, rel=0.1)
    assert min(one.seconds for one in taken) > 0


def test_without_proc_the_memory_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "exists", lambda _: False)
    assert taken_by(list).memory is None
    assert measure_here("exact", 20, SIZES).memory is None


def test_short_runs_are_repeated_and_long_ones_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = iter([costs.Taken(5, 1.0), costs.Taken(3, 3.0), costs.Taken(4, 1.5)])
    monkeypatch.setattr(costs, "taken_by", lambda _: next(taken))
    assert measure_here("exact", 20, SIZES) == Cost("exact", 20, 1.5, 3)
    monkeypatch.setattr(costs, "taken_by", lambda _: costs.Taken(None, 2.5))
    assert measure_here("exact", 20, SIZES) == Cost("exact", 20, 2.5, None)


def asked(
    monkeypatch: pytest.MonkeyPatch, lengths: list[int], seconds: float, memory: int | None
) -> list[tuple[str, int, bool]]:
    """Return what is measured, and what is too large, where a step takes so much in every way."""

    def fake(way: str, T: int, sizes: Sizes) -> Cost:
        return Cost(way, T, seconds * T, None if memory is None else memory * T)

    monkeypatch.setattr(costs, "gradients", lambda *_: {})
    monkeypatch.setattr(costs, "_in_fresh_process", fake)
    found = measure_costs(lengths, hidden=8, ways=["exact", "bounded", "torch"])
    return [(cost.way, cost.T, cost.seconds is not None) for cost in found]


def test_torch_ends_with_a_long_run(monkeypatch: pytest.MonkeyPatch) -> None:
    found = asked(monkeypatch, [1000, 10, 100], 0.3, None)
    order = itertools.product([10, 100, 1000], ["exact", "bounded", "torch"])
    assert found == [(way, T, (way, T) != ("torch", 1000)) for T, way in order]


@pytest.mark.parametrize("lengths", [[100, 10_000, 100_000], [10_000, 100_000]])
def test_what_would_not_fit_is_not_tried(
    monkeypatch: pytest.MonkeyPatch, lengths: list[int]
) -> None:
    monkeypatch.setattr(costs, "_memory_available", lambda: 20_000_000)
    found = asked(monkeypatch, lengths, 1e-6, 1000)
    left_out = {(way, T) for way, T, measured in found if not measured}
    # Torch may take four times as much a step, and exact half as much again.
    assert left_out == {("torch", 10_000), ("torch", 100_000), ("exact", 100_000)}


def test_a_process_that_runs_out_of_memory_was_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    def ended(status: int, says: str) -> None:
        done = subprocess.CompletedProcess([], status, "", says)
        monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)

    for status, says in ((-9, ""), (1, "RuntimeError: DefaultCPUAllocator: can't allocate memory")):
        ended(status, says)
        assert costs._in_fresh_process("exact", 9, SIZES) == Cost("exact", 9, None, None)
    ended(1, "ModuleNotFoundError: torch")
    with pytest.raises(RuntimeError, match="exact with T = 9 failed:\nModuleNotFoundError"):
        costs._in_fresh_process("exact", 9, SIZES)


def test_main_writes_json(capsys: pytest.CaptureFixture[str]) -> None:
    main(["truncated", "50", "8", "100000", "10"])
    assert capsys.readouterr().out.startswith('{"way": "truncated", "T": 50, "seconds": ')


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"lengths": [100, 0]}, "a length is 0; expected a whole number from 1 to"),
        ({"lengths": [2.5]}, "a length is 2.5; expected a whole number"),
        ({"lengths": []}, "lengths is empty; expected at least one"),
        ({"ways": []}, "ways is empty; expected at least one"),
        ({"ways": ["exact", "jax"]}, "a way is 'jax'; expected one of 'exact', 'bounded'"),
        ({"hidden": 0}, "hidden is 0; expected a whole number of at least 1"),
        ({"window": 0}, "window is 0; expected a whole number of at least 1"),
        ({"memory": "much"}, "memory is 'much'; expected bytes"),
    ],
)
def test_bad_arguments_are_refused_at_once(arguments: dict, complaint: str) -> None:
    with pytest.raises(BpttError, match=complaint):
        measure_costs(**arguments)


def test_a_budget_too_small_is_refused_before_anything_is_timed() -> None:
    with pytest.raises(BpttError, match="memory is 9 bytes; expected at least"):
        next(measure_costs([50], hidden=8, memory=9))


def test_a_process_of_its_own_measures_and_imports_no_file_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('the wrong json')")
    monkeypatch.chdir(tmp_path)
    (found,) = measure_costs([100], hidden=8, ways=["bounded"])
    assert (found.way, found.T) == ("bounded", 100)
    assert found.seconds is not None
    assert found.seconds > 0
    assert not TELLS_MEMORY or isinstance(found.memory, int)
