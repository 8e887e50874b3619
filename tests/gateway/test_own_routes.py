"""Routes of the pipelines' own: parameters, documents, keys, POST aliases, errors in their shapes, answers kept."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from pydantic import BaseModel, ConfigDict, Field

from gateway.app import build
from gateway.routes.views import ViewError
from headrace.errors import HeadraceError, UnavailableError
from headrace.pipeline import (
    Count,
    ErrorShape,
    Intake,
    Latest,
    Listing,
    Lookup,
    Pipeline,
    Question,
    Report,
    View,
)
from headrace.topology import Topology
from headrace.views import Route
from tests.gateway.system import Gateway, gateway_settings, opened, running
from tests.gateway.test_ingest import on_disk
from tests.servers import Servers


class Position(BaseModel):
    model_config = ConfigDict(extra="forbid")

    order_id: str = Field(min_length=1)
    timestamp: datetime
    latitude: float = Field(ge=-90, le=90)


class Days(BaseModel):
    days: int = Field(30, ge=1, le=366, description="how far back")


class Wanted(BaseModel):
    order_id: str = Field(pattern="^[0-9a-z-]+$")
    latitude: float | None = None


def recent(answers: dict[str, Any], question: Question) -> Any:
    first = (question.now - timedelta(days=question.parameters.days)).date().isoformat()
    return {
        "total": answers["total"]["value"],
        "days": {k: n for k, n in answers["days"]["data"].items() if k >= first},
    }


def last(found: Any, question: Question) -> Any:
    return {"order": question.parameters.order_id, "data": [found]}


def failure(error: HeadraceError) -> Any:
    return {"error": f"Error calculating: {error.detail}"}


POSITION = {"order_id": "7", "timestamp": "2026-01-01T00:00:00Z", "latitude": 1.5}
POSITIONS = Pipeline(
    name="positions",
    accepts=Position,
    example=POSITION,
    metrics=[
        Count("total"),
        Count("days", by="timestamp"),
        Latest("last", by="order_id", at="timestamp", of=("latitude",)),
        Count("by_place", by=("order_id", "latitude")),
    ],
    views=[
        Report(path="/recent", metrics=("total", "days"), shape=recent, asks=Days, cache_seconds=3600),
        Lookup(
            path="/v1/positions/last/{order_id}",
            metric="last",
            key=("order_id",),
            shape=last,
            errors=[ErrorShape(on="5xx", status=500, shape=failure)],
        ),
        Lookup(
            path="/at/{order_id}",
            metric="by_place",
            key=("order_id", "latitude"),
            shape=lambda found, _: found,
            asks=Wanted,
        ),
        Listing(path="/v1/positions/track/{order_id}", where=("order_id",), sort="timestamp", limit=500),
        Listing(
            path="/positions",
            sort="-latitude",
            present=("latitude",),
            fields=("latitude", "order_id"),
            limit=50,
            per_page=10,
            shape=lambda found, question: {"page": question.parameters.page, "items": found},
        ),
        View(path="/broken", metric="last", shape=lambda answer: answer["nothing"]),
        Intake(
            path="/v1/positions/",
            status=200,
            text=True,
            shape=lambda receipt: {"status": "OK", "id": receipt["id"]},
            errors=[
                ErrorShape(on="malformed_json", status=400, shape=lambda _: {"status": "ERROR"}),
                ErrorShape(on="422", status=422, shape=lambda error: {"detail": [one.pointer for one in error.errors]}),
            ],
        ),
    ],
)
POST = "/v1/positions/"


@pytest.fixture(scope="module")
async def own(servers: Servers) -> AsyncIterator[Gateway]:
    settings = gateway_settings(servers.nats_url, f"g{secrets.token_hex(5)}")
    async with running(settings, {"positions": POSITIONS}) as gateway:
        yield gateway


@pytest.fixture
def key(own: Gateway) -> str:
    scopes = ("analytics:read:positions", "documents:read:positions", "documents:write:positions")
    return own.key(*scopes)


def asked(own: Gateway, endpoint: str) -> Any:
    return own.analytics.last(endpoint)[0]


async def test_a_report_has_several_metrics_its_parameters_and_the_time(own: Gateway, key: str) -> None:
    today = datetime.now(UTC).date()
    days = {(today - timedelta(days=n)).isoformat(): n for n in (0, 5, 40)}
    own.analytics.says("metric", {"value": 3, "data": days})
    status, body, headers = await own.ask("GET", "/recent?days=10", key=key)

    assert status == 200
    assert json.loads(body) == {"total": 3, "days": {(today - timedelta(days=n)).isoformat(): n for n in (0, 5)}}
    assert headers["ETag"]


@pytest.mark.parametrize(
    ("path", "pointer"),
    [
        ("/recent?days=0", "/days"),
        ("/recent?days=x", "/days"),
        ("/recent?days=1&days=2", "/days"),
        ("/at/%20", "/order_id"),
        ("/v1/positions/last/%00", "/order_id"),
        (f"/v1/positions/last/{'x' * 513}", "/order_id"),
    ],
)
async def test_a_parameter_that_breaks_its_rule_is_named(own: Gateway, key: str, path: str, pointer: str) -> None:
    status, problem, _ = await own.problem("GET", path, key=key)

    assert (status, problem["code"]) == (422, "invalid_request")
    assert [error["pointer"] for error in problem["errors"]] == [pointer]


async def test_one_key_of_a_metric_is_picked_by_the_path(own: Gateway, key: str) -> None:
    own.analytics.says("metric.key", {"found": {"at": "2026-01-01T00:00:00Z", "latitude": 1.5}})
    _, body, _ = await own.ask("GET", "/v1/positions/last/007", key=key)

    assert json.loads(body) == {"order": "007", "data": [{"at": "2026-01-01T00:00:00Z", "latitude": 1.5}]}
    assert asked(own, "metric.key") == {"pipeline": "positions", "metric": "last", "key": ["007"]}

    own.analytics.says("metric.key", {"found": None})
    _, body, _ = await own.ask("GET", "/v1/positions/last/8", key=key)
    assert json.loads(body) == {"order": "8", "data": [None]}


async def test_a_key_of_several_parts_is_written_as_documents_write_it(own: Gateway, key: str) -> None:
    own.analytics.says("metric.key", {"found": 2})
    for query, part in (("?latitude=1", "1.0"), ("", None)):
        assert (await own.ask("GET", f"/at/7{query}", key=key))[1] == b"2"
        assert asked(own, "metric.key")["key"] == ["7", part]


async def test_stored_documents_are_listed_by_a_field_of_the_path(own: Gateway, key: str) -> None:
    own.analytics.says("documents.rows", [{"_id": "x", **POSITION}])
    status, body, _ = await own.ask("GET", "/v1/positions/track/7", key=key)

    assert (status, json.loads(body)) == (200, [{"_id": "x", **POSITION}])
    assert asked(own, "documents.rows") == {
        "pipeline": "positions",
        "limit": 500,
        "skip": 0,
        "sort": "timestamp",
        "filters": {"order_id": "7"},
        "present": [],
        "fields": [],
    }


async def test_a_page_of_documents_is_what_was_asked_for(own: Gateway, key: str) -> None:
    own.analytics.says("documents.rows", [])
    assert (await own.ask("GET", "/positions?page=3&per_page=20", key=key))[1] == b'{"page":3,"items":[]}'
    found = asked(own, "documents.rows")
    assert (found["limit"], found["skip"], found["sort"]) == (20, 40, "-latitude")
    assert (found["present"], found["fields"]) == (["latitude"], ["latitude", "order_id"])
    for query in ("page=0", "per_page=51", "page=1.5", "page=1000001"):
        assert (await own.ask("GET", f"/positions?{query}", key=key))[0] == 422


async def test_an_answer_is_kept_until_something_new_is_stored(own: Gateway, key: str) -> None:
    topology = Topology(own.door.settings.namespace)

    async def total() -> int:
        _, body, _ = await own.ask("GET", "/recent?days=99", key=key)
        return int(json.loads(body)["total"])

    heard = asyncio.Event()
    own.door.receipts.on_stored.append(lambda pipeline: heard.set() if pipeline == "positions" else None)
    own.analytics.says("metric", {"value": 1, "data": {}})
    assert await total() == 1
    own.analytics.says("metric", {"value": 2, "data": {}})
    assert await total() == 1
    await own.door.bus.client.publish(topology.stored("facts", "elsewhere"), bytes(16))
    await own.door.bus.client.flush()
    assert await total() == 1
    await own.door.bus.client.publish(topology.stored("facts", "positions"), bytes(16))
    await asyncio.wait_for(heard.wait(), 30)

    assert await total() == 2
    assert asked(own, "metric")["fresh"] is True
    own.analytics.says("metric", {"value": 3, "data": {}})
    # News may have been missed while the bus was away.
    for tell in own.door.bus.on_reconnect:
        tell()
    assert await total() == 3


async def test_a_failure_is_answered_in_the_routes_own_shape_and_not_kept(own: Gateway, key: str) -> None:
    own.analytics.answers["metric.key"] = UnavailableError("Postgres is away.", code="postgres_unavailable")
    status, body, headers = await own.ask("GET", "/v1/positions/last/9", key=key)

    assert (status, json.loads(body)) == (500, {"error": "Error calculating: Postgres is away."})
    assert headers["Content-Type"] == "application/json"
    assert headers["Retry-After"]
    own.analytics.answers["metric"] = UnavailableError("Postgres is away.", code="postgres_unavailable")
    assert (await own.problem("GET", "/recent?days=98", key=key))[0] == 503
    own.analytics.says("metric", {"value": 4, "data": {}})
    assert (await own.ask("GET", "/recent?days=98", key=key))[0] == 200


async def test_a_shape_with_a_bug_tells_nothing_of_itself(own: Gateway, key: str) -> None:
    own.analytics.says("metric", {"data": {}})
    status, problem, _ = await own.problem("GET", "/broken", key=key)

    assert (status, problem["code"]) == (500, "internal_error")
    assert "nothing" not in problem["detail"]


@pytest.mark.parametrize("text", [False, True])
async def test_an_intake_takes_a_document_as_the_hot_route_does(own: Gateway, key: str, text: bool) -> None:
    sent = json.dumps({**POSITION, "order_id": "été"})
    options: dict[str, Any] = {"json": sent} if text else {"data": sent}
    headers = {"Idempotency-Key": secrets.token_hex(8), "Content-Type": "application/json"}
    status, body, more = await own.ask("POST", POST, key=key, headers=headers, **options)

    answer = json.loads(body)
    assert (status, answer["status"]) == (200, "OK")
    assert more["Location"] == f"/v1/documents/positions/{answer['id']}"
    (one,) = [one for one in await on_disk(own) if one.id == answer["id"]]
    assert msgspec.json.decode(one.data) == {**POSITION, "order_id": "été"}
    assert one.subject == "ada"
    # The same key is the same document, on whichever of the two routes it comes.
    _, again, _ = await own.ask("POST", "/v1/documents/positions", key=key, headers=headers, data=sent)
    assert json.loads(again)["id"] == answer["id"]


@pytest.mark.parametrize(
    ("sent", "status", "answer"),
    [
        (b"{", 400, {"status": "ERROR"}),
        (b'"{"', 400, {"status": "ERROR"}),
        (b'"\xff"', 400, {"status": "ERROR"}),
        (rb'"\ud800"', 400, {"status": "ERROR"}),
        (b'"not closed', 400, {"status": "ERROR"}),
        (b"", 400, {"status": "ERROR"}),
        (b"{}", 422, {"detail": ["/order_id", "/timestamp", "/latitude"]}),
        (b'"7"', 422, {"detail": [""]}),
        (b"[{}]", 422, {"detail": [""]}),
        (json.dumps({**POSITION, "latitude": 91}).encode(), 422, {"detail": ["/latitude"]}),
    ],
)
async def test_an_intake_refuses_in_its_own_shapes(
    own: Gateway, key: str, sent: bytes, status: int, answer: Any
) -> None:
    found, body, headers = await own.ask("POST", POST, key=key, data=sent, headers={"Content-Type": "application/json"})

    assert (found, json.loads(body)) == (status, answer)
    assert headers["X-Request-Id"]


async def test_what_has_no_shape_stays_a_problem(own: Gateway, key: str) -> None:
    assert (await own.problem("POST", POST, json=POSITION))[1]["code"] == "token_missing"
    assert (await own.problem("POST", POST, key=own.key("analytics:read"), json=POSITION))[0] == 403
    headers = {"Content-Type": "text/plain"}
    assert (await own.problem("POST", POST, key=key, data=b"{}", headers=headers))[1][
        "code"
    ] == "unsupported_media_type"


async def test_a_path_says_which_methods_it_takes(own: Gateway, key: str) -> None:
    for method, path, allowed in (("GET", POST, "POST"), ("POST", "/recent", "GET, HEAD"), ("PUT", POST, "POST")):
        status, problem, headers = await own.problem(method, path, key=key)
        assert (status, problem["code"], headers["Allow"]) == (405, "method_not_allowed", allowed)
    assert (await own.problem("POST", "/v1/positions", key=key))[0] == 404


async def test_own_routes_are_told_with_their_parameters_and_errors(own: Gateway, key: str) -> None:
    description = json.loads((await own.ask("GET", "/openapi.json"))[1])
    paths = description["paths"]
    (days,) = paths["/recent"]["get"]["parameters"]
    assert (days["name"], days["in"], days["required"]) == ("days", "query", False)
    assert days["schema"] == {"type": "integer", "minimum": 1, "maximum": 366, "default": 30}
    last_one = paths["/v1/positions/last/{order_id}"]["get"]
    assert [(one["name"], one["in"], one["required"]) for one in last_one["parameters"]] == [("order_id", "path", True)]
    own_shapes = last_one["responses"]["500"]["content"]["application/json"]["examples"]
    assert own_shapes["postgres_unavailable"]["value"]["error"].startswith("Error calculating")
    # Where auth is away nobody knows who asks; that is answered in the same shape.
    assert "503" not in last_one["responses"]
    send = paths[POST]["post"]
    assert send["responses"]["200"]["content"]["application/json"]["example"]["status"] == "OK"
    assert send["responses"]["400"]["content"]["application/json"]["examples"]["malformed_json"]["value"] == {
        "status": "ERROR"
    }
    told = json.loads((await own.ask("GET", "/v1/pipelines/positions", key=key))[1])
    assert {(one["method"], one["path"]) for one in told["views"]} == {
        (view.method, view.path) for view in POSITIONS.views
    }


def pipeline_with(*views: Route) -> Pipeline:
    return Pipeline(name="more", accepts=Position, example=POSITION, metrics=[Count("total")], views=views)


def a_view(path: str) -> View:
    return View(path=path, metric="total", shape=lambda answer: answer)


def an_intake(path: str) -> Intake:
    return Intake(path=path, shape=lambda receipt: receipt)


@pytest.mark.parametrize(
    ("views", "said"),
    [
        ((a_view("/x/{order}"), a_view("/x/last")), "view '/x/{order}'"),
        ((a_view("/x/last"), a_view("/x/{order}")), "view '/x/last'"),
        ((a_view("/v1/{order}"),), "Headrace's own"),
        ((an_intake("/v1/documents/mine"),), "Headrace's own"),
        ((an_intake("/v1/auth/token"),), "Headrace's own"),
        ((an_intake("/x"), an_intake("/x")), "view '/x'"),
    ],
)
async def test_two_routes_never_share_a_path(
    servers: Servers, namespace: str, views: tuple[Route, ...], said: str
) -> None:
    async with opened(gateway_settings(servers.nats_url, namespace), {"more": pipeline_with(*views)}) as (_, door):
        with pytest.raises(ViewError, match="is taken by") as refused:
            build(door)
    assert said in str(refused.value).partition("taken by")[2]


async def test_what_takes_and_what_answers_may_share_one(servers: Servers, namespace: str) -> None:
    more = pipeline_with(an_intake("/x"), a_view("/x"))
    async with running(gateway_settings(servers.nats_url, namespace), {"more": more}) as gateway:
        gateway.analytics.says("metric", {"value": 1})
        key = gateway.key("admin")
        assert (await gateway.ask("GET", "/x", key=key))[0] == 200
        assert (await gateway.ask("POST", "/x", key=key, json=POSITION))[0] == 202
        assert (await gateway.problem("PUT", "/x", key=key))[2]["Allow"] == "GET, HEAD, POST"
        # And what no pipeline's file declares is not there.
        for method, path in (("GET", "/recent"), ("GET", "/api/analytics"), ("POST", POST)):
            assert (await gateway.problem(method, path, key=key))[0] == 404
