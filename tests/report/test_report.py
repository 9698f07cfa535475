"""The report as a page: what is in it, and that a browser can use it."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import choreographer
import numpy as np
import pytest
import torch
from choreographer.errors import ChromeNotFoundError

import bptt
from bptt.gradient.analysis.snapshot import Snapshot
from bptt.report.page import Section, write_page
from bptt.training.diagnosis import Diagnosis, Sample, diagnose

NAME = "<script>alert('run')</script> & co"

TASK = bptt.Task.parse("order", 20).criterion


@pytest.fixture(scope="module")
def found() -> Diagnosis:
    """A diagnosis with every part."""
    torch.manual_seed(0)
    net = bptt.Network(bptt.Categorical(5), hidden=16)
    seen = diagnose(net, Sample(torch.randint(5, (80, 4))), window=20)
    parts = {key: value for key, value in vars(seen).items() if value is not None}
    rows = tuple({"update": s, "seconds": s, "train_nll": 2 - s / 9, "score": 0.5} for s in (1, 2))
    shots = tuple(Snapshot(s, 5 + s, 0.9, [1.0, 0.5]) for s in (1, 2))
    return Diagnosis(**{**parts, "name": NAME, "metrics": rows, "snapshots": shots}, criterion=TASK)


@pytest.fixture(scope="module")
def page(found: Diagnosis, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "deep" / "report.html"
    bptt.write_report(path, found)
    return path


class Headings(HTMLParser):
    """The text of a page's headings, and the scripts in it."""

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.headings, self.scripts = "", [], 0

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.inside = tag
        self.scripts += tag == "script"

    def handle_data(self, data: str) -> None:
        if self.inside in ("h1", "h2") and data.strip():
            self.headings.append(data)


def test_the_page_has_every_part_and_fits_in_a_mail(page: Path, found: Diagnosis):
    text = page.read_text(encoding="utf-8")
    assert page.stat().st_size < 8e6
    parser = Headings()
    parser.feed(text.replace(text[text.index("<script>") : text.index("</script>")], "", 1))
    title, *sections = parser.headings
    assert title == f"How far back the gradient of {NAME} reaches"
    assert sections == [
        "The gradient by lag",
        "What a window costs",
        "The gradient by step and lag",
        "The two summations",
        "One step of the Jacobian",
        "Eigenvalues of W",
        "Lyapunov exponents",
        "How it learnt",
        "How near it is to what is asked",
        "How the horizon grew",
        "The gradient by lag, while it was trained",
        "What teacher forcing costs",
        "The architecture",
        "The same, unfolded in time",
    ]
    assert "without memory: 0.75" in text
    assert "<script>alert" not in text
    assert "http://" not in text[text.index("<body>") :]
    assert "https://" not in text[text.index("<body>") :]


def test_a_flow_alone_makes_a_page(tmp_path: Path):
    net = bptt.Network(bptt.Categorical(5), hidden=8)
    flow = bptt.gradient_flow(net, torch.randint(5, (20, 2)))
    bptt.write_report(tmp_path / "flow.html", flow)
    assert "What a window costs" in (tmp_path / "flow.html").read_text(encoding="utf-8")


def test_the_axis_of_the_lags_holds_both_means(found: Diagnosis):
    levels = replace(found.flow, by_lag=np.ones(80), typical_by_lag=np.full(80, 0.01))
    low, high = (10.0**end for end in bptt.plots.plot_by_lag(levels).layout.yaxis.range)
    assert low < 0.01
    assert high > 1


def test_what_is_no_result_and_where_nothing_can_be_written(tmp_path: Path, found: Diagnosis):
    with pytest.raises(bptt.BpttError, match="got a str; expected a Diagnosis"):
        bptt.write_report(tmp_path / "x.html", "flow")
    (tmp_path / "file").touch()
    with pytest.raises(bptt.BpttError, match="cannot write"):
        bptt.write_report(tmp_path / "file" / "x.html", found)


def test_a_table_of_cells_with_markup(tmp_path: Path):
    section = Section("a <b>", "how & why", table=[("<i>", "x"), ("1", "2")])
    write_page(tmp_path / "x.html", "t", ["a < b"], [section])
    text = (tmp_path / "x.html").read_text(encoding="utf-8")
    assert "<h2>a &lt;b&gt;</h2>" in text
    assert "<tr><th>&lt;i&gt;</th><th>x</th></tr><tr><td>1</td><td>2</td></tr>" in text


class Tab:
    """A page in a browser, and what it has complained about."""

    def __init__(self, tab: Any) -> None:
        self.tab, self.complaints = tab, []

    async def open(self, page: Path) -> None:
        async def complain(message: Any) -> None:
            self.complaints.append(json.dumps(message))

        for event in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"):
            self.tab.subscribe(event, complain)
        for domain in ("Runtime", "Log", "Page"):
            await self.tab.send_command(f"{domain}.enable")
        await self.tab.send_command("Page.navigate", params={"url": page.as_uri()})
        for _ in range(100):
            if await self.ask("document.querySelectorAll('#figure-11 .main-svg').length"):
                break
            await asyncio.sleep(0.1)

    async def ask(self, expression: str) -> Any:
        how = {"expression": expression, "returnByValue": True}
        answer = await self.tab.send_command("Runtime.evaluate", params=how)
        assert "exceptionDetails" not in answer["result"], answer
        return answer["result"]["result"].get("value")

    async def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        how = {"type": kind, "x": x, "y": y, **more}
        await self.tab.send_command("Input.dispatchMouseEvent", params=how)
        await asyncio.sleep(0.1)


async def use(page: Path) -> dict[str, Any]:
    """Open the page, read the headline, hover over a figure, zoom into it; return what was seen."""
    try:
        browser = choreographer.Browser(headless=True)
    except ChromeNotFoundError:
        pytest.skip("there is no Chromium here to open the page with")
    async with browser:
        tab = Tab(await browser.create_tab("about:blank"))
        await tab.open(page)
        seen = {
            "headline": await tab.ask("document.querySelector('.lead').innerText"),
            "figures": await tab.ask("document.querySelectorAll('.plotly-graph-div').length"),
            "too wide": await tab.ask("document.documentElement.scrollWidth - innerWidth"),
        }
        left, top, width, height = await tab.ask(
            "(() => { const f = document.querySelector('#figure-0'); f.scrollIntoView();"
            " const b = f.querySelector('.nsewdrag').getBoundingClientRect();"
            " return [b.x, b.y, b.width, b.height]; })()"
        )
        for share in (0.2, 0.3):
            await tab.mouse("mouseMoved", left + share * width, top + height / 2)
        seen["told"] = await tab.ask("document.querySelector('#figure-0 .hoverlayer').textContent")
        axis = "document.querySelector('#figure-0').layout.xaxis.range.slice()"
        before = await tab.ask(axis)
        held = {"button": "left", "buttons": 1, "clickCount": 1}
        await tab.mouse("mousePressed", left + 0.2 * width, top + 0.2 * height, **held)
        for share in (0.3, 0.5, 0.6):
            await tab.mouse("mouseMoved", left + share * width, top + 0.8 * height, **held)
        await tab.mouse("mouseReleased", left + 0.6 * width, top + 0.8 * height, **held)
        await asyncio.sleep(0.5)
        after = await tab.ask(axis)
        seen["zoomed"] = (after[1] - after[0]) / (before[1] - before[0])
        seen["complaints"] = tab.complaints
    return seen


def test_a_browser_reads_hovers_and_zooms_without_an_error(page: Path):
    seen = asyncio.run(use(page))
    assert seen["complaints"] == []
    assert seen["headline"].startswith("A typical gradient ")
    assert seen["figures"] == 14
    assert seen["too wide"] <= 0
    assert "typical" in seen["told"]
    assert seen["zoomed"] == pytest.approx(0.4, abs=0.1)


@pytest.mark.parametrize("unscored", [0, 12, 19])
def test_the_map_begins_with_the_first_loss_that_counts(unscored: int) -> None:
    torch.manual_seed(0)
    net = bptt.Network(bptt.Gaussian(1), hidden=4)
    weights = torch.ones(20, 2)
    weights[:unscored] = 0
    flow = bptt.gradient_flow(net, torch.randn(20, 2, 1), loss_weights=weights)
    assert bptt.plots.plot_norms(flow).data[0].y[0] == unscored + 1
