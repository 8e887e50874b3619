"""What nats-server's own MQTT listener promises with a PUBACK and what not, as docs/mqtt.md says."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import aiomqtt
import pytest
from pydantic import SecretStr

from headrace.messaging.connection import Bus, connect
from headrace.settings import Settings, StreamSettings
from headrace.topology import RAW, ensure
from tests.servers import Servers, in_own_task, reachable_directory, running


@pytest.fixture(scope="module")
async def listener() -> AsyncIterator[Servers]:
    with reachable_directory() as directory:
        async with in_own_task(running(directory, ["nats_url"])) as servers:
            yield servers


@contextlib.asynccontextmanager
async def client(servers: Servers, *, password: str | None = None) -> AsyncIterator[aiomqtt.Client]:
    """Be a device."""
    url = urlsplit(servers.nats_roles["mqtt"])
    assert url.hostname is not None
    password = url.password if password is None else password
    async with aiomqtt.Client(
        url.hostname,
        url.port or 0,
        username=url.username if password else None,
        password=password or None,
        timeout=2,
    ) as device:
        yield device


async def in_raw(bus: Bus) -> int:
    return (await bus.client.jetstream().stream_info(RAW)).state.messages


async def test_a_puback_is_given_for_what_no_stream_keeps(listener: Servers) -> None:
    settings = Settings(
        nats_url=SecretStr(listener.nats_url), streams=StreamSettings(raw_max_bytes=1 << 16, clean_max_bytes=1 << 20)
    )
    async with connect(settings, "test") as bus, client(listener) as device:
        await ensure(bus, settings)
        # Each returns, so each has its PUBACK: while there is room, when there is none, and where it may not publish.
        for _ in range(5):
            await device.publish("ingest/invoices", b"x" * 30_000, qos=1)
        kept = await in_raw(bus)
        await device.publish("raw/invoices", b"{}", qos=1)
        await device.publish("ingest/invoices/more", b"{}", qos=1)

        assert 0 < kept < 5
        assert await in_raw(bus) == kept


async def test_what_is_larger_than_the_server_takes_ends_the_connection(listener: Servers) -> None:
    with pytest.raises(aiomqtt.MqttError):
        async with client(listener) as device:
            await device.publish("ingest/invoices", b"x" * (1 << 20), qos=1)


@pytest.mark.parametrize("topic", ["ingest/+", "ingest/invoices", "raw/#", "#", "$MQTT/#"])
async def test_a_device_hears_nothing(listener: Servers, topic: str) -> None:
    with contextlib.suppress(aiomqtt.MqttError):
        async with client(listener) as device:
            (granted,) = await device.subscribe(topic, qos=1)
            assert granted in (128,) or getattr(granted, "value", 0) == 128


@pytest.mark.parametrize("password", ["wrong", ""])
async def test_without_its_password_nobody_comes_in(listener: Servers, password: str) -> None:
    with pytest.raises(aiomqtt.MqttError):
        async with client(listener, password=password):
            pass


@pytest.mark.parametrize("role", ["gateway", "workers", "analytics", "auth"])
async def test_a_services_password_opens_no_mqtt_connection(listener: Servers, role: str) -> None:
    url, mqtt = urlsplit(listener.nats_roles[role]), urlsplit(listener.nats_roles["mqtt"])
    assert mqtt.hostname is not None
    with pytest.raises(aiomqtt.MqttError):
        async with aiomqtt.Client(
            mqtt.hostname, mqtt.port or 0, username=url.username, password=url.password, timeout=5
        ):
            pass
