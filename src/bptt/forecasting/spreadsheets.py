"""Text in cells of a table that somebody may open in a spreadsheet."""

from __future__ import annotations

import re

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""What a spreadsheet takes for the start of a formula, or drops before it looks for one."""
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def text_cell(text: object) -> str:
    """Return a text as a cell that a spreadsheet shows and does not run; numbers stay as they are.

    >>> text_cell("=1+1"), text_cell("load"), text_cell("-5.2"), text_cell("-5+2")
    ("'=1+1", 'load', '-5.2', "'-5+2")
    """
    text = str(text)
    is_formula = text.startswith(FORMULA) and NUMBER.fullmatch(text) is None
    return f"'{text}" if is_formula else text
