"""Sending a source's rows in bulk, so that the same source sent again stores nothing twice.

Each row has one id for ever: it follows from the natural key of its pipeline, or else from the names of its source
and of the row in it. So rows may go in chunks of any size, and a run may end and begin anywhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec

from producer.formats import Row, SourceError

CHUNK_ROWS: Final = 500
CHUNK_BYTES: Final = 4 << 20

# A rate is kept by small chunks rather than by long silences.
_CHUNK_SECONDS: Final = 0.1
# Readers of files never wait, and signals are to be heard.
_TURN_ROWS: Final = 500

_encode = msgspec.json.Encoder(decimal_format="string").encode


class UploadError(Exception):
    """Sending ended early. Rows before it are counted; sending the same source again stores nothing twice."""


@dataclass(frozen=True, slots=True)
class RefusedRow:
    """A row that was not accepted, with the broken rules: {pointer, code, message}."""

    row: int
    errors: list[dict[str, Any]]


@dataclass(slots=True)
class Chunk:
    """Rows that go in one request: number, name in the source, and JSON of each; `unreadable` ones are not sent."""

    numbers: list[int] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    unreadable: list[RefusedRow] = field(default_factory=list)
    size_bytes: int = 0

    @property
    def rows(self) -> int:
        return len(self.numbers) + len(self.unreadable)

    def add(self, row: Row, body: bytes | None) -> None:
        if body is None:
            self.unreadable.append(unreadable(row))
        else:
            self.numbers.append(row.number)
            self.keys.append(row.key or str(row.number))
            self.bodies.append(body)
            self.size_bytes += len(body)


@dataclass(slots=True)
class Progress:
    """How far an upload is; rows = accepted + refused after each chunk."""

    rows: int = 0
    accepted: int = 0
    refused: int = 0
    retries: int = 0


class Outlet(Protocol):
    """Where the rows go."""

    async def send(self, chunk: Chunk, progress: Progress) -> list[RefusedRow]:
        """Return the refused rows of a chunk once all others are accepted; count the attempts that failed.

        Raises:
            UploadError: none of its rows can be accepted, for a reason that lies not in them.
        """
        ...


def source_key(path: Path) -> str:
    """Return what names a file's content in ids: the start of its SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


async def flowing(rows: Iterable[Row]) -> AsyncGenerator[Row, None]:
    """Yield rows that are at hand as if they were waited for."""
    for count, row in enumerate(rows):
        if count % _TURN_ROWS == 0:
            await asyncio.sleep(0)
        yield row


def unreadable(row: Row) -> RefusedRow:
    errors = list(row.errors) or [{"pointer": "", "code": "unreadable_row", "message": row.problem or ""}]
    return RefusedRow(row.number, errors)


async def upload(
    outlet: Outlet,
    rows: AsyncIterable[Row],
    *,
    refuse: Callable[[RefusedRow], None],
    progress: Progress,
    advance: Callable[[Row], None],
    documents_per_second: float | None = None,
    stop: asyncio.Event | None = None,
) -> None:
    """Send every row and say what became of each: `progress` counts, `refuse` gets the refused in order of rows.

    Args:
        advance: called after each chunk with its last row.
        stop: ends the run after the chunk under way.

    Raises:
        UploadError: the rows cannot be accepted, for a reason that lies not in them.
        SourceError: the source ended early; all rows that it gave are sent.
    """
    pace = _Pace(documents_per_second, stop or asyncio.Event())
    async for chunk, last in _chunks(rows, pace.chunk_rows):
        if not await pace.due(len(chunk.bodies)):
            return
        refused = list(chunk.unreadable)
        if chunk.bodies:
            refused += await outlet.send(chunk, progress)
        for row in sorted(refused, key=lambda row: row.row):
            refuse(row)
        progress.rows += chunk.rows
        progress.refused += len(refused)
        progress.accepted += chunk.rows - len(refused)
        advance(last)


async def _chunks(rows: AsyncIterable[Row], chunk_rows: int) -> AsyncIterator[tuple[Chunk, Row]]:
    """Yield the rows in chunks, each with its last row.

    Raises:
        SourceError: after the last chunk, where the source ended early.
    """
    chunk, last = Chunk(), None
    failure: SourceError | None = None
    try:
        async for row in rows:
            body, row = _encoded(row)
            if last is not None and chunk.rows and chunk.size_bytes + len(body or b"") > CHUNK_BYTES:
                yield chunk, last
                chunk = Chunk()
            chunk.add(row, body)
            last = row
            if chunk.rows >= chunk_rows:
                yield chunk, last
                chunk = Chunk()
    except SourceError as error:
        failure = error
    if last is not None and chunk.rows:
        yield chunk, last
    if failure:
        raise failure


def _encoded(row: Row) -> tuple[bytes | None, Row]:
    if row.document is None or row.errors:
        return None, row
    try:
        return _encode(row.document), row
    except (TypeError, ValueError, OverflowError, UnicodeEncodeError, RecursionError) as error:
        return None, row._replace(document=None, problem=f"it has no form in JSON: {error}")


class _Pace:
    """Says when the next chunk is due."""

    def __init__(self, documents_per_second: float | None, stop: asyncio.Event) -> None:
        self._rate = documents_per_second
        self._stop = stop
        self._due = asyncio.get_running_loop().time()

    @property
    def chunk_rows(self) -> int:
        if self._rate is None:
            return CHUNK_ROWS
        return min(CHUNK_ROWS, max(1, int(self._rate * _CHUNK_SECONDS)))

    async def due(self, documents: int) -> bool:
        """Return True when it is time to send so many, False when the run is to stop."""
        if self._rate is not None:
            now = asyncio.get_running_loop().time()
            if self._due > now:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stop.wait(), self._due - now)
            # What was late is not made up for by more than a second's worth.
            self._due = max(self._due, now - 1) + documents / self._rate
        return not self._stop.is_set()
