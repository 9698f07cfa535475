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
import multiprocessing
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path
from pydoc_data.topics import topics

import bptt
from bptt.gradient.costs import taken_by


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


def read(pipe: Connection, path: Path, tokens: str) -> None:
    """Send the seconds and the memory that reading takes, once a small text has been read."""
    bptt.read_text(tokens=tokens)
    taken = taken_by(lambda: bptt.read_text(path, tokens))
    pipe.send((taken.seconds, taken.memory))


def measured(path: Path, tokens: str) -> tuple[float, int | None]:
    """Return seconds and bytes of memory, from a fresh process."""
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    process = context.Process(target=read, args=(theirs, path, tokens))
    process.start()
    theirs.close()
    try:
        seconds, memory = mine.recv()
    except EOFError:
        raise SystemExit("the measured process died: see above") from None
    finally:
        process.join()
    return seconds, memory


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
            seconds, memory = measured(path, tokens)
            told = "memory unknown" if memory is None else f"{memory / 1e6:.0f} MB"
            print(f"{tokens:12} {size / 1e6 / seconds:7.1f} MB/s  {told}")


if __name__ == "__main__":
    main()
