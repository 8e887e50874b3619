"""Documents from the server's MQTT listener, whose only name is their natural key."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

import aiomqtt

from tests.invariants import assert_balanced
from tests.servers import Servers
from tests.workers.plant import Plant, until


async def test_what_a_device_sends_again_is_stored_once_by_its_natural_key(plant: Plant, servers: Servers) -> None:
    operator, mqtt = urlsplit(servers.nats_url), urlsplit(servers.nats_roles["mqtt"])
    assert mqtt.hostname is not None
    async with aiomqtt.Client(
        mqtt.hostname, mqtt.port or 0, username=operator.username, password=operator.password
    ) as client:
        topic = plant.topology.ingest_topic("parcels")
        assert topic == f"{plant.settings.namespace}ingest/parcels"
        await asyncio.gather(*(client.publish(topic, b'{"number":"7","weight":3}', qos=1) for _ in range(5)))
        await client.publish(topic, b'{"number":"8","weight":2}', qos=0)
        # Another document under the same key is refused, not stored over the first.
        await client.publish(topic, b'{"number":"7","weight":4}', qos=1)
        large = b'{"name":"' + b"x" * 500_000 + b'"}'
        await client.publish(plant.topology.ingest_topic("things"), large, qos=1)
        js = plant.bus.client.jetstream()

        async def arrived() -> bool:
            return (await js.stream_info(plant.topology.stream("RAW"))).state.messages == 8

        await until(arrived)
    await plant.work()

    [row] = await plant.fetch('SELECT count(*) AS n, sum(weight) AS weight FROM facts."parcels"')
    assert (row["n"], row["weight"]) == (2, 5)
    assert len(await plant.stored("things")) == 1
    assert await plant.letters() == [("documents", "idempotency_conflict"), ("facts", "idempotency_conflict")]
    await assert_balanced(plant.settings)
