"""Health, readiness, metrics and the mesh, while all is well and while something is away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_prometheus

from gateway import overview
from gateway.answers.operations import Mesh, Readiness, Version
from headrace import telemetry
from headrace.errors import UnavailableError
from headrace.messaging.publisher import Publisher, open_publisher
from headrace.registry import Pipelines
from headrace.topology import RAW, Topology
from tests import waiting
from tests.gateway.system import Gateway, gateway_settings, running
from tests.servers import Servers
from tests.servers import running as servers_running


@pytest.fixture
async def lonely(servers: Servers, pipelines: Pipelines, namespace: str) -> AsyncIterator[Gateway]:
    """A door with nobody behind it."""
    async with running(gateway_settings(servers.nats_url, namespace), pipelines, services=()) as gateway:
        yield gateway


async def test_alive_means_only_that_it_answers(lonely: Gateway) -> None:
    status, body, _ = await lonely.ask("GET", "/healthz")

    assert (status, msgspec.json.decode(body)) == (200, {"status": "alive"})


async def test_the_bare_address_welcomes(lonely: Gateway) -> None:
    status, body, headers = await lonely.ask("GET", "/")

    assert (status, body.split()[0], headers["Content-Type"]) == (200, b"Welcome", "text/plain; charset=utf-8")


async def test_ready_when_everything_is_there(gateway: Gateway) -> None:
    ready = await eventually(gateway, lambda told: told["status"] == "ready")

    Readiness.model_validate(ready)
    assert all(check == {"ok": True} for check in ready["checks"].values())
    assert {"nats", "streams", "revocations", "keys", "auth", "analytics", "mongo"} <= set(ready["checks"])


async def test_a_store_that_is_away_is_seen_but_documents_are_accepted(gateway: Gateway) -> None:
    gateway.analytics.says("health", {"mongo": "mongo did not answer within 2 s.", "postgres": "ok", "redis": "ok"})
    try:
        told = await eventually(gateway, lambda told: told["status"] == "degraded")
    finally:
        gateway.analytics.says("health", {"mongo": "ok", "postgres": "ok", "redis": "ok"})

    assert told["checks"]["mongo"] == {"ok": False, "detail": "mongo did not answer within 2 s."}
    assert told["checks"]["postgres"] == {"ok": True}


async def test_without_keys_no_token_can_be_verified_so_it_is_not_ready(lonely: Gateway) -> None:
    status, problem, _ = await lonely.problem("GET", "/readyz")

    assert (status, problem["code"]) == (503, "not_ready")
    assert "keys: No instance of the auth service is alive." in problem["detail"]
    assert problem["checks"]["analytics"]["ok"] is False
    assert "analytics" not in problem["detail"], "it stands in no document's way"


async def test_a_door_that_drains_says_so_at_once(gateway: Gateway) -> None:
    await gateway.ask("GET", "/readyz")
    gateway.door.draining = True
    try:
        status, problem, _ = await gateway.problem("GET", "/readyz")
    finally:
        gateway.door.draining = False

    assert status == 503
    assert "draining" in problem["detail"]
    assert (await gateway.ask("GET", "/readyz"))[0] == 200


async def test_a_gateway_whose_writes_nobody_confirms_is_not_ready(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Publisher, "silent", property(lambda _: True))
    status, problem, _ = await gateway.problem("GET", "/readyz")

    assert status == 503
    assert not problem["checks"]["writes"]["ok"]


async def test_a_stream_that_is_missing_or_a_bus_that_is_away_is_not_ready(
    data_directory: Path, pipelines: Pipelines
) -> None:
    async with (
        servers_running(data_directory, ["nats_url"]) as own,
        running(gateway_settings(own.nats_url, "own"), pipelines) as gateway,
    ):
        await gateway.door.bus.client.jetstream().delete_stream("OWN_CLEAN")
        problem = await eventually(gateway, lambda told: told["status"] == 503)
        assert problem["checks"]["streams"] == {"ok": False, "detail": "a stream is missing"}

        await own.stop("nats")
        problem = await eventually(gateway, lambda told: not told["checks"]["nats"]["ok"])
        assert problem["code"] == "not_ready"
        assert (await gateway.ask("GET", "/healthz"))[0] == 200
        status, _, _ = await gateway.problem("GET", "/v1/mesh", key=gateway.key("admin"))
        assert status == 503
        families = list(read_prometheus((await gateway.ask("GET", "/metrics"))[1].decode()))
        assert {sample.labels["service"] for family in families for sample in family.samples} == {"gateway"}

        await own.start("nats")
        await eventually(gateway, lambda told: told["checks"]["nats"]["ok"])


async def test_readiness_asks_the_others_once_a_second_at_most(gateway: Gateway) -> None:
    def asked() -> int:
        return sum(endpoint == "health" for endpoint, _, _ in gateway.analytics.asked)

    loop = asyncio.get_running_loop()
    before, began = asked(), loop.time()
    await asyncio.gather(*(gateway.ask("GET", "/readyz") for _ in range(50)))

    assert asked() - before <= 1 + loop.time() - began


async def test_the_mesh_tells_who_is_alive(gateway: Gateway) -> None:
    _, body, _ = await gateway.ask("GET", "/v1/mesh", key=gateway.key("analytics:read"))
    told = Mesh.model_validate_json(body)

    assert {"auth", "analytics", "gateway"} <= {service.name for service in told.services}
    assert {consumer.name for consumer in told.consumers} == {"refine", "journal", "documents", "facts", "dead"}
    assert {stream.name for stream in told.streams} == {"RAW", "CLEAN", "DEAD"}


async def test_the_mesh_tells_how_far_behind_a_stage_is(lonely: Gateway) -> None:
    settings = lonely.door.settings
    topology = Topology(settings.namespace)
    async with open_publisher(lonely.door.bus, 5) as publisher:
        first = await publisher.publish(topology.raw("searches"), b"x", {})
        await publisher.publish(topology.raw("searches"), b"y", {})
    before = lags(await overview.look(lonely.door))
    assert before["refine"]["pending_blocks"] == 2
    assert before["refine"]["oldest_pending_seconds"] >= 0
    assert before["facts"] == {**before["facts"], "pending_blocks": 0, "oldest_pending_seconds": 0.0}

    js = lonely.door.bus.client.jetstream()
    (block,) = await (await js.pull_subscribe_bind("refine", topology.stream(RAW))).fetch(1)
    held = lags(await overview.look(lonely.door))
    assert (held["refine"]["pending_blocks"], held["refine"]["ack_pending_blocks"]) == (1, 1)
    assert held["refine"]["oldest_pending_seconds"] >= before["refine"]["oldest_pending_seconds"]

    # The oldest of what is left may have been purged, or deleted by hand.
    await block.ack_sync()
    await js.delete_msg(topology.stream(RAW), first.seq + 1)
    assert lags(await overview.look(lonely.door))["refine"]["oldest_pending_seconds"] == 0.0


async def test_a_stage_that_was_never_made_is_seen_as_such(lonely: Gateway) -> None:
    js = lonely.door.bus.client.jetstream()
    await js.delete_consumer(Topology(lonely.door.settings.namespace).stream(RAW), "journal")
    told = lags(await overview.look(lonely.door))

    assert told["journal"]["pending_blocks"] is None
    assert told["refine"]["pending_blocks"] == 0


@pytest.mark.parametrize(
    ("accept", "media_type", "read"),
    [
        ("", "text/plain; version=0.0.4; charset=utf-8", read_prometheus),
        ("text/plain;version=nonsense;q=0.5", "text/plain; version=0.0.4; charset=utf-8", read_prometheus),
        (
            "application/openmetrics-text;version=1.0.0;q=0.8,text/plain;version=0.0.4;q=0.3",
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
            read_openmetrics,
        ),
        (
            "application/openmetrics-text;version=nonsense",
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
            read_openmetrics,
        ),
    ],
)
async def test_metrics_of_the_whole_mesh_can_be_read_by_prometheus(
    gateway: Gateway, accept: str, media_type: str, read: Any
) -> None:
    telemetry.commit_seconds.labels("RAW").observe(0.003)
    telemetry.documents_refused.labels("searches", 'a "quote" and \\ a\nline').inc()

    async def scraped() -> tuple[list[Metric], Any]:
        _, body, headers = await gateway.ask("GET", "/metrics", headers={"Accept": accept})
        return list(read(body.decode())), headers

    # On a busy machine one may be too slow to answer the first time.
    families, headers = await waiting.eventually(
        scraped, lambda told: services(told[0]) >= {"auth", "analytics", "gateway"}
    )

    assert headers["Content-Type"] == media_type
    names = [family.name for family in families]
    assert len(names) == len(set(names))
    assert {"headrace_http_requests", "headrace_commit_seconds", "process_cpu_seconds"} <= {
        name.removesuffix("_total") for name in names
    }


async def test_merged_metrics_keep_every_process_apart() -> None:
    telemetry.commit_seconds.labels("RAW").observe(0.003)
    one = telemetry.snapshot()
    merged = telemetry.Merged([({"service": "a", "instance": "1"}, one), ({"service": "a", "instance": "2"}, one)])
    text = overview.exposed(merged).openmetrics
    read: Any = read_openmetrics
    families = {family.name: family for family in read(text.decode())}

    histogram = families["headrace_commit_seconds"]
    assert histogram.type == "histogram"
    counts = {s.labels["instance"]: s.value for s in histogram.samples if s.name.endswith("_count")}
    assert counts["1"] == counts["2"] >= 1
    assert families["headrace_nats_reconnects"].type == "counter"


async def test_services_that_share_a_process_stay_one_series_for_each_of_its_endpoints() -> None:
    telemetry.mesh_requests.labels("dead.replay", "ok").inc()
    telemetry.mesh_requests.labels("account.login", "ok").inc()
    merged = telemetry.Merged([({"service": "a", "instance": "1"}, telemetry.snapshot())])
    series = [
        (sample.name, tuple(sorted(sample.labels.items()))) for family in merged.collect() for sample in family.samples
    ]

    assert len(series) == len(set(series))
    assert not {label for metric in telemetry.REGISTRY.collect() for s in metric.samples for label in s.labels} & {
        "service",
        "instance",
    }


async def test_a_mesh_that_cannot_be_asked_is_unavailable(lonely: Gateway) -> None:
    await lonely.door.bus.client.jetstream().delete_stream(Topology(lonely.door.settings.namespace).stream(RAW))
    with pytest.raises(UnavailableError):
        await overview.look(lonely.door)


async def test_the_version_is_told(gateway: Gateway) -> None:
    Version.model_validate_json((await gateway.ask("GET", "/version"))[1])


def services(families: Iterable[Metric]) -> set[str]:
    return {sample.labels["service"] for family in families for sample in family.samples}


def lags(body: bytes) -> dict[str, dict[str, Any]]:
    """Return the consumers of the mesh, by name."""
    Mesh.model_validate_json(body)
    return {consumer["name"]: consumer for consumer in msgspec.json.decode(body)["consumers"]}


async def eventually(gateway: Gateway, holds: Any) -> dict[str, Any]:
    """Return what /readyz says as soon as that holds."""

    async def ready() -> dict[str, Any]:
        _, body, _ = await gateway.ask("GET", "/readyz")
        return dict(msgspec.json.decode(body))

    return await waiting.eventually(ready, holds)
