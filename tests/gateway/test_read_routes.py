"""Documents, dead letters, metrics, pipelines: what is asked of analytics, and what comes back."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from gateway.answers.pipelines import PipelineInfo, PipelineList
from headrace.messaging.mesh import Reply
from headrace.pipeline import Latest, Minimum, Trend
from tests.gateway.system import Gateway


@pytest.mark.parametrize(
    ("path", "endpoint", "payload"),
    [
        ("/v1/documents/searches/17", "document", {"pipeline": "searches", "id": "17"}),
        (
            "/v1/documents/searches",
            "documents",
            {"pipeline": "searches", "limit": 100, "cursor": None, "sort": None, "filters": {}},
        ),
        (
            "/v1/documents/searches?limit=5&cursor=c&sort=-hotel_id&min_offer.price=7&user_id=$ne",
            "documents",
            {
                "pipeline": "searches",
                "limit": 5,
                "cursor": "c",
                "sort": "-hotel_id",
                "filters": {"min_offer.price": "7", "user_id": "$ne"},
            },
        ),
        ("/v1/analytics/searches", "metrics", {"pipeline": "searches", "limit": 10}),
        ("/v1/analytics/searches?limit=3", "metrics", {"pipeline": "searches", "limit": 3}),
        ("/v1/analytics/searches/users", "metric", {"pipeline": "searches", "metric": "users", "limit": None}),
        ("/v1/analytics/searches/users?limit=2", "metric", {"pipeline": "searches", "metric": "users", "limit": 2}),
        ("/v1/analyses/students", "analysis", {"pipeline": "students"}),
        ("/v1/ledger", "ledger", {}),
        ("/v1/dead-letters", "dead.list", {"cursor": None, "limit": 100}),
        (
            "/v1/dead-letters?pipeline=p&code=c&cursor=x&limit=1",
            "dead.list",
            {"pipeline": "p", "code": "c", "cursor": "x", "limit": 1},
        ),
        ("/v1/dead-letters/groups?pipeline=p", "dead.groups", {"pipeline": "p"}),
        (
            "/v1/dead-letters?stage=s&pointer=/a&after=2026-01-01T00:00:00Z&before=2026-01-02T01:00:00%2B01:00&body=true",
            "dead.list",
            {
                "stage": "s",
                "pointer": "/a",
                "after": "2026-01-01T00:00:00.000000Z",
                "before": "2026-01-02T00:00:00.000000Z",
                "cursor": None,
                "limit": 100,
                "body": True,
            },
        ),
        ("/v1/dead-letters/audit?limit=3", "dead.audit", {"cursor": None, "limit": 3}),
        ("/v1/dead-letters/replays/17", "dead.replay", {"id": "17"}),
        ("/v1/dead-letters/17", "dead.show", {"id": "17"}),
        ("/v1/jobs", "jobs.list", {}),
        ("/v1/jobs/grind", "jobs.show", {"name": "grind"}),
        ("/v1/jobs/grind/runs?limit=2&cursor=x", "jobs.runs", {"name": "grind", "cursor": "x", "limit": 2}),
        ("/v1/jobs/grind/runs/17", "jobs.run", {"name": "grind", "id": "17"}),
    ],
)
async def test_a_question_reaches_analytics_and_its_answer_comes_back_unchanged(
    gateway: Gateway, path: str, endpoint: str, payload: dict[str, Any]
) -> None:
    # White space and 1.0 would not survive being read and written again.
    gateway.analytics.answers[endpoint] = Reply(b'{ "items": [1.0], "next": null }')
    status, body, headers = await gateway.ask("GET", path, key=gateway.key("admin"))

    assert (status, body) == (200, b'{ "items": [1.0], "next": null }')
    assert headers["Content-Type"] == "application/json"
    assert gateway.analytics.last(endpoint)[0] == payload


@pytest.mark.parametrize(
    ("path", "endpoint", "link"),
    [
        (
            "/v1/documents/searches?hotel_id=a%26b&limit=2&sort=hotel_id&cursor=old",
            "documents",
            "</v1/documents/searches?limit=2&sort=hotel_id&hotel_id=a%26b&cursor=n%3D>",
        ),
        ("/v1/dead-letters?code=c", "dead.list", "</v1/dead-letters?code=c&limit=100&cursor=n%3D>"),
    ],
)
async def test_a_page_links_to_the_next(gateway: Gateway, path: str, endpoint: str, link: str) -> None:
    gateway.analytics.says(endpoint, {"items": [], "next": "n="})
    _, _, headers = await gateway.ask("GET", path, key=gateway.key("admin"))
    assert headers["Link"] == f'{link}; rel="next"'

    await gateway.ask("GET", link.strip("<>"), key=gateway.key("admin"))
    assert gateway.analytics.last(endpoint)[0]["cursor"] == "n="

    gateway.analytics.says(endpoint, {"items": [], "next": None})
    _, _, headers = await gateway.ask("GET", path, key=gateway.key("admin"))
    assert "Link" not in headers


async def test_metrics_are_fresh_for_a_second_and_have_their_tag(gateway: Gateway) -> None:
    gateway.analytics.says("metric", {}, headers={"ETag": '"7"'})
    _, _, headers = await gateway.ask("GET", "/v1/analytics/searches/users", key=gateway.key("admin"))

    assert headers["ETag"] == '"7"'
    assert headers["Cache-Control"] == "private, max-age=1"


async def test_who_has_the_answer_already_is_told_so(gateway: Gateway) -> None:
    gateway.analytics.answers["metrics"] = lambda request: Reply(b"", 304, {"ETag": request.headers["If-None-Match"]})
    status, body, headers = await gateway.ask(
        "GET", "/v1/analytics/searches", key=gateway.key("admin"), headers={"If-None-Match": '"7"'}
    )

    assert (status, body, headers["ETag"]) == (304, b"", '"7"')
    assert headers["Cache-Control"] == "private, max-age=1"


async def test_every_pipeline_is_told_with_its_schemas_and_metrics(gateway: Gateway) -> None:
    _, body, _ = await gateway.ask("GET", "/v1/pipelines", key=gateway.key())
    told = PipelineList.model_validate_json(body)

    assert [one.name for one in told.items] == sorted(gateway.door.pipelines)
    for one in told.items:
        pipeline = gateway.door.pipelines[one.name]
        assert one.accepts == pipeline.accepts.model_json_schema()
        assert set(one.yields["properties"]) == set(pipeline.yields.model_json_schema()["properties"])
        assert one.mode == ("entity" if pipeline.entity else "event")
        assert one.document == pipeline.example
        for metric, declared in zip(one.metrics, pipeline.metrics, strict=True):
            assert (metric.name, metric.kind) == (declared.name, declared.kind)
            assert tuple(metric.by) == declared.key_paths
            if isinstance(declared, Trend):
                assert metric.every_seconds == declared.every_seconds
            if isinstance(declared, Minimum):
                assert metric.of == declared.of
            if isinstance(declared, Latest):
                assert (metric.at, metric.of) == (declared.at, list(declared.of))


@pytest.mark.parametrize(("pipeline", "links"), [("searches", 3), ("students", 4)])
async def test_a_pipeline_tells_of_itself_and_its_links_lead_somewhere(
    gateway: Gateway, pipeline: str, links: int
) -> None:
    for endpoint in ("documents", "metrics", "metric", "analysis"):
        gateway.analytics.says(endpoint, {"items": [], "next": None})
    key = gateway.key("admin")
    _, body, _ = await gateway.ask("GET", f"/v1/pipelines/{pipeline}", key=key)
    told = PipelineInfo.model_validate_json(body)

    leading = told.links.model_dump(exclude_none=True).values()
    assert len(leading) == links
    for link in (*leading, *(metric.link for metric in told.metrics)):
        status, _, _ = await gateway.ask("GET", link, key=key)
        assert status == 200, link
    assert msgspec.json.decode(body)["example"] == gateway.door.pipelines[pipeline].example
