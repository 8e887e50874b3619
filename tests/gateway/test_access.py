"""Who gets in where: every route, asked by every kind of caller. A route that is not in the table fails."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any, Final

import msgspec
import pytest
from fastapi import FastAPI

from gateway.routes.views import scope_of
from gateway.routing import access_of, declared
from headrace.messaging.mesh import Reply
from headrace.tokens import NARROWABLE
from tests.gateway.browser import browsing
from tests.gateway.system import ANALYTICS, AUTH, Gateway, checked_problem

EVERYBODY: Final = ""
ANY_TOKEN: Final = "any"

# What each route needs, written down once more: the code must not be its own judge.
TABLE: Final = {
    "POST /v1/auth/register": EVERYBODY,
    "POST /v1/auth/token": EVERYBODY,
    "POST /v1/auth/refresh": EVERYBODY,
    "POST /v1/auth/revoke": EVERYBODY,
    "POST /v1/auth/password": ANY_TOKEN,
    "GET /v1/audit": "admin",
    "GET /v1/auth/me": ANY_TOKEN,
    "POST /v1/auth/keys": ANY_TOKEN,
    "GET /v1/auth/keys": ANY_TOKEN,
    "DELETE /v1/auth/keys/{id}": ANY_TOKEN,
    "GET /v1/documents/{pipeline}": "documents:read",
    "GET /v1/documents/{pipeline}/{id}": "documents:read",
    "GET /v1/pipelines": ANY_TOKEN,
    "GET /v1/pipelines/{pipeline}": ANY_TOKEN,
    "GET /v1/schemas": ANY_TOKEN,
    "GET /v1/schemas/{pipeline}": ANY_TOKEN,
    "GET /v1/analytics/{pipeline}": "analytics:read",
    "GET /v1/analytics/{pipeline}/{metric}": "analytics:read",
    "GET /v1/analyses/{pipeline}": "analytics:read",
    "GET /v1/jobs": "analytics:read",
    "GET /v1/jobs/{name}": "analytics:read",
    "GET /v1/jobs/{name}/runs": "analytics:read",
    "GET /v1/jobs/{name}/runs/{id}": "analytics:read",
    "POST /v1/jobs/{name}/runs": "admin",
    "POST /v1/jobs/{name}/pause": "admin",
    "POST /v1/jobs/{name}/resume": "admin",
    "GET /v1/dead-letters": "dead:read",
    "GET /v1/dead-letters/groups": "dead:read",
    "GET /v1/dead-letters/audit": "dead:read",
    "GET /v1/dead-letters/replays/{id}": "dead:read",
    "GET /v1/dead-letters/{id}": "dead:read",
    "POST /v1/dead-letters/replay": "dead:write",
    "DELETE /v1/dead-letters": "dead:write",
    "GET /v1/ledger": "analytics:read",
    "GET /v1/mesh": "analytics:read",
    "GET /": EVERYBODY,
    "GET /healthz": EVERYBODY,
    "GET /readyz": EVERYBODY,
    "GET /metrics": EVERYBODY,
    "GET /version": EVERYBODY,
    "GET /openapi.json": EVERYBODY,
    "GET /docs": EVERYBODY,
    "GET /docs/{file}": EVERYBODY,
    "GET /pages/{file}": EVERYBODY,
}
ANY_SESSION: Final = "any"
# Pages ask for a session in place of a token, and send away with a redirect or a page.
PAGES: Final = {
    "GET /login": EVERYBODY,
    "POST /login": EVERYBODY,
    "POST /logout": ANY_SESSION,
    "GET /forms": ANY_SESSION,
    "GET /forms/{pipeline}": "documents:write",
    "POST /forms/{pipeline}": "documents:write",
    # With either scope; what it tells, only documents:read is told.
    "GET /forms/{pipeline}/{id}": ANY_SESSION,
    "GET /results": ANY_SESSION,
    "GET /results/{pipeline}": "analytics:read",
}
# The hot route stands before FastAPI, so it is in no list of routes.
_IN_PATH: Final = {"pipeline": "searches", "metric": "users"}
HOT: Final = {"POST /v1/documents/{pipeline}": "documents:write"}


def views(gateway: Gateway) -> dict[str, tuple[str, str]]:
    """Return what the pipelines' own routes need, and of which pipeline."""
    return {
        f"{view.method} {view.path}": (scope_of(view), pipeline.name)
        for pipeline in gateway.door.pipelines.values()
        for view in pipeline.views
    }


def needs(gateway: Gateway) -> Iterator[tuple[str, str, str | None]]:
    """Yield every route that is served, what it needs, and the pipeline whose scope is enough."""
    own = views(gateway)
    for route in declared(gateway.app):
        for method in route.methods or ():
            name = f"{method} {route.path}"
            if name not in own and name not in PAGES:
                yield name, TABLE[name], "searches" if "{pipeline}" in name else None
    for name, need in HOT.items():
        yield name, need, "searches"
    for name, (need, pipeline) in own.items():
        yield name, need, pipeline


def callers(gateway: Gateway, need: str, pipeline: str | None) -> Iterator[tuple[str, str | None, int | None]]:
    """Yield every kind of caller, its token, and the status that sends it away; None where it is let in."""
    everything = ["documents:write", "documents:read", "analytics:read", "dead:read", "dead:write"]
    scoped = need not in (EVERYBODY, ANY_TOKEN)
    yield "nobody", None, 401 if need else None
    yield "a stranger", f"hr_{16 * '0'}_{43 * 'x'}", 401 if need else None
    yield "no token at all", "nonsense", 401 if need else None
    yield "no scope", gateway.key(), 403 if scoped else None
    others = [scope for scope in everything if scope != need]
    yield "every other scope", gateway.key(*others), 403 if scoped else None
    yield "an administrator", gateway.key("admin"), None
    if scoped:
        yield "the scope", gateway.key(need), None
        yield "a longer name", gateway.key(f"{need}x"), 403
    if need in NARROWABLE:
        yield "another pipeline's scope", gateway.key(f"{need}:elsewhere"), 403
        yield "the pipeline's scope", gateway.key(f"{need}:{pipeline or 'searches'}"), None if pipeline else 403


async def test_every_route_lets_in_whom_it_should_and_nobody_else(gateway: Gateway) -> None:
    for endpoint in (*AUTH, *ANALYTICS):
        if endpoint not in ("verify_key", "health"):
            gateway.auth.says(endpoint, {"keys": []})
            gateway.analytics.says(endpoint, {"items": [], "count": 0, "value": 0, "data": {}, "found": None})
    gateway.analytics.says("documents.rows", [])
    served, own = 0, views(gateway)
    for name, need, pipeline in needs(gateway):
        method, path = name.split()
        in_path = {**_IN_PATH, "file": "docs.css" if "/docs/" in path else "pages.css"}
        where = re.sub(r"\{(\w+)\}", lambda found, known=in_path: known.get(found[1], "x"), path)  # type: ignore[misc]
        for caller, key, refused in callers(gateway, need, pipeline):
            options: dict[str, Any] = {"json": {}} if method == "POST" else {}
            status, body, headers = await gateway.ask(method, where, key=key, **options)
            asked = f"{caller} asks {name}"
            if refused is None:
                assert status not in (401, 403, 500), asked
            else:
                assert status == refused, asked
            if status >= 400 and (name not in own or status in (401, 403)):
                checked_problem(status, body, headers)
            served += 1
    assert served > 200


async def test_every_page_lets_in_whom_it_should_and_nobody_else(gateway: Gateway) -> None:
    everything = ["documents:write", "documents:read", "analytics:read", "dead:read", "dead:write"]
    gateway.analytics.says("metrics", {"pipeline": "searches", "metrics": []})
    gateway.analytics.says("documents", {"items": [], "next": None})
    gateway.analytics.says("ledger", {"pipelines": {}})
    for name, need in PAGES.items():
        method, path = name.split()
        where = path.format(pipeline="searches", id="x")
        others = [scope for scope in everything if scope != need]
        for scopes, lets_in in (
            (None, need == EVERYBODY),
            (others, need in (EVERYBODY, ANY_SESSION)),
            ([f"{need}:elsewhere"], need in (EVERYBODY, ANY_SESSION)),
            ([f"{need}:searches"], True),
            (["admin"], True),
        ):
            if scopes and not need and scopes != others:
                continue
            async with browsing(gateway.url) as browser:
                if scopes is not None:
                    token = {"access_token": gateway.key(*scopes), "expires_in": 900, "refresh_token": "hrr_x"}
                    gateway.auth.says("token", token)
                    gateway.auth.says("revoke", {})
                    await browser.sign_in()
                options: dict[str, Any] = {"data": {"csrf": "none"}} if method == "POST" else {}
                cookie = {"Cookie": f"headrace_session={browser.cookie('headrace_session')}"} if scopes else {}
                status, body, headers = await gateway.ask(method, where, headers=cookie, **options)
            asked = f"{scopes} ask {name}"
            away = status == 303 and headers["Location"].startswith("/login?next=")
            without_scope = b"<code>scope_missing</code>" in body
            assert status < 500, asked
            assert away == (scopes is None and not lets_in), asked
            if path != "/forms/{pipeline}/{id}":
                assert without_scope == (scopes is not None and not lets_in), asked


async def test_every_route_is_in_the_table(gateway: Gateway) -> None:
    served = {f"{method} {route.path}" for route in declared(gateway.app) for method in route.methods or ()}

    assert served - set(views(gateway)) == {*TABLE, *PAGES}


async def test_a_route_that_declares_no_access_is_not_served() -> None:
    app = FastAPI()

    @app.get("/open")
    async def forgotten() -> None:
        pass

    with pytest.raises(LookupError, match="/open does not declare"):
        access_of(declared(app)[0])


async def test_a_token_that_lacks_a_scope_is_told_which(gateway: Gateway) -> None:
    _, problem, _ = await gateway.problem("GET", "/v1/analytics/searches", key=gateway.key("dead:read"))

    assert problem["code"] == "scope_missing"
    assert "analytics:read:searches" in problem["detail"]


async def test_a_key_is_asked_for_once_and_then_remembered(gateway: Gateway) -> None:
    key = gateway.key("admin")
    for _ in range(3):
        await gateway.ask("GET", "/v1/pipelines", key=key)

    asked = [payload for endpoint, payload, _ in gateway.auth.asked if endpoint == "verify_key"]
    assert asked.count({"key": key}) == 1


@pytest.mark.parametrize("jump_seconds", [-3600, 3600])
async def test_a_clock_that_is_set_neither_ends_nor_lengthens_what_is_remembered_of_a_key(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, jump_seconds: int
) -> None:
    key = gateway.key("admin")
    remembered = gateway.door.authenticator
    header = f"Bearer {key}".encode()
    real, monotonic = time.time, time.monotonic
    await gateway.ask("GET", "/v1/pipelines", key=key)
    monkeypatch.setattr("gateway.authenticate.time.time", lambda: real() + jump_seconds)
    kept = remembered.cached(header)
    lasts = gateway.door.settings.gateway.token_cache_seconds
    monkeypatch.setattr("gateway.authenticate.time.monotonic", lambda: monotonic() + lasts)
    forgotten = remembered.cached(header)
    monkeypatch.undo()

    assert kept is not None
    assert forgotten is None


async def test_a_principal_travels_to_auth_as_it_was_verified(gateway: Gateway) -> None:
    key = gateway.key("analytics:read", subject="grace")
    gateway.auth.answers["me"] = Reply(b"{}")
    await gateway.ask("GET", "/v1/auth/me", key=key)

    _, headers = gateway.auth.last("me")
    assert msgspec.json.decode(headers["Headrace-Principal"])["subject"] == "grace"
    assert headers["Headrace-Client"] == "127.0.0.1"
