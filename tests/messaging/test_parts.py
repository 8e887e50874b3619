"""Answers larger than one message of the bus arrive whole."""

from __future__ import annotations

import asyncio
import os

import pytest

from headrace.errors import UnavailableError
from headrace.messaging import parts
from headrace.messaging.connection import connect
from headrace.messaging.mesh import Reply, Request, ask, serve
from headrace.settings import Settings


@pytest.mark.parametrize("size_bytes", [0, 1, 1 << 20, (1 << 20) - (16 << 10), (1 << 20) - (16 << 10) + 1, 9_999_999])
async def test_an_answer_of_any_size_arrives_as_it_was_given(settings: Settings, size_bytes: int) -> None:
    body = os.urandom(size_bytes)

    async def give(_request: Request) -> Reply:
        return Reply(body, 207, {"X-About": "it"})

    async with connect(settings, "test") as bus, serve(bus, settings.namespace, "bodies", {"give": give}):
        replies = await asyncio.gather(*(ask(bus, settings.namespace, "bodies", "give") for _ in range(3)))

    for reply in replies:
        assert reply.body == body
        assert (reply.status, dict(reply.headers)) == (207, {"X-About": "it"})


async def test_large_answers_under_way_are_bounded(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "_KEPT_BYTES", 3 << 20)

    async def give(_request: Request) -> Reply:
        return Reply(bytes(2 << 20))

    async with connect(settings, "test") as bus, serve(bus, settings.namespace, "bodies", {"give": give}):
        # Who asks for the first part only leaves the rest behind.
        await bus.client.request(f"{settings.namespace}svc.bodies.give", b"", timeout=5)
        with pytest.raises(UnavailableError) as refused:
            await ask(bus, settings.namespace, "bodies", "give")

    assert refused.value.code == "overloaded"
