"""CSV and TSV with a header: each row an object of texts, empty fields left out so that a schema can name them."""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from producer.formats import Row, SourceError

_DELIMITERS: Final = (",", ";", "\t")

# A quote that is never closed would swallow the rest of the file.
_MAX_LINES: Final = 100


class _RecordTooLongError(csv.Error):
    pass


class _Lines:
    """Lines of a file, those of the current record remembered, so that a broken record gives back all but its first."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        self._again: deque[str] = deque()
        self.record: list[str] = []

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        if len(self.record) >= _MAX_LINES:
            raise _RecordTooLongError(f"a quote is not closed within {_MAX_LINES} lines")
        line = self._again.popleft() if self._again else next(self._lines)
        self.record.append(line)
        return line

    def give_back(self) -> None:
        self._again.extendleft(reversed(self.record[1:]))


def table_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a table; the delimiter is found in its header.

    Raises:
        SourceError: the header has an empty or repeated name, or there is none.
    """
    # Bytes that are not UTF-8 become surrogates, which are found row by row.
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        lines = _Lines(file)
        names, delimiter = _header(path, lines)
        # strict: a misplaced quote is a broken row, not a guess at what was meant.
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        number = 0
        while True:
            lines.record.clear()
            fields: list[str] = []
            problem: str | None = None
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                problem = f"not a row of a table: {error}"
            else:
                if not fields:
                    continue
                problem = _problem(fields, names, lines.record)
            number += 1
            if problem is None:
                yield Row(number, {name: value for name, value in zip(names, fields, strict=True) if value.strip()})
            else:
                lines.give_back()
                yield Row(number, None, problem)


def header(path: Path) -> list[str]:
    """Return the names of a table's columns.

    Raises:
        SourceError: as `table_rows`.
    """
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        return _header(path, _Lines(file))[0]


def _header(path: Path, lines: _Lines) -> tuple[list[str], str]:
    for line in lines:
        if line.strip():
            delimiter = max(_DELIMITERS, key=line.count)
            try:
                names = [name.strip() for name in next(csv.reader([line], delimiter=delimiter, strict=True))]
            except csv.Error as error:
                raise SourceError(f"{path}: the header cannot be read: {error}.") from None
            # Surrogates, which stand for bytes that are not UTF-8, are not printable.
            if len(set(names)) < len(names) or not all(name and name.isprintable() for name in names):
                break
            return names, delimiter
        lines.record.clear()
    raise SourceError(
        f"{path}: its first row must name every column once, and be UTF-8 unless --encoding says otherwise."
    )


def _problem(fields: list[str], header: list[str], record: list[str]) -> str | None:
    if len(fields) != len(header):
        count = "1 field" if len(fields) == 1 else f"{len(fields)} fields"
        whole = ", perhaps since the whole row stands in quotes" if len(fields) == 1 and record[0][:1] == '"' else ""
        return f"{count} where the header has {len(header)}{whole}"
    for line in record:
        if not line.isascii():
            try:
                line.encode()
            except UnicodeEncodeError:
                return "not UTF-8, or not of the --encoding given; cp1252 and latin-1 are common ones"
    return None
