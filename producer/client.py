"""Posting documents over HTTP: the aiohttp client, and a raw one that costs a fifth of the CPU.

Both keep connections alive, send one request at a time on each, and take the connection used
last first, so that there are only as many connections as there are requests at once.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol, Self, cast
from urllib.parse import urlsplit

import aiohttp
import httptools
from yarl import URL

from producer.outcome import Answer, SendError

CLIENTS: Final = ("aiohttp", "raw")

_JSON = "application/json"
_NDJSON = "application/x-ndjson"


@dataclass(frozen=True, slots=True)
class Target:
    """Where documents go.

    Attributes:
        url: base of the gateway, without a path.
        path: path that documents are posted to.
        token: bearer token, or empty.
    """

    url: str
    path: str
    token: str

    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}


class Client(Protocol):
    """One way of sending; used within `async with`."""

    async def post(self, key: str, body: bytes, *, bulk: bool, wait_seconds: int = 0) -> Answer:
        """Return the answer to one POST.

        Args:
            key: the request's Idempotency-Key; empty sends none, for pipelines with a natural key.
            bulk: whether the body is NDJSON rather than one JSON object.
            wait_seconds: how long the server shall wait until the document is stored; 0 does not ask for it.

        Raises:
            SendError: there was no complete answer in time.
        """
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *_: object) -> None: ...


def client_for(kind: str, target: Target, *, timeout_seconds: float) -> Client:
    return RawClient(target, timeout_seconds) if kind == "raw" else AiohttpClient(target, timeout_seconds)


class AiohttpClient:
    """The default: a full HTTP client."""

    def __init__(self, target: Target, timeout_seconds: float) -> None:
        self._target = target
        self._url = URL(target.url.rstrip("/") + target.path)
        self._timeout_seconds = timeout_seconds

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": "headrace-load", **self._target.headers()},
            skip_auto_headers=("Accept", "Accept-Encoding"),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def post(self, key: str, body: bytes, *, bulk: bool, wait_seconds: int = 0) -> Answer:
        headers = {"Content-Type": _NDJSON if bulk else _JSON}
        if key:
            headers["Idempotency-Key"] = key
        if wait_seconds:
            headers["Prefer"] = f"wait={wait_seconds}"
        return await self.ask("POST", self._url, body=body, headers=headers, wait_seconds=wait_seconds)

    async def ask(
        self, method: str, url: URL, *, body: bytes = b"", headers: Mapping[str, str], wait_seconds: int = 0
    ) -> Answer:
        """Return the answer to any request; raises as `post`."""
        try:
            async with self._session.request(
                method,
                url,
                data=body or None,
                headers=headers,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=self._timeout_seconds + wait_seconds),
            ) as response:
                return Answer(response.status, await response.read(), _retry_after(response.headers))
        except TimeoutError:
            raise SendError("timeout", unknown=True) from None
        except aiohttp.ClientConnectorError as error:
            raise SendError(_connect_reason(error.os_error), unknown=False) from None
        except aiohttp.ClientResponseError:
            raise SendError("not_http", unknown=True) from None
        except (aiohttp.ClientError, OSError, ValueError):
            raise SendError("connection_lost", unknown=True) from None


class RawClient:
    """HTTP/1.1 on plain asyncio protocols with httptools' parser.

    Five times the requests per CPU second of aiohttp, for measuring a server that shares its
    machine with the client. It follows no redirects, uses no proxies and decompresses nothing.
    """

    def __init__(self, target: Target, timeout_seconds: float) -> None:
        parts = urlsplit(target.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("the URL must start with http:// or https:// and name a host")
        self._host = parts.hostname
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        path = parts.path.rstrip("/") + target.path
        head = f"POST {path} HTTP/1.1\r\nHost: {parts.netloc.rpartition('@')[2]}\r\nUser-Agent: headrace-load\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in target.headers().items())
        self._heads = {bulk: f"{head}Content-Type: {kind}\r\n" for bulk, kind in ((False, _JSON), (True, _NDJSON))}
        self._timeout_seconds = timeout_seconds
        self._idle: deque[_Connection] = deque()
        self._open: set[_Connection] = set()

    async def __aenter__(self) -> Self:
        self._sweeper = asyncio.create_task(self._sweep())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._sweeper.cancel()
        for connection in list(self._open):
            connection.abort("closed")
        # Transports close one turn of the loop later.
        await asyncio.sleep(0)

    async def post(self, key: str, body: bytes, *, bulk: bool, wait_seconds: int = 0) -> Answer:
        prefer = f"Prefer: wait={wait_seconds}\r\n" if wait_seconds else ""
        named = f"Idempotency-Key: {key}\r\n" if key else ""
        head = f"{self._heads[bulk]}{prefer}{named}Content-Length: {len(body)}\r\n\r\n"
        deadline = asyncio.get_running_loop().time() + self._timeout_seconds + wait_seconds
        connection = self._take() or await self._connect()
        answer = await connection.exchange(head.encode() + body, deadline)
        if connection.reusable:
            self._idle.append(connection)
        else:
            connection.abort("closed")
        return answer

    def _take(self) -> _Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.reusable:
                return connection
        return None

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._timeout_seconds):
                _, connection = await loop.create_connection(
                    lambda: _Connection(self._open), self._host, self._port, ssl=self._tls
                )
        except TimeoutError:
            raise SendError("connect_timeout", unknown=False) from None
        except OSError as error:
            raise SendError(_connect_reason(error), unknown=False) from None
        return connection

    async def _sweep(self) -> None:
        """Fail what is overdue; one timer for all costs less than one a request, and is a quarter second coarse."""
        while True:
            await asyncio.sleep(0.25)
            now = asyncio.get_running_loop().time()
            for connection in [connection for connection in self._open if connection.deadline < now]:
                connection.abort("timeout")


class _Connection(asyncio.Protocol):
    """One connection: at most one request at a time."""

    def __init__(self, registry: set[_Connection]) -> None:
        self._registry = registry
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[Answer] | None = None
        self.deadline = float("inf")
        self.reusable = True

    async def exchange(self, request: bytes, deadline: float) -> Answer:
        if self._transport is None:
            raise SendError("connection_lost", unknown=False)
        self._answer = asyncio.get_running_loop().create_future()
        self.deadline = deadline
        self._begin_answer()
        self._transport.write(request)
        try:
            return await self._answer
        finally:
            self._answer = None
            self.deadline = float("inf")

    def abort(self, reason: str) -> None:
        self._fail(reason)
        if self._transport is not None:
            self._transport.abort()

    def _fail(self, reason: str) -> None:
        self.reusable = False
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(SendError(reason, unknown=True))

    def _begin_answer(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self._retry_after: float | None = None

    # asyncio's calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do not derive from asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        self._registry.add(self)

    def connection_lost(self, _: Exception | None) -> None:
        self._transport = None
        self._registry.discard(self)
        self._fail("connection_lost")

    def data_received(self, data: bytes) -> None:
        if self._answer is None or self._answer.done():
            # Bytes that nobody asked for belong to no later answer.
            self.abort("not_http")
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.abort("not_http")

    # httptools' calls

    def on_header(self, name: bytes, value: bytes) -> None:
        # Almost every answer is a 202 without it, so the cheap test of the length comes first.
        if len(name) == 11 and name.lower() == b"retry-after":
            self._retry_after = _seconds(value.decode("latin-1"))

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        self.reusable = bool(self._parser.should_keep_alive())
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(Answer(self._parser.get_status_code(), b"".join(self._body), self._retry_after))


def _retry_after(headers: Mapping[str, str]) -> float | None:
    return _seconds(headers.get("Retry-After", ""))


def _seconds(text: str) -> float | None:
    """Return the seconds of a Retry-After, or None for its form as a date, which our servers do not use."""
    try:
        return max(0.0, float(text))
    except ValueError:
        return None


def _connect_reason(error: OSError) -> str:
    return "connection_refused" if isinstance(error, ConnectionRefusedError) else "connect_failed"
