"""Rows over MQTT: every one acknowledged, whatever happens to the connection."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import nats
import pytest
from nats.aio.msg import Msg
from nats.js.api import StreamConfig

from headrace.broker import Broker, broker_of
from producer.outlets import attempts
from producer.outlets.mqtt import open_mqtt
from producer.target import find_broker
from producer.upload import Chunk, Progress, UploadError
from tests.servers import Servers, reachable_directory, running


@pytest.fixture
def namespace() -> str:
    return f"p{secrets.token_hex(5)}"


def broker(servers: Servers) -> Broker:
    """Return the operator's way to the listener."""
    operator, mqtt = urlsplit(servers.nats_url), urlsplit(servers.nats_roles["mqtt"])
    return broker_of(f"mqtt://{operator.username}:{operator.password}@{mqtt.hostname}:{mqtt.port}")


def chunk(bodies: Sequence[bytes]) -> Chunk:
    return Chunk(list(range(1, len(bodies) + 1)), [str(n) for n in range(len(bodies))], list(bodies))


async def test_every_row_arrives_as_it_is(servers: Servers, namespace: str) -> None:
    bodies = [b'{"n":%d}' % number for number in range(700)]
    client = await nats.connect(servers.nats_url)
    heard: list[bytes] = []
    all_there = asyncio.Event()

    async def hear(message: Msg) -> None:
        heard.append(message.data)
        if len(heard) == len(bodies):
            all_there.set()

    try:
        await client.subscribe(f"{namespace}.rows", cb=hear)
        await client.flush()
        progress = Progress()
        async with open_mqtt(broker(servers), f"{namespace}/rows") as outlet:
            assert await outlet.send(chunk(bodies[:600]), progress) == []
            assert await outlet.send(chunk(bodies[600:]), progress) == []
        await asyncio.wait_for(all_there.wait(), 20)
    finally:
        await client.close()

    assert heard == bodies
    assert progress.retries == 0


async def test_what_was_not_acknowledged_is_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "wait_seconds", lambda *_: 0.2)
    bodies = [b'{"n":%d}' % number for number in range(400)]
    with reachable_directory() as directory:
        async with running(directory, ["nats_url"]) as own:
            client = await nats.connect(own.nats_url)
            await client.jetstream().add_stream(StreamConfig(name="ROWS", subjects=["rows.>"]))
            progress = Progress()
            async with open_mqtt(broker(own), "rows/all") as outlet:
                await outlet.send(chunk([b"{}"]), progress)
                await own.kill("nats")
                await outlet.send(chunk(bodies), progress)
            js = client.jetstream()
            last = (await js.stream_info("ROWS")).state.last_seq
            found = {(await js.get_msg("ROWS", sequence)).data for sequence in range(1, last + 1)}
            await client.close()

    assert progress.retries > 0
    assert found == {b"{}", *bodies}


async def test_a_broker_that_is_away_or_keeps_us_out_ends_the_run(servers: Servers) -> None:
    there = broker(servers)
    for other in (broker_of("mqtt://127.0.0.1:1"), broker_of(f"mqtt://operator:wrong@{there.host}:{there.port}")):
        with pytest.raises(UploadError, match="does not let us in"):
            async with open_mqtt(other, "rows/all"):
                pass


def test_up_names_the_listener_of_the_folder(tmp_path: Path) -> None:
    file = tmp_path / "up.json"
    with pytest.raises(ValueError, match="headrace up"):
        find_broker("up", up_file=file)
    file.write_text('{"mqtt_url": "mqtt://device:x@127.0.0.1:1884"}')

    assert find_broker("up", up_file=file).port == 1884
    assert find_broker("mqtt://other", up_file=file).host == "other"
