"""The whole door before the real auth and analytics, so that the stand-ins of the other tests tell no tales."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, TypeVar

import msgspec
import pytest
from pydantic import SecretStr, TypeAdapter

import analytics.service
import auth.service
from gateway.answers.accounts import Account, ApiKey, AuditPage, Caller, NewApiKey, Tokens
from gateway.answers.analytics import MetricAnswer, MetricsAnswer
from gateway.answers.dead_letters import DeadLetterGroup, DeadLetterPage
from gateway.answers.documents import DocumentPage, DocumentState, Receipt
from gateway.answers.jobs import JobList
from gateway.answers.operations import Ledger, Mesh
from gateway.answers.pipelines import PipelineList
from headrace.registry import Pipelines
from headrace.settings import AuthSettings, Settings
from headrace.tokens import PRINCIPAL_HEADER, Principal
from tests.gateway.system import Gateway, running
from tests.servers import DEADLINE_SECONDS

LOGIN = {"username": "ada", "password": "a mill needs water"}

Kind = TypeVar("Kind")


@pytest.fixture
async def whole(settings: Settings, pipelines: Pipelines) -> AsyncIterator[Gateway]:
    """A door with the real services behind it, and an administrator."""
    administrator = AuthSettings(bootstrap_admin="root", bootstrap_password=SecretStr(LOGIN["password"]))
    settings = settings.model_copy(update={"auth": administrator})
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        for service in (auth.service.run, analytics.service.run):
            tasks.create_task(service(settings, stop))
        async with running(settings, pipelines, services=()) as gateway:
            await ready(gateway)
            yield gateway
        stop.set()


async def test_an_account_lives_through_the_door(whole: Gateway) -> None:
    status, body, _ = await whole.ask("POST", "/v1/auth/register", json=LOGIN)
    assert status == 201
    account = read(Account, body)
    assert account.username == "ada"

    _, problem, _ = await whole.problem("POST", "/v1/auth/register", json=LOGIN)
    assert (problem["status"], problem["code"]) == (409, "username_taken")
    _, problem, _ = await whole.problem("POST", "/v1/auth/register", json={"username": "bob", "password": "x"})
    assert (problem["status"], problem["code"]) == (422, "weak_password")
    _, problem, _ = await whole.problem("POST", "/v1/auth/token", json={**LOGIN, "password": "wrong"})
    assert (problem["status"], problem["code"]) == (401, "invalid_credentials")

    status, body, headers = await whole.ask("POST", "/v1/auth/token", data={"grant_type": "password", **LOGIN})
    assert (status, headers["Cache-Control"]) == (200, "no-store")
    tokens = read(Tokens, body)
    status, body, _ = await whole.ask("GET", "/v1/auth/me", key=tokens.access_token)
    assert (status, read(Caller, body).username) == (200, "ada")

    status, body, _ = await whole.ask(
        "POST",
        "/v1/auth/keys",
        key=tokens.access_token,
        json={"name": "importer", "scopes": ["documents:write:searches"]},
    )
    assert status == 201
    key = read(NewApiKey, body)
    status, body, _ = await whole.ask("GET", "/v1/auth/keys", key=tokens.access_token)
    assert [one.id for one in read(list[ApiKey], body)] == [key.id]
    assert (await whole.ask("GET", "/v1/pipelines", key=key.key))[0] == 200
    assert (await whole.ask("GET", "/v1/ledger", key=key.key))[0] == 403
    assert (await whole.ask("DELETE", f"/v1/auth/keys/{key.id}", key=tokens.access_token))[0] == 204
    await refused(whole, key.key)

    status, body, _ = await whole.ask("POST", "/v1/auth/refresh", json={"refresh_token": tokens.refresh_token})
    second = read(Tokens, body)
    form = {"grant_type": "refresh_token", "refresh_token": second.refresh_token}
    status, body, _ = await whole.ask("POST", "/v1/auth/token", data=form)
    third = read(Tokens, body)
    assert (await whole.ask("POST", "/v1/auth/revoke", json={"token": third.refresh_token}))[0] == 204
    await refused(whole, third.access_token)


async def test_what_analytics_answers_is_what_the_description_promises(whole: Gateway) -> None:
    _, body, _ = await whole.ask("POST", "/v1/auth/token", json={**LOGIN, "username": "root"})
    token = read(Tokens, body).access_token
    example = dict(whole.door.pipelines["searches"].example)
    status, body, headers = await whole.ask("POST", "/v1/documents/searches", key=token, json=example)
    assert status == 202
    receipt = read(Receipt, body)
    assert headers["Location"] == receipt.links.self

    promised: dict[str, Any] = {
        receipt.links.self: DocumentState,
        "/v1/documents/searches?limit=1&sort=-hotel_id": DocumentPage,
        "/v1/analytics/searches": MetricsAnswer,
        "/v1/analytics/searches/users": MetricAnswer,
        "/v1/analytics/searches/per_minute": MetricAnswer,
        "/v1/dead-letters": DeadLetterPage,
        "/v1/dead-letters/groups": list[DeadLetterGroup],
        "/v1/ledger": Ledger,
        "/v1/jobs": JobList,
        "/v1/mesh": Mesh,
        "/v1/pipelines": PipelineList,
    }
    for path, kind in promised.items():
        status, body, _ = await whole.ask("GET", path, key=token)
        assert status == 200, (path, body)
        read(kind, body)
    for view in whole.door.pipelines["searches"].views:
        assert (await whole.ask("GET", view.path, key=token))[0] == 200

    status, body, headers = await whole.ask("GET", "/v1/analytics/searches/users", key=token)
    tag = {"If-None-Match": headers["ETag"]}
    assert (await whole.ask("GET", "/v1/analytics/searches/users", key=token, headers=tag))[0] == 304

    for path, status, code in (
        ("/v1/documents/searches?hotel=1", 422, "unknown_field"),
        ("/v1/documents/searches?cursor=x", 422, "invalid_cursor"),
        ("/v1/documents/searches/17", 404, "document_not_found"),
        ("/v1/analytics/searches/nothing", 404, "unknown_metric"),
        ("/v1/dead-letters/17", 404, "dead_letter_not_found"),
    ):
        found, problem, _ = await whole.problem("GET", path, key=token)
        assert (found, problem["code"]) == (status, code)


async def test_a_disabled_user_and_an_old_password_are_refused_at_the_door_within_a_second(whole: Gateway) -> None:
    async def log_in(name: str, password: str = LOGIN["password"]) -> str:
        _, body, _ = await whole.ask("POST", "/v1/auth/token", json={"username": name, "password": password})
        return read(Tokens, body).access_token

    root = await log_in("root")
    await whole.ask("POST", "/v1/auth/register", json=LOGIN)
    token = await log_in("ada")
    wrong = {"old_password": "guess again", "new_password": "the wheel turns at dawn"}
    status, problem, _ = await whole.problem("POST", "/v1/auth/password", key=token, json=wrong)
    assert (status, problem["code"]) == (403, "wrong_password")
    right = {**wrong, "old_password": LOGIN["password"]}
    assert (await whole.ask("POST", "/v1/auth/password", key=token, json=right))[0] == 204
    await refused(whole, token)

    token = await log_in("ada", right["new_password"])
    status, body, _ = await whole.ask(
        "POST", "/v1/auth/keys", key=token, json={"name": "k", "scopes": ["documents:read"]}
    )
    key = read(NewApiKey, body).key
    assert (await whole.ask("GET", "/v1/pipelines", key=key))[0] == 200
    operator = {PRINCIPAL_HEADER: Principal("operator", frozenset({"admin"}), "", "", 0).encode()}
    await whole.door.ask("auth", "users.disable", {"username": "ada"}, headers=operator)
    began = asyncio.get_running_loop().time()
    await refused(whole, token)
    await refused(whole, key)
    assert asyncio.get_running_loop().time() - began < DEADLINE_SECONDS / 2

    status, body, headers = await whole.ask("GET", "/v1/audit?account=ada&limit=2", key=root)
    assert status == 200, body
    page = read(AuditPage, body)
    assert [entry.action for entry in page.items] == ["user_disabled", "key_created"]
    assert headers["Link"] == f'</v1/audit?account=ada&limit=2&cursor={page.next}>; rel="next"'


def read(kind: type[Kind], body: bytes) -> Kind:
    return TypeAdapter(kind).validate_json(body)


async def ready(gateway: Gateway) -> None:
    """Return as soon as everything is there."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while True:
            _, body, _ = await gateway.ask("GET", "/readyz")
            if msgspec.json.decode(body)["status"] == "ready":
                return
            await asyncio.sleep(0.05)


async def refused(gateway: Gateway, key: str) -> None:
    """Return as soon as a token is refused."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while True:
            status, _, _ = await gateway.ask("GET", "/v1/pipelines", key=key)
            if status == 401:
                return
            await asyncio.sleep(0.02)
