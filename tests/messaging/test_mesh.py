"""Services ask each other: answers, problems, deadlines, shared load."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from headrace.errors import DocumentError, FieldError, HeadraceError, RequestError, UnavailableError
from headrace.messaging.connection import Bus, connect
from headrace.messaging.mesh import Everyone, Handler, Reply, Request, ask, serve
from headrace.settings import Settings
from tests.servers import Servers, until
from tests.waiting import eventually


def answering(body: bytes, **about: Any) -> Handler:
    async def handle(_request: Request) -> Reply:
        return Reply(body, **about)

    return handle


def raising(error: Exception) -> Handler:
    async def handle(_request: Request) -> Reply:
        raise error

    return handle


async def echo(request: Request) -> Reply:
    return Reply(request.payload, 201, {"X-Request-Id": request.headers["X-Request-Id"]})


async def test_a_request_reaches_its_endpoint_and_the_reply_the_caller(bus: Bus, settings: Settings) -> None:
    ns = settings.namespace
    async with serve(bus, ns, "shop", {"echo": echo, "hello": answering(b"hi")}):
        reply = await ask(bus, ns, "shop", "echo", b"body", headers={"X-Request-Id": "r1"})
        hello = await ask(bus, ns, "shop", "hello")

    assert (reply.body, reply.status, dict(reply.headers)) == (b"body", 201, {"X-Request-Id": "r1"})
    assert (hello.body, hello.status) == (b"hi", 200)


async def test_a_service_that_nobody_runs_is_unavailable_at_once(bus: Bus, settings: Settings) -> None:
    async with asyncio.timeout(5):
        with pytest.raises(UnavailableError) as caught:
            await ask(bus, settings.namespace, "shop", "hello", timeout_seconds=60)

    assert caught.value.code == "shop_unavailable"
    assert caught.value.retry_after_seconds


async def test_a_service_that_does_not_answer_is_unavailable_at_the_deadline(bus: Bus, settings: Settings) -> None:
    release = asyncio.Event()

    async def hang(_request: Request) -> Reply:
        await release.wait()
        return Reply(b"")

    async with serve(bus, settings.namespace, "shop", {"hang": hang}):
        with pytest.raises(UnavailableError) as caught:
            await ask(bus, settings.namespace, "shop", "hang", timeout_seconds=0.2)
        release.set()

    assert caught.value.code == "shop_unavailable"


async def test_errors_of_ours_are_raised_again_at_the_caller(bus: Bus, settings: Settings) -> None:
    field = FieldError("/a", "missing", "Add it.")
    errors: list[HeadraceError] = [
        DocumentError("Bad é.", errors=[field]),
        RequestError("None.", code="unknown_pipeline", status=404),
        UnavailableError("Later.", code="redis_unavailable", retry_after_seconds=3),
    ]
    for error in errors:
        async with serve(bus, settings.namespace, "shop", {"fail": raising(error)}):
            with pytest.raises(type(error)) as caught:
                await ask(bus, settings.namespace, "shop", "fail")
        found = caught.value
        assert (found.detail, found.code, found.status) == (error.detail, error.code, error.status)
        assert (found.errors, found.retry_after_seconds) == (error.errors, error.retry_after_seconds)


async def test_a_bug_in_a_handler_tells_nothing_of_itself(bus: Bus, settings: Settings) -> None:
    handlers = {"fail": raising(RuntimeError("secret")), "hello": answering(b"hi")}
    async with serve(bus, settings.namespace, "shop", handlers):
        with pytest.raises(HeadraceError) as caught:
            await ask(bus, settings.namespace, "shop", "fail")
        assert (await ask(bus, settings.namespace, "shop", "hello")).body == b"hi", "and the service goes on"

    assert (caught.value.code, caught.value.status) == ("internal_error", 500)
    assert "secret" not in caught.value.detail


async def test_a_slow_request_holds_no_other_up(bus: Bus, settings: Settings) -> None:
    release = asyncio.Event()

    async def slow(_request: Request) -> Reply:
        await release.wait()
        return Reply(b"slow")

    async with serve(bus, settings.namespace, "shop", {"slow": slow, "hello": answering(b"hi")}):
        waiting = [asyncio.create_task(ask(bus, settings.namespace, "shop", "slow")) for _ in range(3)]
        assert (await ask(bus, settings.namespace, "shop", "hello")).body == b"hi"
        assert not any(task.done() for task in waiting)
        release.set()
        assert [reply.body for reply in await asyncio.gather(*waiting)] == [b"slow"] * 3


async def test_a_request_that_runs_is_answered_before_the_service_ends(bus: Bus, settings: Settings) -> None:
    entered, release = asyncio.Event(), asyncio.Event()

    async def slow(_request: Request) -> Reply:
        entered.set()
        await release.wait()
        return Reply(b"done")

    async with serve(bus, settings.namespace, "shop", {"slow": slow}):
        waiting = asyncio.create_task(ask(bus, settings.namespace, "shop", "slow"))
        await entered.wait()
        asyncio.get_running_loop().call_later(0.1, release.set)

    assert (await waiting).body == b"done"


async def test_instances_share_the_load_and_one_carries_on_alone(bus: Bus, settings: Settings) -> None:
    async with (
        connect(settings, "second") as second,
        serve(bus, settings.namespace, "shop", {"who": answering(b"first")}),
    ):
        async with serve(second, settings.namespace, "shop", {"who": answering(b"second")}):
            replies = await asyncio.gather(*(ask(bus, settings.namespace, "shop", "who") for _ in range(60)))
            assert {reply.body for reply in replies} == {b"first", b"second"}
        replies = await asyncio.gather(*(ask(bus, settings.namespace, "shop", "who") for _ in range(10)))

    assert {reply.body for reply in replies} == {b"first"}


async def test_every_process_says_who_it_is(bus: Bus, settings: Settings) -> None:
    async def busy() -> dict[str, object]:
        return {"stages": ["refine"]}

    ns = settings.namespace
    async with (
        connect(settings, "second") as second,
        serve(bus, ns, "shop", {"hello": answering(b"hi"), "no": raising(RequestError("no"))}, status=busy),
        serve(second, ns, "store", {}),
    ):
        await ask(bus, ns, "shop", "hello")
        with pytest.raises(RequestError):
            await ask(bus, ns, "shop", "no")
        found = {one["name"]: one for one in map(json.loads, await Everyone(bus, ns, "status").ask())}
        metrics = await Everyone(bus, ns, "metrics").ask()

    assert set(found) == {"shop", "store"}
    assert (found["shop"]["requests"], found["shop"]["errors"]) == (2, 0)
    assert found["shop"]["stages"] == ["refine"]
    assert found["shop"]["id"] != found["store"]["id"]
    assert {json.loads(body.split(b"\n")[0])["service"] for body in metrics} == {"shop", "store"}


async def test_who_answered_before_and_is_busy_now_is_waited_for_and_who_is_gone_forgotten(
    bus: Bus, settings: Settings
) -> None:
    ns = settings.namespace
    busy = asyncio.Event()
    everyone = Everyone(bus, ns, "status")

    async def status() -> dict[str, object]:
        if busy.is_set():
            # Longer than the window by far.
            await asyncio.sleep(0.6)
        return {}

    async def names() -> list[str]:
        return sorted(json.loads(body)["name"] for body in await everyone.ask(window_seconds=0.1, patience_seconds=20))

    async with serve(bus, ns, "shop", {}, status=status):
        async with serve(bus, ns, "store", {}):
            await eventually(names, lambda seen: seen == ["shop", "store"])
            busy.set()
            assert await names() == ["shop", "store"]
        # Nobody has said that it ended, so it is waited for once more.
        assert [json.loads(body)["name"] for body in await everyone.ask(patience_seconds=3)] == ["shop"]
        async with asyncio.timeout(20):
            assert await names() == ["shop"]


async def test_metrics_larger_than_a_message_of_the_bus_arrive_whole(
    bus: Bus, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = b"[" + b"1," * (1 << 20) + b"1]"
    monkeypatch.setattr("headrace.telemetry.snapshot", lambda: large)
    async with serve(bus, settings.namespace, "shop", {}), serve(bus, settings.namespace, "store", {}):
        everyone = Everyone(bus, settings.namespace, "metrics")
        found = dict([body.split(b"\n") for body in await everyone.ask(window_seconds=1, patience_seconds=20)])

    assert {json.loads(whose)["service"] for whose in found} == {"shop", "store"}
    assert set(found.values()) == {large}


async def test_another_namespace_hears_nothing(bus: Bus, settings: Settings) -> None:
    async with serve(bus, settings.namespace, "shop", {"hello": answering(b"hi")}):
        with pytest.raises(UnavailableError):
            await ask(bus, f"{settings.namespace}x", "shop", "hello")
        assert await Everyone(bus, f"{settings.namespace}x", "status").ask(window_seconds=0.1) == []


async def test_a_bus_that_is_away_is_said_at_once_and_services_are_back_with_it(
    harmed: Settings, nats_server: Servers
) -> None:
    ns = harmed.namespace
    async with connect(harmed, "test") as bus, serve(bus, ns, "shop", {"hello": answering(b"hi")}):
        await nats_server.stop("nats")
        await until(lambda: not bus.connected)
        for attempt in (ask(bus, ns, "shop", "hello", timeout_seconds=60), Everyone(bus, ns, "status").ask()):
            async with asyncio.timeout(5):
                with pytest.raises(UnavailableError) as caught:
                    await attempt
            assert caught.value.code == "nats_unavailable"
        await nats_server.start("nats")
        await until(lambda: bus.connected)

        assert (await ask(bus, ns, "shop", "hello")).body == b"hi"
