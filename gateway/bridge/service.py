"""The bridge's process: keeps a session with an MQTT broker, and a document's PUBACK behind our stream's PubAck."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Final

import aiomqtt

from gateway.bridge.carry import Carrier
from gateway.bridge.session import Session
from gateway.bridge.topics import TopicTemplate
from headrace import telemetry
from headrace.broker import broker_of
from headrace.errors import HeadraceError
from headrace.messaging.commit import Committer
from headrace.messaging.connection import connect
from headrace.messaging.mesh import serve
from headrace.messaging.publisher import open_publisher
from headrace.registry import load_pipelines
from headrace.roles import BRIDGE
from headrace.settings import Settings
from headrace.topology import Topology

log = telemetry.logger(__name__)

_FIRST_WAIT_SECONDS: Final = 0.25
_LONGEST_WAIT_SECONDS: Final = 10.0


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """Bring documents until `stop` is set, then finish those that were received.

    Raises:
        HeadraceError: the broker's URL or the topic cannot be used, a pipeline cannot be loaded, or NATS does not
            answer.
        BusLostError: NATS is lost for good; the process is to be started again.
    """
    mqtt, topology = settings.mqtt, Topology(settings.namespace)
    if mqtt.url is None:
        raise HeadraceError("No broker is named. Set HEADRACE_MQTT__URL or --broker.", code="invalid_value")
    try:
        template = TopicTemplate(mqtt.topic)
    except ValueError as error:
        raise HeadraceError(f"{error}. Set HEADRACE_MQTT__TOPIC or --topic.", code="invalid_value") from None
    broker = broker_of(mqtt.url.get_secret_value())
    pipelines = load_pipelines(settings.pipelines)
    connected = False

    async def status() -> Mapping[str, object]:
        return {"broker": connected, "topic": template.filter}

    async with (
        connect(settings, BRIDGE) as bus,
        open_publisher(bus, settings.nats.publish_timeout_seconds) as publisher,
        serve(bus, settings.namespace, BRIDGE, {}, status=status),
    ):
        limits = settings.gateway
        committer = Committer(
            publisher,
            topology,
            settings.block,
            max_documents=limits.in_flight_documents,
            max_bytes=limits.in_flight_bytes,
        )
        carrier = Carrier(committer, publisher, topology, pipelines, mqtt, limits.max_depth)
        wait = _FIRST_WAIT_SECONDS
        while not stop.is_set():
            try:
                async with Session(broker, mqtt.client_id, carrier) as session:
                    connected, wait = True, _FIRST_WAIT_SECONDS
                    await session.run(template.filter, stop)
            except (aiomqtt.MqttError, OSError) as error:
                log.warning("mqtt_away", reason=_said(error), seconds=wait)
            finally:
                connected = False
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await stop.wait()
            wait = min(2 * wait, _LONGEST_WAIT_SECONDS)


def _said(error: Exception) -> str:
    reason = getattr(error, "rc", None)
    return f"{error or type(error).__name__}" + (f" ({reason})" if reason is not None else "")
