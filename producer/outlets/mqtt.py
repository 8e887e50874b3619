"""Rows over MQTT, as a device sends them: each with QoS 1, and again until the broker has acknowledged it.

A broker tells nobody what the pipeline thinks of a document: what is refused there is a dead letter, and counts as
accepted here. A row that had to be sent again is one document where its pipeline has a natural key.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Final

import aiomqtt

from headrace.broker import Broker
from producer.outlets import attempts
from producer.upload import Chunk, Outlet, Progress, RefusedRow, UploadError

# Acknowledgements that are waited for at the same time; brokers count them in 16 bits.
_IN_FLIGHT: Final = 500
_TIMEOUT_SECONDS: Final = 10.0


@contextlib.asynccontextmanager
async def open_mqtt(broker: Broker, topic: str) -> AsyncIterator[Outlet]:
    """Give the outlet that is a topic of a broker.

    Raises:
        UploadError: the broker is away or refuses the credentials.
    """
    outlet = _Mqtt(broker, topic)
    try:
        await outlet.connect()
        yield outlet
    finally:
        await outlet.close()


class _Mqtt:
    def __init__(self, broker: Broker, topic: str) -> None:
        self._broker = broker
        self._topic = topic
        self._client: aiomqtt.Client | None = None
        self._alone = asyncio.Lock()

    async def send(self, chunk: Chunk, progress: Progress) -> list[RefusedRow]:
        left: Sequence[bytes] = chunk.bodies
        for attempt in range(1, attempts.MOST_ATTEMPTS + 1):
            try:
                client = await self.connect()
                left = await self._published(client, left)
            except UploadError:
                if attempt == attempts.MOST_ATTEMPTS:
                    raise
            if not left:
                return []
            if attempt < attempts.MOST_ATTEMPTS:
                progress.retries += 1
                await asyncio.sleep(attempts.wait_seconds(attempt))
        raise UploadError(f"The broker did not acknowledge {len(left)} documents in {attempts.MOST_ATTEMPTS} attempts.")

    async def _published(self, client: aiomqtt.Client, bodies: Sequence[bytes]) -> list[bytes]:
        """Return those that were not acknowledged; the connection is then given up."""
        left: list[bytes] = []
        for start in range(0, len(bodies), _IN_FLIGHT):
            some = bodies[start : start + _IN_FLIGHT]
            outcomes = await asyncio.gather(
                *(client.publish(self._topic, body, qos=1) for body in some), return_exceptions=True
            )
            for body, outcome in zip(some, outcomes, strict=True):
                if isinstance(outcome, aiomqtt.MqttError | OSError):
                    left.append(body)
                elif isinstance(outcome, BaseException):
                    raise outcome
            if left:
                left += bodies[start + _IN_FLIGHT :]
                await self._give_up(client)
                break
        return left

    async def connect(self) -> aiomqtt.Client:
        async with self._alone:
            if self._client is None:
                client = aiomqtt.Client(
                    self._broker.host,
                    self._broker.port,
                    username=self._broker.username,
                    password=self._broker.password,
                    timeout=_TIMEOUT_SECONDS,
                    max_inflight_messages=_IN_FLIGHT,
                    tls_params=aiomqtt.TLSParameters() if self._broker.secure else None,
                )
                # Else it warns of every chunk.
                client.pending_calls_threshold = 2**16
                try:
                    await client.__aenter__()
                except (aiomqtt.MqttError, OSError) as error:
                    raise UploadError(
                        f"The broker at {self._broker.host}:{self._broker.port} does not let us in: {_why(error)}"
                    ) from None
                self._client = client
            return self._client

    async def close(self) -> None:
        if self._client is not None:
            await self._give_up(self._client)

    async def _give_up(self, client: aiomqtt.Client) -> None:
        if self._client is client:
            self._client = None
            with contextlib.suppress(aiomqtt.MqttError, OSError):
                await client.__aexit__(None, None, None)


def _why(error: Exception) -> str:
    return str(error) or str(getattr(error, "rc", "")) or type(error).__name__
