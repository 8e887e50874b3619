"""The plain case of the hot route, answered from the connection itself: no scope, no task, no ASGI messages.

A request is plain where it is one small JSON document from a caller who is known already. While it waits for the disk
the connection is busy, exactly as with any other request. Whatever turns out not to be plain, bad input above all, is
handed to uvicorn and `Ingest.accept` as if nothing had happened, so no rule stands in two places.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from gateway.hardened import LINES
from gateway.headers import RequestHeaders, read_headers
from gateway.ingest import PREFIX, Begun, Ingest
from gateway.problems import request_id_of
from gateway.server import Connection
from headrace.errors import RequestError
from headrace.settings import GatewaySettings

_PREFIX: Final = PREFIX.encode()
# What is larger comes in several reads, and is no longer made quicker by this.
_MAX_BYTES: Final = 64 << 10
# They say something that only uvicorn or a middleware knows how to answer.
_NOT_PLAIN: Final = frozenset({b"expect", b"origin", b"transfer-encoding", b"upgrade"})


class _Nobody:
    """Stands for whoever would wait for a request's messages."""

    def set(self) -> None:
        pass


class _Turn:
    """What uvicorn wants to know of the request that a connection is busy with, in place of its own cycle."""

    __slots__ = ("disconnected", "keep_alive", "response_complete")

    message_event: Final = _Nobody()

    def __init__(self) -> None:
        self.response_complete = False
        self.disconnected = False
        self.keep_alive = True


class PlainPosts(Connection):
    """A connection that answers plain POSTs of documents by itself."""

    def __init__(self, *arguments: Any, ingest: Ingest, max_bytes: int, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._ingest = ingest
        self._max_bytes = min(max_bytes, _MAX_BYTES)
        self._plain: RequestHeaders | None = None
        self._body = b""
        self._given: list[tuple[bytes, bytes]] = []
        self._defaults: list[tuple[bytes, bytes]] | None = None
        self._lines = b""

    def on_message_begin(self) -> None:
        # What uvicorn does besides, it does in `_hand_over` where it is needed.
        self.url = b""
        self.expect_100_continue = False
        self.headers = []
        self.message_began()

    def on_headers_complete(self) -> None:
        self.headers_ended()
        self._given, self._body = self.headers, b""
        self._plain = self._plain_headers()
        if self._plain is None:
            self._hand_over()
        self.ignore_trailers()

    def shutdown(self) -> None:
        if self._plain is not None:
            # Its body is on its way, and uvicorn closes only who owes nothing.
            self._plain = None
            self._hand_over()
        super().shutdown()

    def on_body(self, body: bytes) -> None:
        if self._plain is None:
            super().on_body(body)
        else:
            self._body = self._body + body if self._body else body

    def on_message_complete(self) -> None:
        if self._plain is None:
            super().on_message_complete()
            return
        headers, self._plain = self._plain, None
        turn = _Turn()
        name = self.url[len(_PREFIX) :].decode("latin-1")
        if self._ingest.begin(name, headers, self._body, partial(self._answer, turn, headers.request_id)):
            self.owes_body_since = None
            self.cycle = turn  # type: ignore[assignment]
        else:
            self._hand_over()
            super().on_message_complete()
        self._body = b""

    def _plain_headers(self) -> RequestHeaders | None:
        """Return the headers of a request that may be plain."""
        if not self.url.startswith(_PREFIX) or self.parser.get_method() != b"POST":
            return None
        if not (self.cycle is None or self.cycle.response_complete) or self.flow.write_paused:
            return None
        if not self.parser.should_keep_alive() or self.parser.get_http_version() != "1.1":
            return None
        given = dict(self._given)
        if not _NOT_PLAIN.isdisjoint(given):
            return None
        try:
            headers = read_headers(given)
        except RequestError:
            return None
        return headers if headers.length is not None and headers.length <= self._max_bytes else None

    def _hand_over(self) -> None:
        """Let uvicorn have the request, with what has come of its body."""
        url, expects = self.url, self.expect_100_continue
        HttpToolsProtocol.on_message_begin(self)
        self.url, self.expect_100_continue = url, expects
        self.scope["headers"] = self.headers = self._given
        HttpToolsProtocol.on_headers_complete(self)
        if self._body:
            super().on_body(self._body)

    def _answer(self, turn: _Turn, wanted_id: bytes | None, begun: Begun, error: BaseException | None) -> None:
        request_id = request_id_of(wanted_id)
        # Also where nobody is there any more: it is on disk, and counts.
        status, body, more = self._ingest.end(begun, error, request_id)
        turn.response_complete = True
        if turn.disconnected or self.wire.is_closing():
            return
        closes = self._ingest.draining or not turn.keep_alive
        # At once and whole, so there is nothing to join.
        self.wire.write(
            b"%b%b%b%bcontent-length: %d\r\nx-request-id: %b\r\n%b\r\n%b"
            % (
                STATUS_LINE[status],
                self._default_lines(),
                b"".join([b"%b: %b\r\n" % header for header in more]),
                LINES,
                len(body),
                request_id.encode(),
                b"connection: close\r\n" if closes else b"",
                body,
            )
        )
        if closes:
            self.transport.close()
        self.answered()

    def _default_lines(self) -> bytes:
        """Return uvicorn's own headers as they are written; it makes a new list of them each second, for the date."""
        given = self.server_state.default_headers
        if given is not self._defaults:
            self._defaults, self._lines = given, b"".join([b"%b: %b\r\n" % header for header in given])
        return self._lines


def plain_posts(ingest: Ingest, limits: GatewaySettings) -> Callable[..., PlainPosts]:
    """Return what makes the connections of a server (`serving`)."""
    return partial(PlainPosts, ingest=ingest, max_bytes=limits.body_max_bytes)
