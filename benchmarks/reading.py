"""How fast a large text is read, and in how much memory (Linux).

    python benchmarks/reading.py --gigabytes 2

The text is the built-in one over and over, each time with other numbers in it. It is made in a
folder for temporary files, where its tokens go too. It is read as characters and as bytes, each in
a process of its own. The memory is how far the peak of the resident set is above what it was
before.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from pathlib import Path
from pydoc_data.topics import topics

from peak import Prepared, cost

import bptt


def write_text(path: Path, size: int) -> None:
    """Write the built-in text again and again, with lines that no other time has, up to a size."""
    lines = "\n".join(topics.values()).splitlines()
    with path.open("w", encoding="utf-8") as file:
        for number in itertools.count():
            if file.tell() >= size:
                return
            for k, line in enumerate(lines):
                varied = f"{line} {number}.{k}" if (k + number) % 7 == 0 else line
                file.write(f"{varied}\n")


def reading(path: Path, tokens: str) -> tuple[Prepared, Prepared]:
    """Return what reads a small text, and what reads this one."""
    return lambda: bptt.read_text(tokens=tokens), lambda: bptt.read_text(path, tokens)


def main() -> None:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--tokens", default="characters,bytes", help="such as bytes,bpe:4000")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "text"
        write_text(path, int(options.gigabytes * 1e9))
        size = path.stat().st_size
        print(f"a text of {size / 1e9:.2f} GB")
        for tokens in options.tokens.split(","):
            memory, seconds = cost(reading, path, tokens)
            print(f"{tokens:12} {size / 1e6 / seconds:7.1f} MB/s  {memory / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
