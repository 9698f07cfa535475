"""Makes `python -m bptt`, and the command bptt, the command line.

Little is imported here, so that Ctrl-C finds its handler before the rest is.
"""

import sys

from bptt.startup import put_off_compiler, spin_briefly
from bptt.training.children import end_with_parent
from bptt.training.interruption import Ended, ending


def main() -> int:
    """Run the command line; return the exit status."""
    end_with_parent()
    spin_briefly()
    put_off_compiler()
    with ending():
        try:
            from bptt.cli import main as run  # noqa: PLC0415

            return run()
        except Ended as interrupt:
            return 128 + interrupt.signum


if __name__ == "__main__":
    sys.exit(main())
