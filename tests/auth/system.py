"""The auth service under test, in verbs: real NATS and Postgres, asked as the gateway asks it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import msgspec

from auth.service import run
from headrace.errors import HeadraceError
from headrace.messaging.connection import Bus, connect
from headrace.messaging.mesh import ask
from headrace.settings import AuthSettings, Settings
from headrace.tokens import CLIENT_HEADER, PRINCIPAL_HEADER, Principal, TokenVerifier
from tests import waiting

PASSWORD = "a mill needs water"
DEADLINE_SECONDS = 20.0


@dataclass
class Auth:
    """What a gateway would do, without the gateway."""

    bus: Bus
    settings: Settings

    async def ask(
        self, endpoint: str, body: object = None, *, acts_for: Principal | None = None, client: str | None = None
    ) -> Any:
        """Return what the endpoint answers, decoded; None for an empty answer."""
        headers = {}
        if acts_for:
            headers[PRINCIPAL_HEADER] = acts_for.encode()
        if client:
            headers[CLIENT_HEADER] = client
        payload = body if isinstance(body, bytes) else msgspec.json.encode(body)
        reply = await ask(
            self.bus, self.settings.namespace, "auth", endpoint, payload, headers=headers, timeout_seconds=10
        )
        return msgspec.json.decode(reply.body) if reply.body else None

    async def refused(self, endpoint: str, body: object = None, **who: Any) -> HeadraceError:
        """Return the error with which the endpoint refuses."""
        try:
            answer = await self.ask(endpoint, body, **who)
        except HeadraceError as error:
            return error
        raise AssertionError(f"{endpoint} was allowed: {answer}")

    async def register(self, username: str, password: str = PASSWORD) -> None:
        await self.ask("register", {"username": username, "password": password})

    async def login(self, username: str, password: str = PASSWORD, **more: str) -> dict[str, Any]:
        answer: dict[str, Any] = await self.ask("token", {"username": username, "password": password, **more})
        return answer

    async def newcomer(self, username: str) -> Principal:
        """Return a new user, logged in."""
        await self.register(username)
        return await self.verified((await self.login(username))["access_token"])

    async def verifier(self) -> TokenVerifier:
        return TokenVerifier(await self.ask("jwks"))

    async def verified(self, access_token: str) -> Principal:
        return (await self.verifier()).verify(access_token)

    async def rows(self, query: str) -> list[dict[str, Any]]:
        """Return what is in Postgres."""
        connection = await asyncpg.connect(self.settings.postgres_url.get_secret_value())
        try:
            return [dict(row) for row in await connection.fetch(query)]
        finally:
            await connection.close()


def with_auth(settings: Settings, **changes: Any) -> Settings:
    """Return the settings with some of auth's changed."""
    return settings.model_copy(update={"auth": AuthSettings(**{**settings.auth.model_dump(), **changes})})


@contextlib.asynccontextmanager
async def instance(settings: Settings) -> AsyncIterator[None]:
    """Run one instance of the service while the body runs; it fails the test if it ends on its own."""
    stop = asyncio.Event()
    service = asyncio.create_task(run(settings, stop))
    try:
        yield
    finally:
        stop.set()
        await asyncio.wait_for(service, DEADLINE_SECONDS)


@contextlib.asynccontextmanager
async def client(settings: Settings) -> AsyncIterator[Auth]:
    async with connect(settings, "test") as bus:
        yield Auth(bus, settings)


@contextlib.asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Auth]:
    """Run one instance that answers, and a client of it."""
    async with client(settings) as auth, instance(settings):
        await answers(auth)
        yield auth


async def answers(auth: Auth) -> None:
    """Wait until an instance answers."""
    await eventually(lambda: auth.ask("jwks"))


async def eventually(attempt: Any) -> Any:
    """Return the first result of an attempt that neither fails nor is false."""
    return await waiting.eventually(attempt, passing=(HeadraceError,))


class Valve:
    """A TCP relay in front of a server, to take the server away without touching it."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._writers: set[asyncio.StreamWriter] = set()
        self._open = True
        self._flows = asyncio.Event()
        self._flows.set()

    def cut(self) -> None:
        """Break every connection and refuse new ones."""
        self._open = False
        for writer in self._writers:
            writer.transport.abort()

    def freeze(self) -> None:
        """Keep every connection and carry nothing."""
        self._flows.clear()

    def mend(self) -> None:
        self._open = True
        self._flows.set()

    async def relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._open:
            writer.transport.abort()
            return
        far_reader, far_writer = await asyncio.open_connection(self._host, self._port)
        both = {writer, far_writer}
        self._writers |= both
        await asyncio.gather(self._carry(reader, far_writer), self._carry(far_reader, writer))
        self._writers -= both

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                await self._flows.wait()
                writer.write(data)
                await writer.drain()
        writer.transport.abort()


@contextlib.asynccontextmanager
async def through_valve(url: str) -> AsyncIterator[tuple[str, Valve]]:
    """Lay a valve in front of the server of a URL; yields the URL to use instead, and the valve."""
    parts = urlsplit(url)
    assert parts.hostname
    assert parts.port
    valve = Valve(parts.hostname, parts.port)
    server = await asyncio.start_server(valve.relay, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield url.replace(f"{parts.hostname}:{parts.port}", f"127.0.0.1:{port}"), valve
    finally:
        server.close()
        valve.mend()
        valve.cut()
