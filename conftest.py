"""Runs the examples in README.md and docs/ among the tests; sums what the fuzz tests have tried."""

import signal
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser

from tests.shapes import check_inner_functions_quickly

check_inner_functions_quickly()

pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser(), SkipParser()], patterns=["*.md"]
).pytest()


collect_ignore = ["docs/figures", "benchmarks"]  # scripts: they need extras, and take a while


@pytest.fixture(autouse=True, scope="session")
def _ctrl_c_is_heard() -> None:
    """Hear Ctrl-C, which a shell lets its background jobs ignore: tests send it to themselves."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _same_start() -> Iterator[None]:
    """Give every test the same random numbers, and as many threads as there were."""
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
