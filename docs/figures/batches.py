"""Draws docs/figures/batches.png: what the batches of each kind of data are made of.

A row is a sequence of a batch, a column a time step: one whose loss counts, one that is only read,
or padding. All of it is what the batches themselves say.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import polars as pl
from plotly.subplots import make_subplots

import bptt
from bptt.data.batches import Batch, Dataset

PADDING, READ, COUNTS = range(3)
NAMES = ["padding", "only read", "its loss counts"]
COLORS = ["#e6e8ec", "#f0b45f", "#2459d3"]
BATCH, WINDOW = 8, 100


def datasets() -> dict[str, Dataset]:
    """Return one of each kind, by what it is called."""
    random = np.random.default_rng(0)
    lengths = random.integers(60, 200, BATCH)
    text = bptt.read_text()
    text = bptt.Text(
        None, "", text.vocabulary, text.training[:2800], text.validation[:480], text.about
    )
    wave = pl.DataFrame({"load": np.sin(np.arange(3000) / 5)})
    shops = pl.concat(
        [
            pl.DataFrame({"id": [str(k)] * n, "load": random.normal(size=n)})
            for k, n in enumerate(lengths.tolist())
        ]
    )
    walks = [random.normal(size=(n, 1)).cumsum(0) for n in random.integers(60, 200, 90).tolist()]
    late = [(np.arange(len(walk)) >= 20).astype(float) for walk in walks]
    signs = [str(walk[-1, 0] > 0) for walk in walks]
    table, panel = bptt.read_table(wave), bptt.read_table(shops, series="id", target="load")
    return {
        "a text": text,
        "a table": table,
        "a panel": panel,
        "a collection": bptt.Collection.of(walks, loss_weights=late),
        "labels": bptt.Labelled.of(walks, signs),
    }


def kinds_of_steps(batch: Batch) -> np.ndarray:
    """Return what each step is, (B, T)."""
    T, B = batch.y.shape[:2]
    kinds = np.full((T, B), COUNTS)
    if batch.weights is not None:
        kinds[batch.weights.numpy() == 0] = READ
    if batch.lengths is not None:
        kinds[np.arange(T)[:, None] >= batch.lengths.numpy()] = PADDING
    return kinds.T


def parts(data: Dataset) -> Iterator[tuple[np.ndarray, list[int]]]:
    """Yield for training and validation a batch, and where parts of it meet.

    What is one sequence to the end, its state carried, is shown as one.
    """
    for batches in (data.training_batches(BATCH, WINDOW, 0), data.validation_batches(BATCH)):
        kinds = [kinds_of_steps(batches.get(0, 0))]
        if batches.carries:
            kinds = [kinds_of_steps(batch) for batch in batches.first_epoch()]
        yield (
            np.concatenate(kinds, axis=1),
            np.cumsum([part.shape[1] for part in kinds])[:-1].tolist(),
        )


def draw() -> go.Figure:
    """Return the picture."""
    every = datasets()
    figure = make_subplots(
        len(every), 2, column_titles=["training", "validation"], vertical_spacing=0.07
    )
    scale = [[k / 3 + at, COLORS[k]] for k in range(3) for at in (0, 1 / 3)]
    for row, (name, data) in enumerate(every.items(), 1):
        for col, (kinds, cuts) in enumerate(parts(data), 1):
            print(name, ("training", "validation")[col - 1], kinds.shape, len(cuts) + 1)
            figure.add_heatmap(
                z=kinds,
                zmin=-0.5,
                zmax=2.5,
                colorscale=scale,
                showscale=False,
                row=row,
                col=col,
                ygap=1.5,
            )
            for cut in cuts:
                figure.add_vline(cut - 0.5, line={"color": "white", "width": 2}, row=row, col=col)
            figure.update_yaxes(showticklabels=False, autorange="reversed", row=row, col=col)
            figure.update_xaxes(range=[-0.5, kinds.shape[1] - 0.5], row=row, col=col)
        figure.update_yaxes(title=name, row=row, col=1)
    for color, name in zip(COLORS[::-1], NAMES[::-1], strict=True):
        marker = {"color": color, "symbol": "square", "size": 14}
        figure.add_scatter(x=[None], y=[None], mode="markers", marker=marker, name=name)
    figure.update_xaxes(title="time step", title_standoff=6, row=len(every))
    figure.update_xaxes(showgrid=False, zeroline=False)
    figure.update_yaxes(showgrid=False, zeroline=False)
    figure.update_layout(
        template="plotly_white",
        width=980,
        height=760,
        margin={"t": 40, "r": 20, "l": 20, "b": 20},
        legend={"orientation": "h", "y": -0.1, "x": 0.5, "xanchor": "center"},
        font_size=14,
    )
    return figure


if __name__ == "__main__":
    draw().write_image(Path(__file__).with_suffix(".png"), scale=2)
