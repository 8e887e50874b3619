"""uvicorn with what it lacks: deadlines for headers and body, and a stop that resets no accepted request."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Generator
from http import HTTPStatus
from typing import Any, Final, cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.hardened import LINES
from gateway.ingest import App
from gateway.problems import problem
from headrace import telemetry
from headrace.document import new_id
from headrace.errors import RequestError
from headrace.settings import GatewaySettings
from headrace.tls import load_certificate

log = telemetry.logger(__name__)

_SWEEP_SECONDS: Final = 0.5
# Time for the first request of a connection that is there when the server ends.
_FIRST_REQUEST_SECONDS: Final = 0.5
# Between them, those who are served already have their turn.
_ACCEPTED_AT_ONCE: Final = 128
_ACCEPT_AGAIN_SECONDS: Final = 0.5
# Of request line and headers together; what one read from the socket brings is let through.
_MAX_HEAD_BYTES: Final = 64 << 10


class _Corked:
    """A transport that joins what one turn of the loop writes; uvicorn writes head and body apart, two system calls."""

    __slots__ = ("_chunks", "_loop", "_transport")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._chunks: list[bytes] = []

    def write(self, data: bytes) -> None:
        if not self._chunks:
            self._loop.call_soon(self._flush)
        self._chunks.append(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._chunks:
            data, self._chunks = b"".join(self._chunks), []
            self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class _Trailers(list[tuple[bytes, bytes]]):
    """Holds nothing: nobody reads trailers, and a client can send them without end."""

    def append(self, _trailer: tuple[bytes, bytes], /) -> None:
        pass


class Connection(HttpToolsProtocol):
    """Notes since when a connection owes us headers or a body; a sweep closes those that are late.

    uvicorn's keep-alive limit is cleared by every byte, so alone it lets a slow sender hold on for ever;
    and it holds as many headers as somebody sends.

    Attributes:
        wire: the transport itself, for who writes an answer in one piece.
        owes_headers_since, owes_body_since: when the wait for them began, in the loop's time.
        idle_since: when an answer went out that left no timer of uvicorn's behind.
    """

    wire: asyncio.Transport
    owes_headers_since: float | None = None
    owes_body_since: float | None = None
    idle_since: float | None = None
    _head_bytes = 0

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.owes_headers_since is None or self.transport.is_closing():
            return
        self._head_bytes += len(data)
        if self._head_bytes > _MAX_HEAD_BYTES:
            self._close_with(
                RequestError(
                    f"The headers are larger than {_MAX_HEAD_BYTES} bytes.", code="headers_too_large", status=431
                )
            )

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.wire = transport
        self.transport = cast(asyncio.Transport, _Corked(transport, self.loop))
        self.owes_headers_since = self.loop.time()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.message_began()

    def message_began(self) -> None:
        self.idle_since = None
        if self.owes_headers_since is None:
            self.owes_headers_since = self.loop.time()

    def on_headers_complete(self) -> None:
        self.headers_ended()
        super().on_headers_complete()
        self.ignore_trailers()

    def headers_ended(self) -> None:
        self.owes_headers_since = None
        self._head_bytes = 0
        self.owes_body_since = self.loop.time()

    def ignore_trailers(self) -> None:
        self.headers = _Trailers()

    def answered(self) -> None:
        """Go on to the next request, or wait for one; a sweep costs less than uvicorn's timer for each request."""
        if self.pipeline or self.wire.is_closing():
            self.on_response_complete()
        else:
            self.server_state.total_requests += 1
            self.flow.resume_reading()
            self.idle_since = self.loop.time()

    def on_message_complete(self) -> None:
        self.owes_body_since = None
        super().on_message_complete()

    def shutdown(self) -> None:
        if self.cycle is None and self.owes_headers_since is not None:
            # It was opened a moment ago, perhaps, and its first request is on the wire.
            self.loop.call_later(_FIRST_REQUEST_SECONDS, self._close_unused)
        else:
            super().shutdown()

    def _close_unused(self) -> None:
        if not self.transport.is_closing():
            super().shutdown()

    def close_late(self, what: str, seconds: float) -> None:
        self._close_with(RequestError(f"The {what} did not come within {seconds:g} s.", code="too_slow", status=408))

    def send_400_response(self, msg: str) -> None:
        self._close_with(RequestError(f"This is not HTTP/1.1: {msg}", code="malformed_http"))

    def _close_with(self, error: RequestError) -> None:
        request_id = new_id()
        body, headers = problem(error, request_id)
        head = b"".join(b"%b: %b\r\n" % header for header in headers)
        status = b"%d %b" % (error.status, HTTPStatus(error.status).phrase.encode())
        self.transport.write(
            b"HTTP/1.1 %b\r\n%b%bcontent-length: %d\r\nx-request-id: %b\r\nconnection: close\r\n\r\n%b"
            % (status, head, LINES, len(body), request_id.encode(), body)
        )
        self.transport.close()


class Server(uvicorn.Server):
    """A server whose signals are ours, and that accepts all who wait at once.

    By itself uvloop accepts one connection each turn of its loop: where turns are long, a crowd waits for seconds.
    """

    def __init__(self, config: uvicorn.Config, handshake_seconds: float) -> None:
        super().__init__(config)
        # Python takes a time for it only where there is one.
        self._handshake_seconds = handshake_seconds if config.is_ssl else None
        self._listeners: list[socket.socket] = []
        self._accepting: set[asyncio.Task[Any]] = set()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=[])
        self._listeners = list(sockets or [])
        for listener in self._listeners:
            self._listen(listener)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening, and serve whoever has connected by then, also where nobody has accepted that yet."""
        listeners, self._listeners = self._listeners, []
        for listener in listeners:
            asyncio.get_running_loop().remove_reader(listener)
            # The kernel resets whoever still waits there when it is closed.
            while self._accept(listener):
                pass
            listener.close()
        if self._accepting:
            # Not as long as a client likes that never ends its TLS handshake.
            await asyncio.wait(self._accepting, timeout=_FIRST_REQUEST_SECONDS)
        await super().shutdown(sockets)

    def _listen(self, listener: socket.socket) -> None:
        if listener in self._listeners:
            asyncio.get_running_loop().add_reader(listener, self._accept_waiting, listener)

    def _accept_waiting(self, listener: socket.socket) -> None:
        for _ in range(_ACCEPTED_AT_ONCE):
            if not self._accept(listener):
                return

    def _accept(self, listener: socket.socket) -> bool:
        """Accept a connection; return whether another one may be waiting."""
        loop = asyncio.get_running_loop()
        try:
            connection, _ = listener.accept()
        except (BlockingIOError, InterruptedError):
            return False
        except ConnectionError:  # it has gone again
            return True
        except OSError as error:
            # There are no descriptors left. The socket stays readable, so we would turn without end.
            log.warning("accept_failed", error=type(error).__name__, detail=error.strerror)
            loop.remove_reader(listener)
            loop.call_later(_ACCEPT_AGAIN_SECONDS, self._listen, listener)
            return False
        connection.setblocking(False)
        task = loop.create_task(self._serve_one(connection))
        self._accepting.add(task)
        task.add_done_callback(self._accepting.discard)
        return True

    async def _serve_one(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.connect_accepted_socket(
                self._connection, connection, ssl=self.config.ssl, ssl_handshake_timeout=self._handshake_seconds
            )
        except OSError:  # a handshake that failed, or a client that has gone; ssl.SSLError is one
            connection.close()

    def _connection(self) -> asyncio.Protocol:
        make = cast(Callable[..., asyncio.Protocol], self.config.http_protocol_class)
        return make(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)

    async def sweep(self, limits: GatewaySettings) -> None:
        """Close connections that owe headers or a body for too long; run it as a task."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            now = loop.time()
            for connection in list(self.server_state.connections):
                if not isinstance(connection, Connection) or connection.transport.is_closing():
                    continue
                if _late(connection.owes_headers_since, now, limits.header_seconds):
                    connection.close_late("headers", limits.header_seconds)
                elif _late(connection.owes_body_since, now, limits.body_seconds):
                    connection.close_late("body", limits.body_seconds)
                elif _late(connection.idle_since, now, _keep_alive_seconds(limits)):
                    connection.transport.close()


def _keep_alive_seconds(limits: GatewaySettings) -> int:
    return int(max(5, limits.header_seconds))


def _late(since: float | None, now: float, limit: float) -> bool:
    return since is not None and now - since > limit


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket, so that its port is known before the server runs.

    Raises:
        OSError: the address is taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    listener.listen(1024)
    listener.setblocking(False)
    return listener


@contextlib.asynccontextmanager
async def serving(
    app: App,
    listener: socket.socket,
    settings: GatewaySettings,
    connection: Callable[..., Connection] = Connection,
) -> AsyncIterator[None]:
    """Serve while the body runs; then stop accepting and finish what was begun.

    Args:
        connection: makes the protocol of each connection, from what uvicorn gives it.
    """
    tls = settings.tls_certificate is not None
    if settings.tls_certificate is not None:
        # uvicorn would end in a trace where the files are of no use.
        load_certificate(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), settings.tls_certificate, settings.tls_key)
    config = uvicorn.Config(
        app,
        ssl_certfile=settings.tls_certificate,
        ssl_keyfile=settings.tls_key,
        # Who ends TLS says that there is no way without it; elsewhere that is for the proxy to say.
        headers=[("strict-transport-security", "max-age=31536000")] if tls else [],
        http=cast(type[Connection], connection),
        loop="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        # Who trusts a proxy's X-Forwarded-For can be lied to; nothing here needs it.
        proxy_headers=False,
        date_header=True,
        timeout_keep_alive=_keep_alive_seconds(settings),
        timeout_graceful_shutdown=int(settings.drain_seconds),
        backlog=1024,
    )
    server = Server(config, settings.header_seconds)
    running = asyncio.create_task(server.serve(sockets=[listener]))
    sweeping = asyncio.create_task(server.sweep(settings))
    try:
        yield
    finally:
        server.should_exit = True
        await running
        sweeping.cancel()
