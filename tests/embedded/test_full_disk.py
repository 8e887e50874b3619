"""A disk that is really full: what was acknowledged is kept, and when there is room again nobody has to help."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from pydantic import SecretStr

from embedded.disk import free_bytes
from headrace.document import new_id
from headrace.errors import UnavailableError
from headrace.messaging.connection import connect
from headrace.messaging.publisher import open_publisher
from headrace.settings import Settings
from headrace.topology import RAW, Topology, ensure
from tests.conftest import SMALL_STREAMS
from tests.servers import running
from tests.waiting import eventually

# What the test leaves of it to NATS.
_LEFT_BYTES = 8 << 20


@pytest.mark.long
async def test_nats_on_a_disk_that_was_full_takes_documents_again_by_itself(small_disk: Path) -> None:
    async with running(small_disk, ["nats_url"]) as servers:
        settings = Settings(nats_url=SecretStr(servers.nats_url), namespace="full", streams=SMALL_STREAMS)
        topology = Topology(settings.namespace)
        async with connect(settings, "test") as bus, open_publisher(bus, 1.0) as publisher:
            await ensure(bus, settings)
            ballast = small_disk / "ballast"
            ballast.write_bytes(b"\0" * (free_bytes(small_disk) - _LEFT_BYTES))

            async def publish(size_bytes: int) -> str:
                one = new_id()
                await publisher.publish(topology.raw("things"), b"x" * size_bytes, {"Nats-Msg-Id": one})
                return one

            kept: list[str] = []

            async def fill() -> None:
                while True:
                    kept.append(await publish(500_000))

            with pytest.raises(UnavailableError) as full:
                await fill()
            for _ in range(3):
                with contextlib.suppress(UnavailableError):
                    await publish(1)
            silent = publisher.silent
            ballast.unlink()
            kept.append(await eventually(lambda: publish(1), passing=(UnavailableError,)))

            js = bus.client.jetstream()
            state = (await js.stream_info(topology.stream(RAW))).state
            messages = [await js.get_msg(topology.stream(RAW), seq) for seq in range(1, state.last_seq + 1)]

    assert silent
    assert full.value.code == "outcome_unknown"
    assert set(kept) <= {(message.headers or {})["Nats-Msg-Id"] for message in messages}
    assert len(kept) > 5
