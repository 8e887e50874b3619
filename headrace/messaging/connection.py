"""One NATS connection per process, and a watchdog: a process whose bus is dead ends rather than look alive.

Its inboxes lie under the name of its user, `_INBOX.<user>.`, the only ones that a role of `roles.py` may hear.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final
from urllib.parse import urlsplit

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg

from headrace import telemetry
from headrace.errors import UnavailableError
from headrace.settings import NatsSettings, Settings
from headrace.tasks import end
from headrace.tls import client_context

log = telemetry.logger(__name__)

_INBOX: Final = "_INBOX"
# A user's name that can stand in a subject.
_PLAIN: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_REFUSED: Final = re.compile(r'permissions violation for publish to "([^"]*)"', re.IGNORECASE)


class _Client(Client):
    """Sends no password to a server that offers no TLS where TLS is wanted; nats-py would, since it does as told."""

    def _connect_command(self) -> bytes:
        server = self._current_server
        wanted = "tls" in self.options or (server is not None and server.uri.scheme == "tls")
        if wanted and not self._server_info.get("tls_required"):
            raise nats.errors.Error("nats: the server offers no TLS")
        return super()._connect_command()


class BusLostError(Exception):
    """The connection is gone for good or for too long; the process must end and be restarted."""


@dataclass
class Bus:
    """The connection and who to tell when it breaks.

    Attributes:
        on_disconnect: called at once, in the event loop, when the connection breaks.
        on_reconnect: called when it is back.
        on_refused: called with the subject, in lower case, where the server lets our user not publish to it.
    """

    client: Client
    on_disconnect: list[Callable[[], None]] = field(default_factory=list)
    on_reconnect: list[Callable[[], None]] = field(default_factory=list)
    on_refused: list[Callable[[str], None]] = field(default_factory=list)

    @property
    def connected(self) -> bool:
        return self.client.is_connected


@contextlib.asynccontextmanager
async def connect(settings: Settings, name: str) -> AsyncIterator[Bus]:
    """Open the connection, keep it watched, close it at the end.

    Raises:
        UnavailableError: no server answered in `nats.down_seconds`.
        BusLostError: later, in the body, when the connection is lost for good.
    """
    limits = settings.nats
    client = _Client()
    bus = Bus(client)
    closed = asyncio.Event()

    # None of these may raise: nats-py's read loop would die in silence.
    async def disconnected() -> None:
        _tell(bus.on_disconnect)

    async def reconnected() -> None:
        telemetry.reconnects.inc()
        log.warning("nats_reconnected")
        _tell(bus.on_reconnect)

    async def failed(error: Exception) -> None:
        detail = str(error)[:300]
        if "permissions violation" not in detail.lower():
            log.warning("nats_error", error=type(error).__name__, detail=detail)
            return
        # The server only says so and goes on: whoever waits for an answer would wait in vain.
        log.error("nats_forbidden", detail=detail, fix="give this process the credentials of its own role")
        if refused := _REFUSED.search(detail):
            _tell([partial(listener, refused[1].lower()) for listener in bus.on_refused])

    async def ended() -> None:
        closed.set()

    options: dict[str, Any] = {
        "servers": (servers := settings.nats_url.get_secret_value().split(",")),
        "inbox_prefix": inbox_prefix(servers[0]),
        "name": name,
        "connect_timeout": limits.connect_timeout_seconds,
        "ping_interval": limits.ping_seconds,
        "max_outstanding_pings": 2,
        "max_reconnect_attempts": -1,
        "reconnect_time_wait": 0.25,
        # Nothing is buffered while disconnected: a block that was answered with 503 must not be stored later.
        "pending_size": 0,
        "disconnected_cb": disconnected,
        "reconnected_cb": reconnected,
        "error_cb": failed,
        "closed_cb": ended,
    }
    if context := client_context(limits.tls_ca, limits.tls_certificate, limits.tls_key):
        options["tls"] = context
    await _first_connect(client, options, limits)
    try:
        async with _plainly(), asyncio.TaskGroup() as tasks:
            watchdog = tasks.create_task(_watch(bus, closed, limits))
            try:
                yield bus
            finally:
                await end(watchdog)
    finally:
        # close() while reconnecting can raise CancelledError or hang.
        with contextlib.suppress(Exception, asyncio.CancelledError):
            await asyncio.wait_for(client.close(), 5)


def inbox_prefix(url: str) -> str:
    """Return what the inboxes of the user in a URL start with; they all share one where it names no user."""
    parts = urlsplit(url)
    # Without a password, what stands there is a token, which belongs into no subject.
    named = parts.password is not None and parts.username is not None and _PLAIN.fullmatch(parts.username)
    return f"{_INBOX}.{parts.username}" if named else _INBOX


@contextlib.asynccontextmanager
async def _plainly() -> AsyncIterator[None]:
    """Raise what the body raised, or that the bus is lost, without the task group's wrapping."""
    try:
        yield
    except BaseExceptionGroup as group:
        raise next((e for e in group.exceptions if isinstance(e, BusLostError)), group.exceptions[0]) from None


async def _first_connect(client: Client, options: dict[str, Any], limits: NatsSettings) -> None:
    deadline = asyncio.get_running_loop().time() + limits.down_seconds
    while True:
        try:
            # Told to try for ever, nats-py would sit in connect() without a word.
            # Where it does not trust the server's certificate, it would wait for ever, too.
            async with asyncio.timeout(2 * limits.connect_timeout_seconds):
                await client.connect(**{**options, "max_reconnect_attempts": 1})
            client.options["max_reconnect_attempts"] = -1
            return
        except (nats.errors.Error, OSError, TimeoutError) as error:
            if asyncio.get_running_loop().time() > deadline:
                raise UnavailableError(
                    f"No NATS server answered within {limits.down_seconds:g} s ({type(error).__name__}). "
                    "Check HEADRACE_NATS_URL, that nats-server runs and, with TLS, HEADRACE_NATS__TLS_CA.",
                    code="nats_unavailable",
                ) from error
            await asyncio.sleep(0.2)


async def _watch(bus: Bus, closed: asyncio.Event, limits: NatsSettings) -> None:
    """End the process when the bus no longer echoes. `is_connected` alone can be wrong for ever."""
    loop = asyncio.get_running_loop()
    echoed = asyncio.Event()
    inbox = bus.client.new_inbox()

    async def echo(_message: Msg) -> None:
        echoed.set()

    await bus.client.subscribe(inbox, cb=echo)
    last = loop.time()
    while True:
        echoed.clear()
        with contextlib.suppress(nats.errors.Error):
            await bus.client.publish(inbox, b"")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limits.ping_seconds):
                await echoed.wait()
            last = loop.time()
        if closed.is_set() or loop.time() - last > limits.down_seconds:
            log.error("nats_lost", seconds=round(loop.time() - last, 1), closed=closed.is_set())
            raise BusLostError("The NATS connection is lost.")
        if echoed.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(limits.ping_seconds):
                    await closed.wait()


def _tell(listeners: list[Callable[[], None]]) -> None:
    for listener in listeners:
        try:
            listener()
        except Exception:
            log.exception("listener_failed")
