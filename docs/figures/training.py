"""Draws docs/figures/training.png: losses on little text, the best weights, and a patient stop."""

from __future__ import annotations

import tempfile
from pathlib import Path

import plotly.graph_objects as go
import torch

import bptt

CHARACTERS, HIDDEN, UPDATES, PATIENCE = 30_000, 256, 1500, 5
COLORS = {"train_nll": "#2459d3", "validation_nll": "#d3242c"}


def trained(text: bptt.Text, folder: Path, patience: int | None) -> tuple[bptt.Run, int, int]:
    """Train; return the run, the best update and the last."""
    torch.manual_seed(0)
    net = bptt.Network(text.likelihood, hidden=HIDDEN)
    settings = bptt.Settings(
        max_updates=UPDATES, batch=16, window=50, validate_every=50, patience=patience
    )
    done = bptt.fit(net, text, settings, out=folder)
    assert done.run is not None
    return done.run, done.best_update, done.updates


if __name__ == "__main__":
    figure = go.Figure()
    with tempfile.TemporaryDirectory() as folder:
        whole = bptt.read_text()
        part = Path(folder) / "little.txt"
        part.write_text(whole.vocabulary.decode(whole.training[:CHARACTERS].tolist()))
        text = bptt.read_text(part)
        run, best, last = trained(text, Path(folder) / "whole", None)
        _, same, stop = trained(text, Path(folder) / "patient", PATIENCE)
        rows = [row for row in run.metrics() if "validation_nll" in row]
    lowest = next(row["validation_nll"] for row in rows if row["update"] == best)
    print(
        f"best {lowest:.3f} nats per character after {best} of {last} updates, "
        f"{rows[-1]['validation_nll']:.3f} at the end; with patience {PATIENCE} it stops after "
        f"{stop}, with the weights of {same}"
    )
    for key, name in (("train_nll", "on what it trains on"), ("validation_nll", "held out")):
        figure.add_scatter(
            x=[row["update"] for row in rows],
            y=[row[key] for row in rows],
            name=name,
            line={"color": COLORS[key]},
        )
    mark = {"size": 11, "color": COLORS["validation_nll"], "symbol": "circle-open"}
    figure.add_scatter(x=[best], y=[lowest], mode="markers", marker=mark, name="the best weights")
    figure.add_vline(x=stop, line={"dash": "dash", "color": "#4a4f59"})
    figure.update_xaxes(title="update")
    figure.update_yaxes(title="loss, nats per character")
    figure.update_layout(template="plotly_white", width=820, height=420, margin={"t": 20, "r": 20})
    figure.write_image(Path(__file__).with_suffix(".png"), scale=2)
