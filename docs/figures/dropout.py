"""Draws docs/figures/dropout.png: learning from little text, with and without dropout."""

from __future__ import annotations

import tempfile
from pathlib import Path

import plotly.graph_objects as go
import torch

import bptt

CHARACTERS, HIDDEN, UPDATES = 30_000, 256, 1500
COLORS = {0.0: "#4a4f59", 0.1: "#2459d3", 0.25: "#d3242c"}


def losses(text: bptt.Text, dropout: float) -> list[dict[str, float]]:
    """Train on the text; return the lines of metrics.jsonl with a validation."""
    torch.manual_seed(0)
    net = bptt.Network(text.likelihood, hidden=HIDDEN, dropout=dropout)
    settings = bptt.Settings(max_updates=UPDATES, batch=16, window=50, validate_every=50)
    with tempfile.TemporaryDirectory() as folder:
        done = bptt.fit(net, text, settings, out=Path(folder) / "run")
        assert done.run is not None
        return [row for row in done.run.metrics() if "validation_nll" in row]


if __name__ == "__main__":
    figure = go.Figure()
    with tempfile.TemporaryDirectory() as folder:
        whole = bptt.read_text()
        part = Path(folder) / "little.txt"
        part.write_text(whole.vocabulary.decode(whole.training[:CHARACTERS].tolist()))
        text = bptt.read_text(part)
        for dropout, color in COLORS.items():
            rows = losses(text, dropout)
            best = min(rows, key=lambda row: row["validation_nll"])
            print(
                f"dropout {dropout}: best {best['validation_nll']:.3f} nats per character, after "
                f"{best['update']:,} updates; {rows[-1]['validation_nll']:.3f} at the end, with "
                f"{rows[-1]['train_nll']:.3f} on what it trains on"
            )
            updates = [row["update"] for row in rows]
            for key, dash in (("validation_nll", "solid"), ("train_nll", "dot")):
                what = "held out" if dash == "solid" else "training"
                figure.add_scatter(
                    x=updates,
                    y=[row[key] for row in rows],
                    name=f"dropout {dropout}, {what}",
                    line={"color": color, "dash": dash},
                )
    figure.update_xaxes(title="update")
    figure.update_yaxes(title="loss, nats per character")
    figure.update_layout(template="plotly_white", width=820, height=420, margin={"t": 20, "r": 20})
    figure.write_image(Path(__file__).with_suffix(".png"), scale=2)
