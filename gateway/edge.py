"""What every answer of FastAPI's side has in common: request id, security headers, a count, and never a traceback."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from typing import Any, Final

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.body import ClientGoneError
from gateway.door import Door
from gateway.hardened import HEADERS
from gateway.ingest import App
from gateway.problems import internal, problem, request_id_of
from headrace import telemetry

log = telemetry.logger(__name__)

# Anything else would let clients make metrics without end.
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Edge:
    """Outermost middleware of the FastAPI application."""

    def __init__(self, app: ASGIApp, door: Door) -> None:
        self._app = app
        self._door = door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = next((value for name, value in scope["headers"] if name == b"x-request-id"), None)
        request_id = request_id_of(given)
        state: MutableMapping[str, Any] = scope.setdefault("state", {})
        state["request_id"] = request_id
        head_only = scope["method"] == "HEAD"
        status = 0

        async def finish(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = self._headers(message["headers"], request_id)
            elif head_only:
                message = {**message, "body": b""}
            await send(message)

        # RFC 9110, 9.3.2: HEAD is GET without the body; FastAPI's routes know only GET.
        inner = {**scope, "method": "GET"} if head_only else scope
        try:
            await self._app(inner, receive, finish)
        except ClientGoneError:
            return
        except Exception:
            log.exception("request_failed", request_id=request_id, route=_template(inner))
            if not status:
                body, headers = problem(internal(request_id), request_id)
                headers.append((b"content-length", str(len(body)).encode()))
                await finish({"type": "http.response.start", "status": 500, "headers": headers})
                await finish({"type": "http.response.body", "body": body})
        method = scope["method"] if scope["method"] in _METHODS else "other"
        telemetry.http_requests.labels(_template(inner), method, str(status)).inc()

    def _headers(self, found: Sequence[tuple[bytes, bytes]], request_id: str) -> list[tuple[bytes, bytes]]:
        names = {name for name, _ in found}
        headers = [*found, (b"x-request-id", request_id.encode())]
        headers += [(name, value) for name, value in HEADERS if name not in names]
        if self._door.draining:
            headers.append((b"connection", b"close"))
        return headers


def cross_origin(app: App, origins: Sequence[str]) -> App:
    """Return the application, open to browsers on these origins; wraps the whole door, the hot route included.

    Never with credentials: callers send tokens, not cookies.
    """
    if not origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=["GET", "POST", "DELETE"],
        allow_headers=[
            "Authorization",
            "Content-Type",
            "Idempotency-Key",
            "If-None-Match",
            "Prefer",
            "X-Request-Id",
            "ce-id",
            "ce-source",
            "ce-specversion",
            "ce-time",
            "ce-type",
        ],
        expose_headers=["ETag", "Link", "Location", "Preference-Applied", "Retry-After", "X-Request-Id"],
        max_age=600,
    )


def _template(scope: Scope) -> str:
    """Return the path of the route that was taken, never the request's own, which would be without end."""
    return getattr(scope.get("route"), "path", "unmatched")
