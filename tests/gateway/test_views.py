"""The pipelines' own GET routes: a metric's answer in their shape, and never two at one path."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from pydantic import BaseModel

from gateway.app import build
from gateway.routes.views import ViewError
from headrace.messaging.mesh import Reply
from headrace.pipeline import Count, Pipeline, Sum, View
from headrace.registry import Pipelines
from tests.gateway.system import Gateway, gateway_settings, opened, running
from tests.servers import Servers


class Sale(BaseModel):
    shop: str
    amount: float


def sales(*paths: str, name: str = "sales") -> Pipeline:
    """Return a pipeline with views at these paths."""
    views = [View(path=path, metric="revenue", shape=lambda answer: answer["data"]) for path in paths]
    metrics = [Count("shops", by="shop"), Sum("revenue", of="amount", by="shop")]
    return Pipeline(name=name, accepts=Sale, metrics=metrics, views=views, example={"shop": "a", "amount": 1})


def by_name(pipelines: Sequence[Pipeline]) -> Pipelines:
    return {pipeline.name: pipeline for pipeline in pipelines}


@pytest.fixture
async def public(servers: Servers, namespace: str) -> AsyncIterator[Gateway]:
    settings = gateway_settings(servers.nats_url, namespace, public_views=True)
    async with running(settings, by_name([sales("/revenue")])) as gateway:
        yield gateway


async def test_a_view_answers_the_whole_metric_in_its_own_shape(gateway: Gateway) -> None:
    gateway.analytics.says("metric", {"metric": "users", "kind": "count", "count": 1, "data": {"u": 3}})
    status, body, headers = await gateway.ask("GET", "/users", key=gateway.key("analytics:read:searches"))

    assert (status, body) == (200, b'{"count":1,"data":{"u":3}}')
    assert headers["Content-Type"] == "application/json"
    assert gateway.analytics.last("metric")[0] == {"pipeline": "searches", "metric": "users", "limit": None}


async def test_a_view_is_told_apart_by_its_tag(gateway: Gateway) -> None:
    gateway.analytics.says("metric", {"count": 1, "data": {"u": 3}})
    key = gateway.key("admin")
    _, _, first = await gateway.ask("GET", "/users", key=key)
    status, body, second = await gateway.ask("GET", "/users", key=key, headers={"If-None-Match": f"W/{first['ETag']}"})
    assert (status, body, second["ETag"]) == (304, b"", first["ETag"])

    gateway.analytics.says("metric", {"count": 1, "data": {"u": 4}})
    status, _, third = await gateway.ask("GET", "/users", key=key, headers={"If-None-Match": first["ETag"]})
    assert status == 200
    assert third["ETag"] != first["ETag"]


async def test_views_are_open_to_everybody_only_where_the_settings_say_so(public: Gateway, gateway: Gateway) -> None:
    public.analytics.answers["metric"] = Reply(b'{"data":{}}')

    assert (await public.ask("GET", "/revenue"))[0] == 200
    assert (await public.ask("GET", "/v1/analytics/sales"))[0] == 401
    assert (await gateway.ask("GET", "/users"))[0] == 401


async def test_a_sum_stays_exact_through_a_shape(public: Gateway) -> None:
    public.analytics.answers["metric"] = Reply(b'{"data":{"a":12345678901234567890.10,"b":0.1,"c":7}}')

    assert (await public.ask("GET", "/revenue"))[1] == b'{"a":12345678901234567890.10,"b":0.1,"c":7}'


@pytest.mark.parametrize(
    ("pipelines", "said"),
    [
        ([sales("/healthz")], "/healthz"),
        ([sales("/v1/pipelines/mine")], "/v1/pipelines/{pipeline}"),
        ([sales("/v1/documents/sales")], "/v1/documents/{pipeline}"),
        ([sales("/docs/docs.css")], "/docs/{file}"),
        ([sales("/revenue", "/revenue")], "view '/revenue' of pipeline 'sales'"),
        ([sales("/revenue"), sales("/revenue", name="more")], "view '/revenue' of pipeline 'sales'"),
    ],
)
async def test_a_view_at_a_path_that_is_taken_keeps_the_gateway_from_starting(
    servers: Servers, namespace: str, pipelines: list[Pipeline], said: str
) -> None:
    async with opened(gateway_settings(servers.nats_url, namespace), by_name(pipelines)) as (_, door):
        with pytest.raises(ViewError) as refused:
            build(door)

    own = pipelines[-1].views[-1]
    assert f"view {own.path!r} of pipeline {pipelines[-1].name!r}" in str(refused.value)
    assert said in str(refused.value)


async def test_views_stand_in_the_description(public: Gateway) -> None:
    description: dict[str, Any] = await (await public.http.get(f"{public.url}/openapi.json")).json()

    assert description["paths"]["/revenue"]["get"]["tags"] == ["views"]
    assert description["paths"]["/revenue"]["get"]["security"] == []
