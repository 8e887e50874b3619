"""A TCP proxy that can be as bad as a network: it delays, swallows in one direction or both, resets, plays dead."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit, urlunsplit

_CHUNK: Final = 64 << 10
_FROM_SERVER, _TO_SERVER = "from_server", "to_server"


@dataclass(frozen=True, slots=True)
class Weather:
    """What happens to traffic.

    Attributes:
        delay_seconds: each chunk waits so long.
        swallows: directions whose bytes vanish while the connection stays: `to_server`, `from_server`.
        reset_after_bytes: a connection that has carried so many more bytes is reset; None never.
        refuses: connections end, and new ones are turned away at once.
    """

    delay_seconds: float = 0.0
    swallows: frozenset[str] = frozenset()
    reset_after_bytes: int | None = None
    refuses: bool = False


FAIR: Final = Weather()
BLACK_HOLE: Final = Weather(swallows=frozenset({_TO_SERVER, _FROM_SERVER}))
DEAF: Final = Weather(swallows=frozenset({_TO_SERVER}))
# The server hears and acts; its answers never come: the cause of every unknown outcome.
MUTE: Final = Weather(swallows=frozenset({_FROM_SERVER}))
AWAY: Final = Weather(refuses=True)


class Proxy:
    """Use `open_proxy`.

    Attributes:
        url: where clients connect, otherwise as the server's own.
    """

    def __init__(self, url: str) -> None:
        self._parts = urlsplit(url)
        self._weather = FAIR
        self._changed = asyncio.Event()
        # Writer to the client, writer to the server.
        self._open: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self.url = ""

    @property
    def weather(self) -> Weather:
        return self._weather

    def turn(self, weather: Weather) -> None:
        """Change the weather. What was swallowed under another is lost, so its connections end when it turns fair."""
        before, self._weather = self._weather, weather
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
        if weather.refuses or (before.swallows and not weather.swallows):
            self.reset()

    def reset(self) -> None:
        """Reset every connection."""
        for pair in list(self._open):
            for writer in pair:
                _reset(writer)

    def half_open(self) -> None:
        """Let the servers' ends vanish; the clients' stay, and hear nothing any more."""
        self.turn(BLACK_HOLE)
        for _, to_server in list(self._open):
            _reset(to_server)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._weather.refuses:
            _reset(writer)
            return
        assert self._parts.hostname
        try:
            up_reader, up_writer = await asyncio.open_connection(self._parts.hostname, self._parts.port)
        except OSError:
            _reset(writer)
            return
        carried = _Carried()
        pair = (writer, up_writer)
        self._open.add(pair)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._pump(reader, up_writer, _TO_SERVER, carried))
                tasks.create_task(self._pump(up_reader, writer, _FROM_SERVER, carried))
        except* (OSError, _EndError):
            pass
        finally:
            self._open.discard(pair)
            for one in pair:
                with contextlib.suppress(Exception):
                    one.close()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, direction: str, carried: _Carried
    ) -> None:
        while data := await reader.read(_CHUNK):
            if self._weather.delay_seconds:
                # Fair weather ends the wait.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._weather.delay_seconds):
                        await self._changed.wait()
            weather = self._weather
            if direction in weather.swallows:
                continue
            if weather.reset_after_bytes is not None:
                if carried.since is not weather:
                    carried.since, carried.size_bytes = weather, 0
                carried.size_bytes += len(data)
                if carried.size_bytes > weather.reset_after_bytes:
                    # In the middle of a message, as real resets come.
                    writer.write(data[: len(data) // 2])
                    _reset(writer)
                    raise _EndError
            writer.write(data)
            await writer.drain()
        # While bytes vanish, so does the word that there will be no more.
        while self._weather.swallows:
            await self._changed.wait()
        raise _EndError


@dataclass
class _Carried:
    """What one connection has carried under a weather."""

    since: Weather | None = None
    size_bytes: int = 0


class _EndError(Exception):
    """A connection has ended at one of its ends."""


def _reset(writer: asyncio.StreamWriter) -> None:
    """End a connection with RST rather than FIN."""
    found = writer.get_extra_info("socket")
    if found is not None:
        with contextlib.suppress(OSError):
            found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@contextlib.asynccontextmanager
async def open_proxy(url: str) -> AsyncIterator[Proxy]:
    """Stand before a server while the body runs."""
    proxy = Proxy(url)
    server = await asyncio.start_server(proxy._serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    parts = urlsplit(url)
    proxy.url = urlunsplit(parts._replace(netloc=f"{parts.netloc.rpartition('@')[0]}@127.0.0.1:{port}".lstrip("@")))
    try:
        yield proxy
    finally:
        server.close()
        proxy.turn(AWAY)
