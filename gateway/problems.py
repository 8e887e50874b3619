"""Errors as HTTP: RFC 9457 problem details, for the hot route and for FastAPI alike."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from headrace import telemetry
from headrace.document import new_id
from headrace.errors import DocumentError, FieldError, HeadraceError, RequestError, problem_of
from headrace.schema import pointer_of
from headrace.views import ErrorShape, answered

log = telemetry.logger(__name__)

MEDIA_TYPE: Final = "application/problem+json"
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")

Headers = list[tuple[bytes, bytes]]


def request_id_of(value: bytes | None) -> str:
    """Return the client's request id if it is sane, else a new one."""
    if value is not None:
        text = value.decode("latin-1")
        if _REQUEST_ID.fullmatch(text):
            return text
    return new_id()


def problem(error: HeadraceError, request_id: str, **more: Any) -> tuple[bytes, Headers]:
    """Return body and headers of a problem; `more` are members of its own."""
    body = msgspec.json.encode({**problem_of(error), "request_id": request_id, **more})
    return body, _headers(error, MEDIA_TYPE)


def shaped(error: HeadraceError, shapes: Sequence[ErrorShape], request_id: str) -> tuple[int, bytes, Headers]:
    """Return status, body and headers of an error on a route that may answer it in a shape of its own."""
    try:
        own = answered(shapes, error)
        if own is not None:
            return own[0], msgspec.json.encode(own[1]), _headers(error, "application/json")
    except Exception:
        log.exception("error_shape_failed", request_id=request_id, code=error.code)
    return error.status, *problem(error, request_id)


def _headers(error: HeadraceError, media_type: str) -> Headers:
    headers: Headers = [(b"content-type", media_type.encode())]
    if error.status == 401:
        headers.append((b"www-authenticate", b'Bearer realm="headrace"'))
    if (seconds := retry_after(error)) is not None:
        headers.append((b"retry-after", seconds.encode()))
    return headers


def retry_after(error: HeadraceError) -> str | None:
    """Return what the header Retry-After says, or None where the same again would not do."""
    if error.status not in (429, 503):
        return None
    return str(max(1, math.ceil(error.retry_after_seconds or 1)))


def internal(request_id: str) -> HeadraceError:
    return HeadraceError(f"Something failed here; the log has it under request {request_id}.")


def install(app: FastAPI) -> None:
    """Make every error that FastAPI or Starlette answers a problem, but where a route says otherwise.

    `app.state.error_shapes` says it, by the path of the route.
    """
    app.state.error_shapes = {}

    async def ours(request: Request, error: Exception) -> Response:
        assert isinstance(error, HeadraceError)
        return response(request, error)

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return response(request, of_http(request, error))

    async def validation(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return response(request, _of_validation(error))

    app.add_exception_handler(HeadraceError, ours)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(RequestValidationError, validation)


def of_http(request: Request, error: HTTPException) -> RequestError:
    """Return what Starlette raised as our error."""
    path = request.url.path[:200]
    if error.status_code == 404:
        return RequestError(f"There is nothing at {path}; /docs lists what there is.", code="not_found", status=404)
    return RequestError(str(error.detail), code="bad_request", status=error.status_code)


def _of_validation(error: RequestValidationError) -> RequestError:
    found = error.errors()
    if any(item["type"] == "json_invalid" for item in found):
        return RequestError("The body is not JSON.", code="malformed_json")
    errors = [FieldError(pointer_of(tuple(item["loc"][1:])), item["type"], f"{item['msg']}.") for item in found]
    places = ", ".join(f"{item['loc'][0]} {'/'.join(map(str, item['loc'][1:]))}".strip() for item in found)
    return DocumentError(
        f"The request breaks the rules of this route: {places}.", code="invalid_request", errors=errors
    )


def response(request: Request, error: HeadraceError) -> Response:
    """Return an error as the request's route answers it."""
    request_id = getattr(request.state, "request_id", None) or request_id_of(_header(request, b"x-request-id"))
    shapes = request.app.state.error_shapes.get(getattr(request.scope.get("route"), "path", None), ())
    status, body, headers = shaped(error, shapes, request_id)
    return Response(body, status, {name.decode(): value.decode() for name, value in headers})


def _header(request: Request, name: bytes) -> bytes | None:
    return next((value for key, value in request.scope["headers"] if key == name), None)
