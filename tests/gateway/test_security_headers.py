"""The headers that protect, family by family, as a whole: one that is lost or weakened shows here."""

from __future__ import annotations

from typing import Final

import pytest

from tests.gateway.system import Gateway

_API: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_PAGE: Final = {
    **_API,
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "same-origin",
}
_DOCS: Final = {
    **_API,
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
}
_FILE: Final = {**_API, "Cache-Control": "public, max-age=3600"}
FAMILIES: Final = {
    "GET /v1/pipelines": _API,
    "GET /v1/auth/me": _API,
    "GET /v1/documents/invoices": _API,
    "GET /v1/analytics/invoices": _API,
    "GET /v1/dead-letters": _API,
    "GET /users": _API,
    "GET /healthz": _API,
    "GET /version": _API,
    "GET /openapi.json": _API,
    "GET /no/such/place": _API,
    "DELETE /version": _API,
    "GET /docs": _DOCS,
    "GET /docs/docs.css": _FILE,
    "GET /login": _PAGE,
    "GET /forms": _PAGE,
    "POST /forms/invoices": _PAGE,
    "GET /results/invoices": _PAGE,
    "GET /pages/nothing": _PAGE,
    "GET /pages/pages.css": _FILE,
}
_WATCHED: Final = sorted({name for headers in FAMILIES.values() for name in headers})
# What would tell an attacker what runs here, or let other sites in.
_NEVER: Final = ("Server", "X-Powered-By", "Access-Control-Allow-Origin", "Access-Control-Allow-Credentials")


@pytest.mark.parametrize("asked", sorted(FAMILIES))
async def test_a_route_of_each_family_answers_with_these_headers_and_no_weaker(gateway: Gateway, asked: str) -> None:
    method, path = asked.split()
    _, _, headers = await gateway.ask(method, path)

    assert {name: headers[name] for name in _WATCHED if name in headers} == FAMILIES[asked]
    assert [name for name in _NEVER if name in headers] == []
