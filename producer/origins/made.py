"""Made-up documents as a source: so many or endless, the same for a seed or new and of now."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Mapping
from itertools import count, islice
from typing import Any

from producer.formats import Row
from producer.generators import documents
from producer.source import Source, rows_of


def made_source(
    pipeline: str,
    number: int | None,
    *,
    seed: int | None,
    bad_share: float = 0.0,
    users: int | None = None,
    example: Mapping[str, Any] | None = None,
) -> Source:
    """Return so many made-up documents, or endlessly many.

    Raises:
        LookupError: there is neither a generator nor an example.
        ValueError: the pipeline's documents have no users.
    """
    key = f"once-{secrets.token_hex(8)}" if seed is None else f"seed-{seed}-{bad_share}-{users or 'all'}"
    drawn = secrets.randbits(48) if seed is None else seed

    def rows() -> Iterator[Row]:
        # Without a seed each is stamped with the moment at which it is made.
        start, clock = (None, None) if seed is not None else (time.time(), time.time)
        made = documents(pipeline, drawn, bad_share=bad_share, start=start, clock=clock, users=users, example=example)
        return map(Row, count(1), islice(made, number))

    rows()
    name = "endless made-up documents" if number is None else f"{number} made-up documents"
    return Source(name, key, rows_of(rows), seekable=seed is not None, endless=number is None, total=lambda: number)
