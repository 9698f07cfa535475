"""What `bptt train` reaches on the built-in text, and on a text of your own.

    python benchmarks/text.py                # the defaults, on the built-in text
    python benchmarks/text.py FILE           # a larger network on FILE: --hidden 256, 5,000 updates
    python benchmarks/text.py --defaults     # the experiments behind the default settings

Validation losses are in bits per character; times are of training, validation included.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
from dataclasses import replace
from pathlib import Path

import torch

import bptt

EXPERIMENTS: list[dict[str, float]] = [
    {},
    {"learning_rate": 1e-3},
    {"learning_rate": 2.5e-3},
    {"learning_rate": 1e-2},
    {"clip": 0.3},
    {"clip": math.inf},
    {"batch": 16},
    {"batch": 64},
    {"window": 50},
    {"window": 200},
]


def report(name: str, text: bptt.Text, settings: bptt.Settings, hidden: int) -> None:
    """Train once and print a line."""
    torch.manual_seed(0)
    net = bptt.Network(bptt.Categorical(text.vocabulary.size), hidden=hidden)
    done = bptt.fit(net, text, settings)
    assert done.validation_nll is not None
    bits = done.validation_nll / math.log(2)
    work = f"{done.updates:6,} updates {done.seconds:7.1f} s"
    print(f"{name:40} {bits:6.3f} bits  {work}", flush=True)


def main() -> None:
    """Print the machine, then a line for every run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("file", type=Path, nargs="?")
    parser.add_argument("--defaults", action="store_true")
    arguments = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}")
    text = bptt.read_text(arguments.file)
    if arguments.defaults:
        for changes in EXPERIMENTS:
            name = ", ".join(f"{key} {value:g}" for key, value in changes.items()) or "defaults"
            settings = replace(bptt.Settings(), **changes)  # type: ignore[arg-type]
            report(name, text, settings, hidden=128)
    elif arguments.file is None:
        report("built-in text, defaults", text, bptt.Settings(), hidden=128)
    else:
        report(f"{arguments.file.name}, --hidden 256", text, bptt.Settings(max_updates=5000), 256)


if __name__ == "__main__":
    main()
