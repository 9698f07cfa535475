"""Runs the examples in README.md and docs/ among the tests."""

import pytest
import torch
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser

pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser(), SkipParser()], patterns=["*.md"]
).pytest()


collect_ignore = ["docs/figures", "benchmarks"]  # scripts: they need extras, and take a while


@pytest.fixture(autouse=True)
def _same_start() -> None:
    torch.manual_seed(0)
