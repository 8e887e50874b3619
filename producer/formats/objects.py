"""JSON: an array of objects, one object a line, or a single object."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

import msgspec

from producer.formats import Row

_BOM: Final = b"\xef\xbb\xbf"
_READ_BYTES: Final = 1 << 16

# No gateway takes a document of this size, so what is longer is broken: a bracket that is never closed.
_MAX_BYTES: Final = 1 << 20

_STRUCTURE = re.compile(rb'["\\{}\[\],\n]')
_NEXT_OBJECT = re.compile(rb"\n[\s,]*(?=\{)")


def line_rows(path: Path) -> Iterator[Row]:
    """Yield one row a line (NDJSON); blank lines are none."""
    with path.open("rb") as file:
        number = 0
        for line in file:
            text = line.removeprefix(_BOM).strip() if number == 0 else line.strip()
            if text:
                number += 1
                yield _row(number, text)


def array_rows(path: Path) -> Iterator[Row]:
    """Yield one row an element of the array; a file that ends before the array does has a broken last row."""
    with path.open("rb") as file:
        for number, element in enumerate(_elements(file), start=1):
            yield _row(number, element)


def single_row(path: Path) -> Iterator[Row]:
    """Yield the one object that the file is."""
    with path.open("rb") as file:
        text = file.read(_MAX_BYTES + 1)
    too_long = len(text) > _MAX_BYTES
    yield Row(1, None, f"longer than {_MAX_BYTES} bytes") if too_long else _row(1, text.removeprefix(_BOM))


def object_of(text: bytes) -> dict[str, Any] | str:
    """Return the JSON object, or why the text is none; the answer never repeats the text."""
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return f"not JSON: {error}"
    return value if isinstance(value, dict) else "JSON, but not an object"


def _row(number: int, text: bytes) -> Row:
    if not text:
        return Row(number, None, "no object stands here; where it is the last row, the file may be cut off")
    found = object_of(text)
    return Row(number, None, found) if isinstance(found, str) else Row(number, found)


def _elements(file: BinaryIO) -> Iterator[bytes]:
    """Yield the text between the commas of the outermost array, balanced or not, and whatever follows the array.

    A text that never ends is cut where a new line begins an object, so the rows behind it are not lost.
    """
    buffer = file.read(_READ_BYTES).removeprefix(_BOM).lstrip()[1:]
    start = position = depth = 0
    quoted = False
    while True:
        found = _STRUCTURE.search(buffer, position)
        if found is None:
            chunk = file.read(_READ_BYTES) if len(buffer) - start <= _MAX_BYTES else b""
            if chunk:
                # An escape at the end of the buffer has skipped a byte that only comes now.
                position = max(position, len(buffer)) - start
                buffer = buffer[start:] + chunk
                start = 0
                continue
            broken, buffer = _cut(buffer[start:])
            yield broken
            buffer = buffer or file.read(_READ_BYTES)
            if not buffer:
                # The cut may lie between two elements: the last one is whole, and only this tells that more is gone.
                if isinstance(object_of(broken), dict):
                    yield b""
                return
            start = position = depth = 0
            quoted = False
            continue
        mark, position = found[0], found.end()
        if quoted:
            if mark == b"\\":
                position += 1
            elif mark in b'"\n':
                # A line cannot end inside a JSON text, so this one was never closed.
                quoted = False
        elif mark == b'"':
            quoted = True
        elif mark in b"{[":
            depth += 1
        elif depth and mark in b"}]":
            depth -= 1
        elif depth == 0 and mark in b",]":
            element = buffer[start : found.start()].strip()
            if element or mark == b",":
                yield element
            start = position
            if mark == b"]":
                rest = buffer[start:] + file.read(_READ_BYTES)
                if rest.strip():
                    yield rest.strip()
                return


def _cut(text: bytes) -> tuple[bytes, bytes]:
    """Return a broken element, empty where the file ends after a comma, and the rest from the next object on a line."""
    text = text.lstrip(b" \t\r\n,")
    again = _NEXT_OBJECT.search(text)
    return (text[: again.start()], text[again.end() :]) if again else (text.strip(), b"")
