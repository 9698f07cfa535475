"""Makes `python -m bptt`, and the command bptt, the command line.

Little is imported here, so that Ctrl-C finds its handler before the rest is.
"""

import os
import sys

from bptt.training.children import end_with_parent
from bptt.training.interruption import Ended, ending

SPINS = "1000"
"""How often a thread of torch looks for work before it sleeps: some microseconds long."""


def spin_briefly() -> None:
    """Let torch's threads, once it is imported, not wait for work for long on a core.

    They would for milliseconds, and where another process has that core, all wait for each other.
    What the user has set stays.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)


def main() -> int:
    """Run the command line; return the exit status."""
    end_with_parent()
    spin_briefly()
    with ending():
        try:
            from bptt.cli import main as run  # noqa: PLC0415

            return run()
        except Ended as interrupt:
            return 128 + interrupt.signum


if __name__ == "__main__":
    sys.exit(main())
