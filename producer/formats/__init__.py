"""Files as rows: tables and JSON, told apart by suffix and first bytes. Read as a stream, whatever their size.

A broken row never ends a run: it comes as a Row that says what is wrong with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

_BOM: Final = b"\xef\xbb\xbf"
_LINES: Final = frozenset({".ndjson", ".jsonl"})


class Row(NamedTuple):
    """One row of a source.

    Attributes:
        number: its place among the data rows, from 1.
        document: the row as a JSON object, or None when it cannot be read as one.
        problem: why it cannot be read.
        key: what its source calls it, for ever; by default its number.
        errors: the fields that keep it from being a document: {pointer, code, message}.
    """

    number: int
    document: dict[str, Any] | None
    problem: str | None = None
    key: str | None = None
    errors: tuple[dict[str, Any], ...] = ()


class SourceError(Exception):
    """A file cannot be read as a source at all; the message names the file and says what to do."""


def read_file(path: Path) -> Iterator[Row]:
    """Yield the rows of a CSV or TSV table, a JSON array, a JSON object or NDJSON.

    Raises:
        SourceError: there is no such file, it is empty, a table has no usable header, or a .json file is no JSON.
    """
    from producer.formats import objects, tables

    match _form(path):
        case "lines":
            return objects.line_rows(path)
        case "array":
            return objects.array_rows(path)
        case "object":
            return objects.single_row(path)
    return tables.table_rows(path)


def header(path: Path) -> list[str] | None:
    """Return the columns of a table; None where the file is none.

    Raises:
        SourceError: as `read_file`.
    """
    from producer.formats import tables

    return tables.header(path) if _form(path) == "table" else None


def _form(path: Path) -> Literal["lines", "array", "object", "table"]:
    start = first_bytes(path)
    if path.suffix.lower() in _LINES:
        return "lines"
    if start.startswith(b"["):
        return "array"
    if start.startswith(b"{"):
        first_line, _, rest = start.partition(b"\n")
        # An object that is laid out over several lines does not close on its first.
        return "lines" if first_line.rstrip().endswith(b"}") or not rest else "object"
    if not start:
        raise SourceError(f"{path}: it is empty.")
    if path.suffix.lower() == ".json":
        raise SourceError(f"{path}: it is named .json, but begins with neither an array nor an object.")
    return "table"


def first_bytes(path: Path) -> bytes:
    """Return how the file begins, without byte order mark and white space.

    Raises:
        SourceError: the file cannot be opened.
    """
    try:
        with path.open("rb") as file:
            return file.read(65536).removeprefix(_BOM).lstrip()
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror}.") from None
