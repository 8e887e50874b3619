"""Asking a Socrata portal: one page or the number of rows, tried again where that can help."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final, Self

import aiohttp
import msgspec
from yarl import URL

from headrace.settings import ProducerSettings

_FIRST_SECONDS: Final = 0.5
_MOST_SECONDS: Final = 30.0
_MOST_ASKED_SECONDS: Final = 120.0
_MOST_BYTES: Final = 256 << 20
_READ_BYTES: Final = 1 << 16
# 202 means that the portal is still at it.
_LATER: Final = frozenset({202, 408, 425, 429})


class PageError(Exception):
    """A page cannot be read now, after all attempts; the message says why."""


class RefusedError(Exception):
    """The portal refuses the question itself, so asking again or for another page is of no use."""


class _AgainError(Exception):
    """This attempt failed; the next may not."""

    def __init__(self, why: str, after_seconds: float | None = None) -> None:
        super().__init__(why)
        self.after_seconds = after_seconds


@dataclass(frozen=True, slots=True)
class Page:
    """Rows from an offset on, as the portal gave them."""

    offset: int
    rows: list[Any]


class Portal:
    """Asks for rows of one data set; used within `async with`. Counts in `retries` the attempts that failed."""

    def __init__(self, url: URL, token: str | None, settings: ProducerSettings) -> None:
        self._url = url
        self._headers = {"Accept": "application/json", "User-Agent": "headrace", **_token(token)}
        self._settings = settings
        self.retries = 0

    async def __aenter__(self) -> Self:
        seconds = self._settings.socrata_timeout_seconds
        self._session = aiohttp.ClientSession(
            headers=self._headers,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=seconds, sock_connect=min(10.0, seconds)),
            # As curl does: a company's way out is often a proxy that the environment names.
            trust_env=True,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def count(self, where: str | None) -> int:
        """Return how many rows there are.

        Raises:
            PageError, RefusedError: it does not say.
        """
        found = await self._ask({"$select": "count(*)", **_where(where)})
        try:
            return int(next(iter(found[0].values())))
        except (AttributeError, IndexError, StopIteration, TypeError, ValueError):
            raise PageError("the count is no number") from None

    async def page(self, offset: int, rows: int, where: str | None) -> Page:
        """Return rows from an offset on, in the order of their ids, so that pages neither overlap nor leave gaps.

        Raises:
            PageError: they cannot be read now.
            RefusedError: the portal refuses the question.
        """
        found = await self._ask(
            {"$select": ":*,*", "$order": ":id", "$limit": str(rows), "$offset": str(offset), **_where(where)}
        )
        if len(found) > rows:
            raise RefusedError(f"it gives {len(found)} rows where {rows} were asked for, so it is no Socrata data set")
        return Page(offset, found)

    async def _ask(self, query: Mapping[str, str]) -> list[Any]:
        attempts = self._settings.socrata_attempts
        for attempt in range(1, attempts + 1):
            try:
                return await self._once(query)
            except _AgainError as error:
                if attempt == attempts:
                    times = "1 attempt" if attempts == 1 else f"{attempts} attempts"
                    raise PageError(f"{error}, after {times}") from None
                self.retries += 1
                await asyncio.sleep(_wait_seconds(attempt, error.after_seconds))
        raise AssertionError("the last attempt returns or raises")

    async def _once(self, query: Mapping[str, str]) -> list[Any]:
        try:
            # A redirect would carry the token to wherever it leads.
            async with self._session.get(self._url.update_query(query), allow_redirects=False) as response:
                if response.status in _LATER or response.status >= 500:
                    raise _AgainError(f"status {response.status}", _retry_after(response.headers))
                if 300 <= response.status < 400:
                    where = response.headers.get("Location", "elsewhere")[:200]
                    raise RefusedError(f"it redirects to {where}; give that address")
                body = await _read(response)
                if response.status != 200:
                    raise RefusedError(_refusal(response.status, body))
        except TimeoutError:
            raise _AgainError(f"no answer within {self._settings.socrata_timeout_seconds:g} s") from None
        except aiohttp.ClientPayloadError:
            raise _AgainError("the answer broke off") from None
        except aiohttp.ClientConnectorError as error:
            raise _AgainError(f"no connection: {error.os_error.strerror or 'refused'}") from None
        except (aiohttp.ClientError, OSError) as error:
            raise _AgainError(f"the connection broke ({type(error).__name__})") from None
        try:
            found = msgspec.json.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise _AgainError("the answer is not JSON") from None
        if not isinstance(found, list):
            raise _AgainError("the answer is JSON, but no list of rows")
        return found


def _token(token: str | None) -> dict[str, str]:
    return {"X-App-Token": token} if token else {}


def _where(where: str | None) -> dict[str, str]:
    return {"$where": where} if where else {}


async def _read(response: aiohttp.ClientResponse) -> bytes:
    parts, size = [], 0
    async for part in response.content.iter_chunked(_READ_BYTES):
        size += len(part)
        if size > _MOST_BYTES:
            raise RefusedError(f"a page is larger than {_MOST_BYTES >> 20} MiB; set a smaller page")
        parts.append(part)
    return b"".join(parts)


class _Refusal(msgspec.Struct):
    message: str = ""


def _refusal(status: int, body: bytes) -> str:
    """Return why, in the portal's own words where it has some."""
    try:
        said = msgspec.json.decode(body, type=_Refusal).message
    except (msgspec.MsgspecError, UnicodeDecodeError):
        said = ""
    said = " ".join(said.split())[:300]
    advice = {
        400: "correct --where",
        401: "give --app-token-file",
        403: "give another --app-token-file, or none",
        404: "there is no such data set",
    }.get(status, "see the portal's documentation")
    return f"status {status}{f', {said}' if said else ''}; {advice}"


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that the portal asks to wait; it may say so as a date."""
    text = headers.get("Retry-After", "")
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())


def _wait_seconds(attempt: int, asked_seconds: float | None) -> float:
    """Return how long to wait after an attempt that failed: what was asked for, else full jitter under a rising top."""
    if asked_seconds is not None:
        return min(asked_seconds, _MOST_ASKED_SECONDS) + random.random() * _FIRST_SECONDS
    return min(_MOST_SECONDS, _FIRST_SECONDS * 2.0**attempt) * random.random()
