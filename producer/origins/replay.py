"""A file of past documents sent again as if they happened now: once in order, or drawn from at random without end."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from random import Random

from producer.formats import Row, SourceError
from producer.generators import group_of, spoiler, stamper
from producer.mapping import Columns
from producer.origins.files import file_source_rows
from producer.source import Source, rows_of


def replay_source(
    pipeline: str,
    path: Path,
    *,
    endless: bool,
    seed: int | None = None,
    users: int | None = None,
    bad_share: float = 0.0,
    encoding: str | None = None,
    columns: Columns | None = None,
    clock: Callable[[], float] = time.time,
) -> Source:
    """Return the documents of a file, those of one user together, each stamped with the moment at which it is sent.

    They are events of now, so they are new each time.

    Args:
        endless: draw one user after the other at random, for ever; else all in the order of the file.
        users: only those of so many users, the first in the file.

    Raises:
        ValueError: the pipeline's documents have no users.
        LookupError: bad ones are asked for, and there is no generator that could make them.
    """
    group, stamp = group_of(pipeline), stamper(pipeline)
    spoil = spoiler(pipeline) if bad_share else None
    if users is not None and group is None:
        raise ValueError(f"Documents of {pipeline} have no users; leave --users out.")
    random = Random(secrets.randbits(48) if seed is None else seed)

    def rows() -> Iterator[Row]:
        number = count(1)
        for row in _drawn():
            document = row.document
            if document is not None and not row.errors:
                document = stamp(document, clock())
                if spoil and random.random() < bad_share:
                    document = spoil(document, random)
            yield row._replace(number=next(number), document=document, key=None)

    def _drawn() -> Iterator[Row]:
        groups = _groups()
        if not endless:
            for found in groups:
                yield from found
            return
        # What cannot be read is refused once, when the file is.
        usable = []
        for found in groups:
            broken = [row for row in found if row.document is None or row.errors]
            yield from broken
            if len(broken) < len(found):
                usable.append([row for row in found if row.document is not None and not row.errors])
        if not usable:
            raise SourceError(f"{path}: it has no row to draw from.")
        while True:
            yield from random.choice(usable)

    def _groups() -> list[list[Row]]:
        found: dict[str, list[Row]] = {}
        for row in file_source_rows(pipeline, path, encoding, columns):
            mapped = columns.apply(row) if columns else row
            name = group(mapped.document) if group and mapped.document is not None else f"row {row.number}"
            if name not in found and users is not None and len(found) >= users:
                continue
            found.setdefault(name, []).append(mapped)
        return list(found.values())

    name = f"{path}, again and again" if endless else f"{path}, as of now"
    return Source(name, f"once-{secrets.token_hex(8)}", rows_of(rows), endless=endless)
