"""What a route passes on to a service that judges a request's body itself: the body as it came, and who asks."""

from __future__ import annotations

from typing import Final

import msgspec
from fastapi import Request

from gateway.body import read_body
from gateway.headers import read_headers
from headrace.errors import RequestError
from headrace.messaging.mesh import REQUEST_ID_HEADER
from headrace.tokens import CLIENT_HEADER, PRINCIPAL_HEADER

JSON: Final = b"application/json"


def asker(request: Request) -> dict[str, str]:
    """Return what a service is told beside the payload: who asks, from where, and under which id."""
    headers = {REQUEST_ID_HEADER: request.state.request_id}
    if request.client is not None:
        headers[CLIENT_HEADER] = request.client.host[:64]
    principal = getattr(request.state, "principal", None)
    if principal is not None:
        headers[PRINCIPAL_HEADER] = principal.encode()
    return headers


async def body_of(request: Request, limit_bytes: int) -> tuple[bytes | None, bytes]:
    """Return media type and body.

    Raises:
        RequestError: 413 too large, 415 compressed.
    """
    headers = read_headers(request.headers.raw)
    return headers.media_type, await read_body(request.receive, headers, limit_bytes)


async def json_of(request: Request, limit_bytes: int) -> msgspec.Raw:
    """Return the body as it came; what it says is for the service to judge.

    Raises:
        RequestError: 413 too large, 415 no JSON.
    """
    media_type, body = await body_of(request, limit_bytes)
    if media_type not in (None, JSON):
        raise unsupported(JSON.decode())
    return msgspec.Raw(body)


def unsupported(wanted: str) -> RequestError:
    return RequestError(
        f"Send {wanted}. With curl: -H 'Content-Type: {JSON.decode()}'.", code="unsupported_media_type", status=415
    )
