"""The error tree: caught by whose fault it is, and able to travel between services.

HeadraceError
├── RequestError            the caller's request: 4xx, never retried as it is
│   ├── DocumentError       the document cannot go on: 422, dead-lettered behind the door
│   ├── AccessError         the caller may not: 401, 403
│   └── RateError           the caller's own quota: 429
└── UnavailableError        we cannot now, or do not know the outcome: 503, retried

Each error has a stable `code`; the class gives its default and its HTTP status.
Anything outside this tree is a bug.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import msgspec


class FieldError(msgspec.Struct, frozen=True):
    """One broken rule: where (RFC 6901 pointer), which, and what to do about it."""

    pointer: str
    code: str
    message: str


class HeadraceError(Exception):
    """Base of all errors that Headrace means to raise.

    Args:
        detail: one sentence for the caller; never holds a secret or a document's body.
        code: stable snake_case name; the class's own by default.
        status: HTTP status; the class's own by default.
        errors: the broken rules, for bad input.
        retry_after_seconds: when it makes sense to try again.
    """

    default_code: ClassVar[str] = "internal_error"
    default_status: ClassVar[int] = 500

    def __init__(
        self,
        detail: str,
        *,
        code: str | None = None,
        status: int | None = None,
        errors: Iterable[FieldError] = (),
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.code = code or self.default_code
        self.status = status or self.default_status
        self.errors = tuple(errors)
        self.retry_after_seconds = retry_after_seconds


class RequestError(HeadraceError):
    default_code = "bad_request"
    default_status = 400


class DocumentError(RequestError):
    default_code = "invalid_document"
    default_status = 422


class AccessError(RequestError):
    default_code = "unauthenticated"
    default_status = 401


class RateError(RequestError):
    default_code = "rate_limited"
    default_status = 429


class UnavailableError(HeadraceError):
    default_code = "unavailable"
    default_status = 503


TITLES = {
    400: "Bad request",
    401: "Not authenticated",
    403: "Not allowed",
    404: "Not found",
    405: "Method not allowed",
    406: "Not acceptable",
    408: "Too slow",
    409: "Conflict",
    413: "Too large",
    415: "Unsupported media type",
    422: "Invalid input",
    429: "Too many requests",
    500: "Internal error",
    503: "Unavailable",
}


def problem_of(error: HeadraceError) -> dict[str, Any]:
    """Return the error as an RFC 9457 problem, without `request_id`, which only the door knows."""
    problem: dict[str, Any] = {
        "type": f"urn:headrace:problem:{error.code}",
        "title": TITLES.get(error.status, "Error"),
        "status": error.status,
        "detail": error.detail,
        "code": error.code,
    }
    if error.errors:
        problem["errors"] = [msgspec.structs.asdict(field) for field in error.errors]
    if error.retry_after_seconds is not None:
        problem["retry_after_seconds"] = error.retry_after_seconds
    return problem


def error_of(problem: dict[str, Any]) -> HeadraceError:
    """Return the error that a problem from another service speaks of; the inverse of `problem_of`."""
    status = int(problem.get("status", 500))
    kind: type[HeadraceError] = HeadraceError
    if status in (401, 403):
        kind = AccessError
    elif status == 422:
        kind = DocumentError
    elif status == 429:
        kind = RateError
    elif status == 503:
        kind = UnavailableError
    elif 400 <= status < 500:
        kind = RequestError
    return kind(
        str(problem.get("detail", "")),
        code=str(problem.get("code", kind.default_code)),
        status=status,
        errors=[FieldError(**field) for field in problem.get("errors", ())],
        retry_after_seconds=problem.get("retry_after_seconds"),
    )
