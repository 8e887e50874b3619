"""The bridge between a real broker and real streams: what is acknowledged there is on disk here.

The broker is nats-server's own MQTT listener, on topics that no stream takes, so that only the bridge brings them in.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import aiomqtt
import nats.errors
import pytest
from nats.js.errors import NotFoundError
from pydantic import SecretStr
from structlog.testing import capture_logs

from gateway.bridge.service import run
from headrace.document import BLOCK_HEADER, envelopes
from headrace.errors import HeadraceError
from headrace.identity import BARE_SENDER, document_id
from headrace.messaging.connection import Bus, connect
from headrace.registry import load_pipelines
from headrace.settings import MqttSettings, Settings
from headrace.topology import RAW, Topology, ensure
from tests.conftest import SMALL_STREAMS
from tests.servers import DEADLINE_SECONDS, Servers, reachable_directory, running, until
from tests.workers.plant import PIPELINES

ROOT = Path(__file__).parents[3]
_TOGETHER = 100
TOO_LARGE = b'{"number":"' + b"1" * 640_000 + b'"}'


def broker_url(servers: Servers) -> str:
    """Return how the operator reaches the MQTT listener."""
    nats_url, mqtt_url = urlsplit(servers.nats_url), urlsplit(servers.nats_roles["mqtt"])
    return f"mqtt://{nats_url.username}:{nats_url.password}@{mqtt_url.hostname}:{mqtt_url.port}"


def bridge_settings(servers: Servers, namespace: str) -> Settings:
    return Settings(
        nats_url=SecretStr(servers.nats_url),
        namespace=namespace,
        pipelines=PIPELINES,
        streams=SMALL_STREAMS,
        mqtt=MqttSettings(
            url=SecretStr(broker_url(servers)), topic=f"{namespace}/{{pipeline}}", client_id=f"bridge-{namespace}"
        ),
    )


@contextlib.asynccontextmanager
async def bridging(settings: Settings) -> AsyncIterator[asyncio.Task[None]]:
    """Run the bridge while the body runs; subscribed when the body begins."""
    stop = asyncio.Event()
    with capture_logs() as logs:
        task = asyncio.create_task(run(settings, stop))
        await until(lambda: task.done() or any(log["event"] == "mqtt_subscribed" for log in logs))
    try:
        yield task
    finally:
        stop.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait_for(task, DEADLINE_SECONDS)


async def send(settings: Settings, pipeline: str, payloads: Iterable[bytes], qos: int = 1) -> None:
    """Publish; returns when the broker has acknowledged everything."""
    assert settings.mqtt.url is not None
    url = urlsplit(settings.mqtt.url.get_secret_value())
    assert url.hostname is not None
    async with aiomqtt.Client(url.hostname, url.port or 0, username=url.username, password=url.password) as client:
        client.pending_calls_threshold = _TOGETHER
        for some in batched(payloads, _TOGETHER):
            await asyncio.gather(
                *(client.publish(f"{settings.namespace}/{pipeline}", payload, qos=qos) for payload in some)
            )


def batched(payloads: Iterable[bytes], size: int) -> Iterator[list[bytes]]:
    """Yield the payloads in lists of this size; the last may be shorter."""
    left = iter(payloads)
    while some := list(itertools.islice(left, size)):
        yield some


class Raw:
    """What has arrived."""

    def __init__(self, bus: Bus, settings: Settings) -> None:
        self._js = bus.client.jetstream()
        self._topology = Topology(settings.namespace)
        self._stream = self._topology.stream(RAW)

    async def documents(self) -> tuple[list[str], list[bytes]]:
        """Return the ids of the documents in blocks, and the bodies of bare ones."""
        ids: list[str] = []
        bare: list[bytes] = []
        state = (await self._js.stream_info(self._stream)).state
        for sequence in range(max(1, state.first_seq), state.last_seq + 1):
            with contextlib.suppress(NotFoundError):
                message = await self._js.get_msg(self._stream, sequence)
                data = message.data or b""
                if self._topology.is_bare(message.subject or ""):
                    bare.append(data)
                else:
                    assert BLOCK_HEADER in (message.headers or {})
                    ids += [envelope.id for envelope in envelopes(data)]
        return ids, bare

    async def until_documents(self, ids: set[str], bare: int = 0) -> tuple[list[str], list[bytes]]:
        """Return what there is once all these documents are there."""
        found: tuple[list[str], list[bytes]] = ([], [])
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not (ids <= set(found[0]) and len(found[1]) >= bare):
                with contextlib.suppress(nats.errors.Error, NotFoundError):
                    found = await self.documents()
                await asyncio.sleep(0.05)
        return found


def parcel(number: int) -> bytes:
    return json.dumps({"number": str(number)}).encode()


def parcel_id(number: int) -> str:
    parcels = load_pipelines(PIPELINES)["parcels"]
    return document_id(parcels, BARE_SENDER, parcels.accepts(number=str(number)), None)


async def test_messages_become_documents_and_what_refine_must_refuse_goes_to_it(
    servers: Servers, namespace: str
) -> None:
    settings = bridge_settings(servers, namespace)
    async with connect(settings, "test") as bus:
        await ensure(bus, settings)
        raw = Raw(bus, settings)
        with capture_logs() as logs:
            async with bridging(settings):
                await send(settings, "parcels", [parcel(1), b"\n" + parcel(2) + b"\n", parcel(1)])
                await send(settings, "parcels", [parcel(3)], qos=0)
                await send(settings, "parcels", [b'{"weight":"x"}', b"\xff", TOO_LARGE])
                await send(settings, "nobody", [b"{}"])
                ids, bare = await raw.until_documents({parcel_id(number) for number in (1, 2, 3)}, bare=3)
                # The bridge is done with it only when it has refused what nothing could hold.
                await until(lambda: any(log["event"] == "mqtt_refused" for log in logs))

    assert sorted(ids) == sorted(map(parcel_id, (1, 1, 2, 3)))
    assert sorted(bare) == sorted([b'{"weight":"x"}', b"\xff", b"{}"])
    (refused,) = [log for log in logs if log["event"] == "mqtt_refused"]
    assert refused["code"] == "document_too_large"
    assert refused["log_level"] == "error"


async def test_what_the_stream_has_no_room_for_stays_at_the_broker(servers: Servers, namespace: str) -> None:
    settings = bridge_settings(servers, namespace)
    small = settings.model_copy(update={"streams": SMALL_STREAMS.model_copy(update={"raw_max_bytes": 1 << 16})})
    heavy = [json.dumps({"number": str(number), "filler": "x" * 30_000}).encode() for number in range(8)]
    async with connect(settings, "test") as bus:
        await ensure(bus, small)
        raw = Raw(bus, settings)
        with capture_logs() as logs:
            async with bridging(settings) as task:
                await send(settings, "parcels", heavy)
                await until(lambda: any(log["event"] == "mqtt_waits" for log in logs))
                # It ends without a word, as a killed process does: what it had received is not acknowledged.
                task.cancel()
        before, _ = await raw.documents()
        await ensure(bus, settings)
        async with bridging(settings):
            ids, _ = await raw.until_documents(set(map(parcel_id, range(8))))

    assert len(set(before)) < 8
    assert set(ids) == set(map(parcel_id, range(8)))


async def test_a_killed_bridge_loses_nothing_and_doubles_nothing(servers: Servers, namespace: str) -> None:
    settings = bridge_settings(servers, namespace)
    count = 300
    expected = set(map(parcel_id, range(count)))
    async with connect(settings, "test") as bus:
        await ensure(bus, settings)
        raw = Raw(bus, settings)
        async with bridging(settings):
            pass  # Once, so that the broker keeps the session.
        sending = asyncio.create_task(send(settings, "parcels", map(parcel, range(count))))
        process = await _spawned(settings)
        async with asyncio.timeout(DEADLINE_SECONDS):
            while len((await raw.documents())[0]) < count / 4:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        await process.wait()
        async with bridging(settings):
            ids, bare = await raw.until_documents(expected)
            await sending

    # The same id again is a repeat, which changes no store.
    assert set(ids) == expected
    assert bare == []


async def test_it_goes_on_after_broker_and_stream_were_killed() -> None:
    with reachable_directory() as directory:
        async with running(directory, ["nats_url"]) as own:
            settings = bridge_settings(own, "b_")
            async with connect(settings, "test") as bus:
                await ensure(bus, settings)
                raw = Raw(bus, settings)
                async with bridging(settings):
                    await send(settings, "parcels", map(parcel, range(20)))
                    await own.kill("nats")
                    await send(settings, "parcels", map(parcel, range(20, 40)))
                    ids, _ = await raw.until_documents(set(map(parcel_id, range(40))))

    assert set(ids) == set(map(parcel_id, range(40)))


@pytest.mark.parametrize(
    ("mqtt", "said"),
    [
        (MqttSettings(), "HEADRACE_MQTT__URL"),
        (MqttSettings(url=SecretStr("http://127.0.0.1")), "mqtt://"),
        (MqttSettings(url=SecretStr("mqtt://127.0.0.1"), topic="ingest/#"), "HEADRACE_MQTT__TOPIC"),
    ],
)
async def test_what_it_cannot_work_with_is_said_at_the_start(servers: Servers, mqtt: MqttSettings, said: str) -> None:
    settings = bridge_settings(servers, "b").model_copy(update={"mqtt": mqtt})
    with pytest.raises(HeadraceError, match=said):
        await asyncio.wait_for(run(settings, asyncio.Event()), DEADLINE_SECONDS)


async def _spawned(settings: Settings) -> asyncio.subprocess.Process:
    """Run the real command."""
    assert settings.mqtt.url is not None
    given = {
        "HEADRACE_NATS_URL": settings.nats_url.get_secret_value(),
        "HEADRACE_NAMESPACE": settings.namespace,
        "HEADRACE_PIPELINES": str(settings.pipelines),
        "HEADRACE_MQTT__URL": settings.mqtt.url.get_secret_value(),
    }
    options = ("--topic", settings.mqtt.topic, "--client-id", settings.mqtt.client_id)
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cli.main", "mqtt-bridge", *options),
        cwd=ROOT,
        env={**os.environ, **given},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
