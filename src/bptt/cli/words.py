"""Names of files, as they are printed: whatever is in them, they stay on their line."""

from __future__ import annotations

import os
import shlex
from pathlib import Path


def shell_word(path: Path) -> str:
    r"""Return a path as a shell takes it for one word, without what a terminal would obey.

    >>> print(shell_word(Path("a b")), shell_word(Path("it's\n")))
    'a b' $'it\'s\x0a'
    """
    text = str(path)
    return shlex.quote(text) if text.isprintable() else f"$'{''.join(map(_escaped, text))}'"


def _escaped(character: str) -> str:
    if character in "\\'":
        return f"\\{character}"
    if character.isprintable():
        return character
    return "".join(f"\\x{byte:02x}" for byte in os.fsencode(character))
