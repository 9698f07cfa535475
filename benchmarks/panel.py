"""A panel of a thousand series in one CSV file: read, trained an epoch, and forecast.

    python benchmarks/panel.py [--series 1000] [--steps 1000]

Asked: under two minutes in all, for a thousand series of a thousand steps.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

COLUMNS = "--series shop --time day --target sales --calendar weekday"


def write(path: Path, series: int, steps: int) -> None:
    """Write noisy weeks of sales, a fifth shorter at the most, each of another size."""
    random, first = np.random.default_rng(0), np.datetime64("2024-01-01")
    with path.open("w") as file:
        file.write("shop,day,sales\n")
        for shop in range(series):
            n = steps - int(random.integers(0, steps // 5 + 1))
            week = np.sin(2 * np.pi * (np.arange(n) + random.uniform(0, 7)) / 7)
            sales = 10 ** random.uniform(1, 4) * (1 + 0.3 * week + 0.05 * random.normal(size=n))
            days = first + np.arange(n)
            rows = zip(days, sales, strict=True)
            file.writelines(f"s{shop},{day},{value:.3f}\n" for day, value in rows)


def seconds(*arguments: str) -> float:
    """Return what a command of the package takes, its start among it."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "bptt", *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--series", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=1000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        write(Path("sales.csv"), options.series, options.steps)
        size = Path("sales.csv").stat().st_size / 1e6
        trained = seconds(
            "train", "sales.csv", *COLUMNS.split(), *["--epochs", "1", "--out", "run"]
        )
        ahead = seconds("generate", "run", "--steps", "24", "--seed", "0")
        os.chdir("/")
    print(f"{options.series} series of up to {options.steps} steps, {size:.0f} MB")
    print(f"read, and trained an epoch {trained:6.1f} s")
    print(f"read, and forecast         {ahead:6.1f} s")
    print(f"in all                     {trained + ahead:6.1f} s (asked: at most 120)")


if __name__ == "__main__":
    main()
