"""What README.md, docs/ and the tests' own lists name is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from conftest import SLOWEST

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
OURS = [ROOT / name for name in ("src", "tests", "benchmarks", "docs")]
CODE = re.compile(r"[\w./-]*\w/\w[\w./-]*\.(?:py|hpp|cpp|json|svg|png)\b")
LINK = re.compile(r"\]\(([\w./-]+)(?:#[\w-]*)?\)")


def is_there(name: str) -> bool:
    """Return whether some file of ours ends so: pages leave out src/bptt/, say."""
    return any(any(folder.rglob(name)) for folder in OURS) or (ROOT / name).exists()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_a_page_names_is_there(page: Path) -> None:
    text = page.read_text()
    spans = re.findall(r"`([^`\n]+)`", text)
    named = {name for span in spans for name in CODE.findall(span)}
    assert [name for name in sorted(named) if not is_there(name)] == []
    links = set(LINK.findall(re.sub(r"```.*?```|`[^`\n]+`", "", text, flags=re.DOTALL)))
    assert [link for link in sorted(links) if not (page.parent / link).exists()] == []


def test_every_file_that_starts_first_is_there() -> None:
    assert [name for name in SLOWEST if not (ROOT / name).exists()] == []
