"""Errors travel between services as problems and come out as they went in."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from headrace.errors import (
    AccessError,
    DocumentError,
    FieldError,
    HeadraceError,
    RateError,
    RequestError,
    UnavailableError,
    error_of,
    problem_of,
)

BROKEN = [FieldError("/a/0", "missing", "Add it."), FieldError("", "model_type", "Send an object.")]


@pytest.mark.parametrize(
    "error",
    [
        HeadraceError("a"),
        RequestError("b"),
        RequestError("no", code="unknown_pipeline", status=404),
        RequestError("taken", code="conflict", status=409, errors=BROKEN[:1]),
        DocumentError("c", errors=BROKEN),
        AccessError("d"),
        AccessError("d", code="forbidden", status=403),
        RateError("e", retry_after_seconds=1.5),
        UnavailableError("f", code="stream_full", retry_after_seconds=5),
        UnavailableError("é", code="outcome_unknown"),
    ],
)
def test_an_error_survives_the_way(error: HeadraceError) -> None:
    found = error_of(msgspec.json.decode(msgspec.json.encode(problem_of(error))))

    assert type(found) is type(error)
    assert problem_of(found) == problem_of(error)
    assert (found.errors, found.retry_after_seconds) == (error.errors, error.retry_after_seconds)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            DocumentError("Bad.", errors=BROKEN[:1]),
            {
                "type": "urn:headrace:problem:invalid_document",
                "title": "Invalid input",
                "status": 422,
                "detail": "Bad.",
                "code": "invalid_document",
                "errors": [{"pointer": "/a/0", "code": "missing", "message": "Add it."}],
            },
        ),
        (
            UnavailableError("Later.", retry_after_seconds=2),
            {
                "type": "urn:headrace:problem:unavailable",
                "title": "Unavailable",
                "status": 503,
                "detail": "Later.",
                "code": "unavailable",
                "retry_after_seconds": 2,
            },
        ),
    ],
)
def test_a_problem_has_the_members_of_rfc_9457_and_no_empty_ones(
    error: HeadraceError, expected: dict[str, Any]
) -> None:
    assert json.loads(json.dumps(problem_of(error))) == expected


@pytest.mark.parametrize("problem", [{}, {"status": 418}, {"status": 599, "detail": "x"}])
def test_a_problem_of_an_unknown_kind_is_still_an_error(problem: dict[str, Any]) -> None:
    assert isinstance(error_of(problem), HeadraceError)
