"""One connection of a persistent MQTT session. A message is acknowledged once it has been carried, in order of receipt.

aiomqtt acknowledges what it has received before anybody has seen it; paho, which it is built on, can leave that to us.
An acknowledgement belongs to its connection: on the next one the broker may give its number to another message.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Final

import aiomqtt
from paho.mqtt.client import MQTTMessage
from paho.mqtt.reasoncodes import ReasonCode

from gateway.bridge.carry import Carrier, Received
from headrace import telemetry
from headrace.broker import Broker
from headrace.tasks import end

log = telemetry.logger(__name__)

_KEEPALIVE_SECONDS: Final = 20
_TIMEOUT_SECONDS: Final = 10.0
# Of messages that the broker will not send again (QoS 0), what may be under way before more are dropped.
_MOST_UNPROMISED: Final = 10_000
_FAILED: Final = 128


class Session(aiomqtt.Client):
    """Use as a context, then `run`."""

    def __init__(self, broker: Broker, client_id: str, carrier: Carrier) -> None:
        super().__init__(
            broker.host,
            broker.port,
            username=broker.username,
            password=broker.password,
            identifier=client_id,
            clean_session=False,
            timeout=_TIMEOUT_SECONDS,
            keepalive=_KEEPALIVE_SECONDS,
            tls_params=aiomqtt.TLSParameters() if broker.secure else None,
        )
        self._client.manual_ack_set(True)
        self._carrier = carrier
        self._order: asyncio.Queue[_Promised] = asyncio.Queue()
        self._open: dict[int, _Promised] = {}
        self._unpromised: set[asyncio.Task[None]] = set()
        self._leaving = False

    async def run(self, topic_filter: str, stop: asyncio.Event) -> None:
        """Carry what comes until `stop` is set, then finish what came.

        Raises:
            MqttError: the connection is lost, or the broker refuses the subscription.
        """
        acknowledging = asyncio.create_task(self._acknowledge())
        stopping = asyncio.create_task(stop.wait())
        try:
            # Messages that the broker kept for this session may come before its answer.
            codes = [_code(granted) for granted in await self.subscribe(topic_filter, qos=1)]
            if any(code >= _FAILED for code in codes):
                raise aiomqtt.MqttError(f"the broker refuses the subscription to {topic_filter}")
            log.info("mqtt_subscribed", filter=topic_filter, qos=codes)
            ends: set[asyncio.Future[Any]] = {acknowledging, stopping, self._disconnected}
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if acknowledging.done():
                acknowledging.result()
            if self._disconnected.done():
                raise aiomqtt.MqttError(f"the connection is lost ({self._disconnected.exception()})")
            # What still comes is not acknowledged, and waits at the broker for the next start.
            self._leaving = True
            while under_way := {*(one.task for one in self._open.values()), *self._unpromised}:
                waits: set[asyncio.Future[Any]] = {self._disconnected, *under_way}
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                if self._disconnected.done():
                    return
                # The acknowledgement's turn.
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            await end(*self._unpromised)
            raise
        finally:
            await end(acknowledging, stopping)
            for one in self._open.values():
                self._carrier.orphaned(one.message, one.name)
            # The broker sends it again.
            await end(*(one.task for one in self._open.values()))

    def _on_message(self, client: Any, userdata: Any, message: MQTTMessage) -> None:
        if self._leaving:
            return
        received = Received(message.topic, bytes(message.payload), message.qos, message.dup, message.retain)
        if not message.qos:
            self._carry_unpromised(received)
        elif message.mid not in self._open:  # else it came again while it is under way
            name = self._carrier.name(received)
            task = asyncio.create_task(self._carrier.carry(received, name))
            self._open[message.mid] = promised = _Promised(message.mid, received, name, task)
            self._order.put_nowait(promised)

    def _carry_unpromised(self, received: Received) -> None:
        if len(self._unpromised) >= _MOST_UNPROMISED:
            telemetry.mqtt_messages.labels("dropped").inc()
            return
        task = asyncio.create_task(self._carrier.carry(received, self._carrier.name(received)))
        self._unpromised.add(task)
        task.add_done_callback(self._unpromised.discard)

    async def _acknowledge(self) -> None:
        """Acknowledge in the order of receipt, as MQTT 3.1.1 demands (4.6)."""
        while True:
            promised = await self._order.get()
            await promised.task
            with contextlib.suppress(OSError):
                self._client.ack(promised.mid, 1)
            self._open.pop(promised.mid, None)


def _code(granted: int | ReasonCode) -> int:
    return granted if isinstance(granted, int) else granted.value


class _Promised:
    """A message that the broker holds until we acknowledge it."""

    __slots__ = ("message", "mid", "name", "task")

    def __init__(self, mid: int, message: Received, name: str, task: asyncio.Task[None]) -> None:
        self.mid = mid
        self.message = message
        self.name = name
        self.task = task
