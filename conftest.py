"""Runs the examples in README.md and docs/ among the tests; sums what the fuzz tests have tried."""

import gc
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser

pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser(), SkipParser()], patterns=["*.md"]
).pytest()


gc.disable()  # until all tests are there

collect_ignore = ["docs/figures", "benchmarks"]  # scripts: they need extras, and take a while


SLOWEST = [
    "tests/kernel/test_ops.py",
    "tests/training/test_ranks.py",
    "tests/cli/test_launch.py",
    "tests/test_wrong_types.py",
    "tests/training/test_compare.py",
    "tests/cli/test_rules.py",
    "tests/training/test_kills.py",
    "tests/test_cli.py",
    "tests/report/test_report.py",
    "tests/gradient/analysis/test_dynamics.py",
    "tests/test_shapes.py",
    "tests/kernel/test_torch_machinery.py",
    "tests/cells/test_library.py",
    "tests/test_startup.py",
    "tests/gradient/test_costs.py",
    "tests/gradient/analysis/test_watch_modes.py",
    "tests/data/test_labels.py",
    "tests/gradient/exact/test_distributed.py",
    "tests/test_signals.py",
    "tests/kernel/test_program.py",
    "tests/test_strangers.py",
    "tests/gradient/analysis/test_flow.py",
    "tests/training/test_fit.py",
    "tests/gradient/exact/test_plan.py",
    "tests/model/test_states.py",
    "tests/fuzz/test_kernel.py",
    "tests/model/test_forcing.py",
    "tests/gradient/exact/test_memory.py",
    "tests/gradient/exact/test_process_memory.py",
]
"""Files that take long start first: one that starts last keeps the other process waiting."""


def pytest_configure(config: pytest.Config) -> None:
    """Keep pytest-xdist from sorting files by how many tests they have."""
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Let the slowest files start first."""
    places = {config.rootpath / name: place for place, name in enumerate(SLOWEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


def pytest_collection_finish() -> None:
    """Spare every later garbage collection its look at torch and at thousands of tests."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True, scope="session")
def _seeds_are_set_quickly() -> Iterator[None]:
    """Spare each seed the stack traces that torch notes for devices that are not there."""
    import torch  # noqa: PLC0415 (the process that hands out the tests has no need of it)

    with pytest.MonkeyPatch.context() as patch:
        if not torch.accelerator.is_available():
            patch.setattr(torch, "manual_seed", torch.default_generator.manual_seed)
        yield


@pytest.fixture(autouse=True, scope="session")
def _ctrl_c_is_heard() -> None:
    """Hear Ctrl-C, which a shell lets its background jobs ignore: tests send it to themselves."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _same_start() -> Iterator[None]:
    """Give every test the same random numbers, and as many threads as there were."""
    import torch  # noqa: PLC0415

    torch.manual_seed(0)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say how many random calls and files were tried, if any were."""
    reports = [report for some in terminalreporter.stats.values() for report in some]
    calls = sum(
        count
        for report in reports
        if getattr(report, "when", None) == "teardown" or getattr(report, "failed", False)
        for name, count in getattr(report, "user_properties", [])
        if name == "fuzzed_calls"
    )
    if calls:
        terminalreporter.write_line(f"{calls:,} random calls and files were tried")
