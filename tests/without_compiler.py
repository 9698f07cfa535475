"""Lets a process that a test starts do without torch's compiler, which takes seconds to import.

python -m tests.without_compiler MODULE runs a module so; a process that others are forked from
imports this one before all others. The command line does the same for itself.
"""

from __future__ import annotations

import runpy
import sys

from bptt.startup import put_off_compiler

put_off_compiler()

if __name__ == "__main__":
    runpy.run_module(sys.argv[1], run_name="__main__")
