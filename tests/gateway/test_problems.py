"""Every refusal is a problem, whoever refuses: the router, a guard, a rule of a parameter, a service, a bug."""

from __future__ import annotations

from typing import Any

import pytest

from headrace.errors import DocumentError, FieldError, HeadraceError, RateError, UnavailableError
from headrace.messaging.mesh import Request as MeshRequest
from tests.gateway.system import Gateway

BIG = b'{"username": "' + b"x" * 20_000 + b'"}'

REFUSALS: list[tuple[str, str, dict[str, Any], int, str]] = [
    ("GET", "/nothing", {}, 404, "not_found"),
    ("GET", "/v1/pipelines/", {}, 404, "not_found"),
    ("GET", "/docs/secret.txt", {}, 404, "not_found"),
    ("GET", "/docs/..%2fdocs.html", {}, 404, "not_found"),
    ("GET", "/v1/pipelines/nothing", {}, 404, "unknown_pipeline"),
    ("GET", "/v1/documents/nothing", {}, 404, "unknown_pipeline"),
    ("GET", "/v1/documents/nothing/1", {}, 404, "unknown_pipeline"),
    ("GET", "/v1/analytics/nothing", {}, 404, "unknown_pipeline"),
    ("GET", "/v1/analytics/nothing/users", {}, 404, "unknown_pipeline"),
    ("PUT", "/v1/ledger", {}, 405, "method_not_allowed"),
    ("PROPFIND", "/v1/ledger", {}, 405, "method_not_allowed"),
    ("POST", "/v1/documents/searches/1", {}, 405, "method_not_allowed"),
    ("POST", "/v1/auth/register", {"data": BIG}, 413, "too_large"),
    ("POST", "/v1/auth/token", {"data": BIG}, 413, "too_large"),
    ("POST", "/v1/auth/register", {"data": {"username": "ada"}}, 415, "unsupported_media_type"),
    (
        "POST",
        "/v1/auth/token",
        {"data": b"<login/>", "headers": {"Content-Type": "text/xml"}},
        415,
        "unsupported_media_type",
    ),
    ("POST", "/v1/auth/token", {"data": b"x", "headers": {"Content-Encoding": "gzip"}}, 415, "unsupported_encoding"),
    ("POST", "/v1/auth/token", {"data": {"grant_type": "client_credentials"}}, 400, "unsupported_grant_type"),
    ("POST", "/v1/auth/token", {"data": [("username", "a"), ("username", "b")]}, 422, "invalid_request"),
    (
        "POST",
        "/v1/auth/token",
        {"data": b"a=%ff", "headers": {"Content-Type": "application/x-www-form-urlencoded"}},
        422,
        "invalid_request",
    ),
    ("GET", "/v1/documents/searches?limit=0", {}, 422, "invalid_request"),
    ("GET", "/v1/documents/searches?limit=1001", {}, 422, "invalid_request"),
    ("GET", "/v1/documents/searches?limit=ten", {}, 422, "invalid_request"),
    ("GET", "/v1/documents/searches?hotel_id=1&hotel_id=2", {}, 422, "invalid_request"),
    ("GET", "/v1/analytics/searches?limit=-1", {}, 422, "invalid_request"),
    ("GET", "/v1/analytics/searches/users?limit=100001", {}, 422, "invalid_request"),
    ("GET", "/v1/documents/searches?cursor=", {}, 422, "invalid_request"),
    ("GET", "/v1/dead-letters?limit=0", {}, 422, "invalid_request"),
]


@pytest.mark.parametrize(("method", "path", "options", "status", "code"), REFUSALS)
async def test_a_refusal_is_a_problem(
    gateway: Gateway, method: str, path: str, options: dict[str, Any], status: int, code: str
) -> None:
    found, problem, _ = await gateway.problem(method, path, key=gateway.key("admin"), **options)

    assert (found, problem["code"]) == (status, code)


async def test_a_broken_parameter_is_named(gateway: Gateway) -> None:
    _, problem, _ = await gateway.problem("GET", "/v1/dead-letters?limit=0", key=gateway.key("admin"))

    assert [error["pointer"] for error in problem["errors"]] == ["/limit"]


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/v1/auth/keys", "GET, HEAD, POST"),
        ("/v1/auth/token", "POST"),
        ("/v1/documents/searches", "GET, HEAD, POST"),
        ("/v1/documents/searches/1", "GET, HEAD"),
        ("/users", "GET, HEAD"),
    ],
)
async def test_a_405_names_every_method_that_the_path_takes(gateway: Gateway, path: str, allowed: str) -> None:
    status, _, headers = await gateway.problem("PATCH", path)

    assert (status, headers["Allow"]) == (405, allowed)


SERVICE_ERRORS: list[HeadraceError] = [
    DocumentError("No such field.", code="unknown_field", errors=[FieldError("/x", "unknown_field", "Leave it.")]),
    RateError("Slowly.", code="too_many_logins", retry_after_seconds=7.2),
    UnavailableError("Postgres is away.", code="postgres_unavailable"),
]


@pytest.mark.parametrize("error", SERVICE_ERRORS, ids=lambda error: error.code)
async def test_what_a_service_refuses_arrives_as_it_said_it(gateway: Gateway, error: HeadraceError) -> None:
    gateway.analytics.answers["ledger"] = error
    status, problem, headers = await gateway.problem("GET", "/v1/ledger", key=gateway.key("admin"))

    assert (status, problem["code"], problem["detail"]) == (error.status, error.code, error.detail)
    assert [one["pointer"] for one in problem.get("errors", [])] == [one.pointer for one in error.errors]
    if error.retry_after_seconds:
        assert headers["Retry-After"] == "8"


async def test_a_bug_in_a_service_tells_nothing_of_it(gateway: Gateway) -> None:
    def broken(_request: MeshRequest) -> Any:
        raise ZeroDivisionError("secret")

    gateway.analytics.answers["ledger"] = broken
    status, problem, _ = await gateway.problem("GET", "/v1/ledger", key=gateway.key("admin"))

    assert status == 500
    assert "secret" not in str(problem)


async def test_a_bug_in_the_gateway_tells_nothing_but_the_request_id(gateway: Gateway) -> None:
    # No list of metrics is `null`; the page that is expected of dead.list cannot be read from it.
    gateway.analytics.says("dead.list", "secret")
    status, problem, headers = await gateway.problem("GET", "/v1/dead-letters", key=gateway.key("admin"))

    assert (status, problem["code"]) == (500, "internal_error")
    assert headers["X-Request-Id"] in problem["detail"]
    assert "secret" not in str(problem)
    assert headers["X-Content-Type-Options"] == "nosniff"
