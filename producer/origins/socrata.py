"""A data set of a Socrata portal as a source: counted, then read page by page in the order of its rows' own ids.

Several pages are under way at once and come out in order. A page that cannot be read in the end leaves a gap that is
reported by its range and makes the run incomplete; it neither ends the run nor passes in silence.

Source: https://dev.socrata.com/docs/paging, /docs/system-fields, /docs/app-tokens, /docs/response-codes
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections import deque
from collections.abc import AsyncGenerator, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from yarl import URL

from headrace.settings import ProducerSettings, Settings
from producer.formats import Row, SourceError
from producer.origins.portal import Page, PageError, Portal, RefusedError
from producer.origins.shelf import Kept, Shelf, open_shelf
from producer.source import Place, Source

# A portal that fails so many pages one after the other is away, and asking for the rest would take hours.
_MOST_FAILED_IN_A_ROW: Final = 3
_ID: Final = ":id"
_TIMES: Final = ("created_at", "updated_at")


@dataclass(slots=True)
class Reading:
    """What is known about one reading of a data set.

    Attributes:
        total: rows that the portal counted before and after; None where it could not.
        read: rows that it gave.
        gaps: ranges of rows that could not be read, first and last, from 0; the last end may be unknown.
    """

    total: int | None = None
    total_after: int | None = None
    read: int = 0
    pages: int = 0
    cached: bool = False
    capped: bool = False
    gaps: list[tuple[int, int | None]] = field(default_factory=list)
    why: str = ""


class Dataset:
    """One data set, or the part of it that a condition selects."""

    def __init__(
        self, url: str, settings: ProducerSettings, *, token: str | None, where: str | None, max_rows: int | None
    ) -> None:
        self.url = resource(url)
        self.where = where
        self.max_rows = max_rows or settings.socrata_max_rows
        self._settings = settings
        self._token = token
        self.reading = Reading()
        self.retries = 0

    @property
    def key(self) -> str:
        """Return what names the data set, whatever its rows are now."""
        return hashlib.sha256(f"{self.url}\n{self.where or ''}".encode()).hexdigest()[:16]

    async def pages(self, first_row: int) -> AsyncGenerator[Page, None]:
        """Yield the pages from a row on, in order, without those that cannot be read.

        Raises:
            SourceError: the portal refuses to be asked, or is away.
        """
        self.reading = Reading()
        async with Portal(self.url, self._token, self._settings) as portal:
            try:
                async with contextlib.aclosing(self._read(portal, first_row)) as pages:
                    async for page in pages:
                        yield page
            except RefusedError as error:
                raise SourceError(f"{self.url} refuses: {error}") from None
            finally:
                self.retries = portal.retries

    async def _read(self, portal: Portal, first_row: int) -> AsyncGenerator[Page, None]:
        reading, size = self.reading, self._settings.socrata_page_rows
        reading.total = await self._count(portal)
        end = self.max_rows if reading.total is None else min(reading.total, self.max_rows)
        failed_in_a_row = 0
        under_way: deque[tuple[int, int, asyncio.Task[Page]]] = deque()
        offset = first_row
        try:
            while True:
                while len(under_way) < self._settings.socrata_concurrency and offset < end:
                    rows = min(size, self.max_rows - offset)
                    under_way.append((offset, rows, asyncio.create_task(portal.page(offset, rows, self.where))))
                    offset += rows
                if not under_way:
                    # The count may be old: what was added since then is read, too, until a page is not full.
                    if offset >= self.max_rows or failed_in_a_row:
                        break
                    end = offset + 1
                    continue
                start, rows, task = under_way.popleft()
                try:
                    page = await task
                    while page.rows:
                        reading.pages += 1
                        reading.read += len(page.rows)
                        yield page
                        start, rows = start + len(page.rows), rows - len(page.rows)
                        if not rows:
                            break
                        # Fewer than asked for: the end, or a portal that gives no more at once.
                        page = await portal.page(start, rows, self.where)
                except PageError as error:
                    failed_in_a_row += 1
                    reading.why = str(error)
                    known_end = None if reading.total is None else max(end, start + 1)
                    if failed_in_a_row >= _MOST_FAILED_IN_A_ROW:
                        self._gap(start, known_end)
                        break
                    self._gap(start, min(start + rows, known_end or start + rows))
                    continue
                failed_in_a_row = 0
                if not page.rows:
                    break
        finally:
            for _, _, task in under_way:
                task.cancel()
            await asyncio.gather(*(task for _, _, task in under_way), return_exceptions=True)
        reading.total_after = await self._count(portal) if reading.total is not None else None
        known = reading.total_after or reading.total
        reading.capped = known is not None and known > self.max_rows

    async def _count(self, portal: Portal) -> int | None:
        """Return how many rows there are, or None where the portal does not say; the pages then say why."""
        try:
            return await portal.count(self.where)
        except (PageError, RefusedError):
            return None

    def _gap(self, start: int, end: int | None) -> None:
        """Note rows that could not be read, `end` not included; gaps that touch are one."""
        gaps, last = self.reading.gaps, None if end is None else end - 1
        if gaps and gaps[-1][1] == start - 1:
            start = gaps.pop()[0]
        gaps.append((start, last))


def socrata_source(
    dataset: Dataset, settings: Settings, *, refresh: bool, fields: Collection[str] = frozenset()
) -> Source:
    """Return the rows of a data set; from Redis where all of it was read less than `producer.cache_seconds` ago.

    Args:
        refresh: ask the portal, whatever Redis has, and keep the answer.
        fields: of the pipeline; it is given the times of a row that the portal keeps if it has a field for them.
    """
    times = {f":{name}": name for name in _TIMES if name in fields}
    notes: list[str] = []

    async def rows(after: Place | None) -> AsyncGenerator[Row, None]:
        first = after.number if after else 0
        async with open_shelf(settings, notes.append) as shelf:
            found = None if refresh else await shelf.take(dataset.key, dataset.max_rows)
            async with contextlib.aclosing(_kept(found) if found else _read(shelf, first)) as pages:
                async for page in pages:
                    for row in _rows(page, times):
                        if row.number > first:
                            yield row

    async def _kept(found: Kept) -> AsyncGenerator[Page, None]:
        dataset.reading = Reading(found.rows, found.rows, found.rows, len(found.offsets), cached=True)
        for offset in found.offsets:
            yield await found.page(offset)

    async def _read(shelf: Shelf, first: int) -> AsyncGenerator[Page, None]:
        # Only what is read from its start can be kept whole.
        keep = shelf.begin(dataset.key, dataset.max_rows) if not first else None
        async with contextlib.aclosing(dataset.pages(first)) as pages:
            async for page in pages:
                if keep is not None:
                    await keep.add(page)
                yield page
        if dataset.reading.gaps:
            raise SourceError(_gaps(dataset.reading))
        if keep is not None:
            await keep.finish(dataset.reading.read)
        notes.extend(_notes(dataset.reading, first))

    return Source(
        str(dataset.url),
        dataset.key,
        rows,
        seekable=True,
        total=lambda: _expected(dataset),
        figures=lambda: _figures(dataset),
        notes=notes,
    )


def _figures(dataset: Dataset) -> dict[str, Any]:
    reading = dataset.reading
    return {
        "total": reading.total,
        "read": reading.read,
        "pages": reading.pages,
        "retries": dataset.retries,
        "from_cache": reading.cached,
        "cut_at_max_items": reading.capped,
        "gaps": [list(gap) for gap in reading.gaps],
    }


def _rows(page: Page, times: Mapping[str, str]) -> list[Row]:
    """Return the rows of a page; of the portal's own fields, which begin with a colon, only the wanted times."""
    found = []
    for number, value in enumerate(page.rows, start=page.offset + 1):
        if not isinstance(value, dict):
            found.append(Row(number, None, "JSON, but not an object"))
            continue
        document = {name: field for name, field in value.items() if not name.startswith(":")}
        for own, name in times.items():
            if own in value:
                document.setdefault(name, value[own])
        identity = value.get(_ID)
        found.append(Row(number, document, key=identity if isinstance(identity, str) else None))
    return found


def _expected(dataset: Dataset) -> int | None:
    total = dataset.reading.total
    return None if total is None else min(total, dataset.max_rows)


def _gaps(reading: Reading) -> str:
    ranges = ", ".join(f"{first + 1} to {'the end' if last is None else last + 1}" for first, last in reading.gaps)
    of = "" if reading.total is None else f" of {reading.total}"
    rest = "All others were read; repeat the command for these." if reading.read else "None was read."
    return f"Rows {ranges}{of} could not be read ({reading.why}). {rest}"


def _notes(reading: Reading, first: int) -> list[str]:
    notes = []
    if reading.total is None:
        notes.append("The portal did not count its rows; they were read until a page was empty.")
    elif reading.capped:
        notes.append(
            f"The portal has {reading.total_after or reading.total} rows, more than --max-items; the rest was not read."
        )
    elif not reading.total == reading.total_after == reading.read + first:
        notes.append(
            f"The portal counted {reading.total} rows before, {reading.total_after} after, and gave "
            f"{reading.read + first}: it changed while it was read, so rows may be missing. Run it again."
        )
    return notes


def resource(url: str) -> URL:
    """Return the address of a data set's rows.

    Raises:
        SourceError: it is none.
    """
    try:
        found = URL(url)
        usable = found.scheme in ("http", "https") and bool(found.host)
    except ValueError:
        usable = False
    if not usable:
        raise SourceError(f"{url}: not a URL that starts with http:// or https://.")
    if any(name.startswith("$") for name in found.query):
        raise SourceError("The URL must not hold $ parameters of its own; give --where and --max-items.")
    if found.user or found.password:
        raise SourceError("The URL must not hold a password; give --app-token-file.")
    if not found.path.endswith(".json"):
        if found.suffix:
            raise SourceError(f"{found}: the address must end in .json, as in /resource/w7w3-xahh.json.")
        found = found.with_path(f"{found.path.rstrip('/')}.json", keep_query=True)
    return found.with_fragment(None)
