"""Files of past searches: user, tab, time, tab, hotels with their offers; one document per hotel of a line.

The third field is JSON but for its hotel ids, which stand without quotes:
`{6036:{"advertisers":{"Amoma":[{"eurocents":17558,"breakfast":false}]}},6035:{…}}`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from producer.formats import Row, first_bytes, read_file
from producer.formats.objects import object_of

# A whole text, so that nothing inside one is taken for a key; or a bare key.
_TEXT_OR_KEY = re.compile(r'("(?:[^"\\]|\\.)*")|(?<=[{,])(\s*)([0-9A-Za-z_-]+)(?=\s*:)')


def rows(path: Path) -> Iterator[Row]:
    """Yield one row per user and hotel; tables and JSON are read as they stand.

    Raises:
        SourceError: there is no such file.
    """
    first_line = first_bytes(path).partition(b"\n")[0]
    user, *rest = first_line.split(b"\t", 2)
    if user.startswith((b"{", b"[")) or len(rest) != 2 or not rest[1].startswith(b"{"):
        return read_file(path)
    return _past_searches(path)


def _past_searches(path: Path) -> Iterator[Row]:
    number = 0
    with path.open("rb") as file:
        for line_number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            found = _searches_of(line)
            if isinstance(found, str):
                number += 1
                yield Row(number, None, f"line {line_number}: {found}")
                continue
            for document in found:
                number += 1
                yield Row(number, document)


def _searches_of(line: bytes) -> list[dict[str, Any]] | str:
    """Return the searches of a line, one per hotel, or what is wrong with it."""
    try:
        fields = line.decode().removeprefix("\ufeff").rstrip("\r\n").split("\t", 2)
    except UnicodeDecodeError:
        return "not UTF-8, or not of the --encoding given"
    if len(fields) != 3:
        return "not user, time and hotels with tabs between"
    user, time, text = fields
    hotels = object_of(_TEXT_OR_KEY.sub(_quoted, text).encode())
    if isinstance(hotels, str):
        return f"the hotels are {hotels}"
    if not hotels:
        return "there is no hotel"
    return [
        {"user_id": user, "hotel_id": hotel, "search_timestamp": _number(time), **_offers(found)}
        for hotel, found in hotels.items()
    ]


def _quoted(match: re.Match[str]) -> str:
    text, space, key = match.groups()
    return text or f'{space}"{key}"'


def _number(text: str) -> int | float | str:
    """Return the time; a text that is no number stays one, so that the schema names the field."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _offers(found: Any) -> dict[str, Any]:
    """Return the field with the offers; without any it is left out, so that the schema names it."""
    if isinstance(found, dict) and "advertisers" in found:
        return {"hotel_advertisers": found["advertisers"]}
    return {}
