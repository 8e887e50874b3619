"""How the commands write: data to stdout, one JSON value a line or for people; colour on a terminal only."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console
    from rich.table import Table

_WIDTH = 200

Row = tuple[str, ...]


def write_line(value: Any) -> None:
    """Write a JSON line at once; a pipe's other end waits for it."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n")
    sys.stdout.flush()


def write_json(value: Any) -> None:
    """Write one JSON value: indented for people, on one line for programs."""
    indent = 2 if sys.stdout.isatty() else None
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=indent) + "\n")


def console() -> Console:
    """Return stdout for tables, which are as wide as they need to be: a folded id or number cannot be copied."""
    from rich.console import Console

    return Console(highlight=False, markup=False, emoji=False, width=max(_WIDTH, Console().width))


def table(titles: Sequence[str], rows: Sequence[Row]) -> Table:
    """Return a table; columns of numbers are flush right."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    found = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for title, cells in zip(titles, zip(*rows, strict=True) if rows else [()] * len(titles), strict=True):
        numbers = any(cells) and all(not cell or cell[0].isdigit() for cell in cells)
        found.add_column(title, justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        found.add_row(*row)
    return found


def print_table(titles: Sequence[str], rows: Sequence[Row], nothing: str) -> None:
    """Print a table, or say on stderr that there is nothing; nothing at all where that is empty, too."""
    from cli.problems import say

    if rows:
        console().print(table(titles, rows))
    elif nothing:
        say(nothing)
