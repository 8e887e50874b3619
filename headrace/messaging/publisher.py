"""Publishes to JetStream and knows what became of it: stored, not stored, or unknown.

nats-py's own asynchronous publish never resolves on an error reply and keeps what was in flight at a
disconnect pending for ever, so this is our own: one inbox, one future and one deadline per message.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

import msgspec
import nats.errors
from nats.aio.msg import Msg

from headrace import failpoints, telemetry
from headrace.errors import UnavailableError
from headrace.messaging.connection import Bus

# The code of an error after which the message may be stored all the same.
OUTCOME_UNKNOWN: Final = "outcome_unknown"
# JetStream error codes that say the message was refused, so surely not stored, and that time heals.
_FULL = frozenset({10077, 10122, 10047, 10023, 10028})
# So many writes in a row without a word: JetStream writes to a disk that is full, or has no quorum. It says neither.
_MISSES: Final = 3
_SILENT_SECONDS: Final = 10.0


class PubAck(msgspec.Struct):
    stream: str = ""
    seq: int = 0
    duplicate: bool = False
    error: dict[str, Any] | None = None


log = telemetry.logger(__name__)
_decode = msgspec.json.Decoder(PubAck).decode


class Publisher:
    """Use `open_publisher`."""

    def __init__(self, bus: Bus, timeout_seconds: float) -> None:
        self._bus = bus
        self._timeout_seconds = timeout_seconds
        self._inbox = bus.client.new_inbox()
        # By reply: the subject, and what its PubAck settles.
        self._waiting: dict[str, tuple[str, asyncio.Future[PubAck]]] = {}
        self._token = 0
        # Since JetStream answered last, or the connection broke: what was not answered in time, and when that was.
        self._missed = 0
        self._missed_at = 0.0

    @property
    def silent(self) -> bool:
        """Return whether JetStream confirms no writes, as far as was tried within some seconds."""
        recent = asyncio.get_running_loop().time() - self._missed_at < _SILENT_SECONDS
        return self._missed >= _MISSES and (recent or bool(self._waiting))

    async def publish(self, subject: str, body: bytes, headers: Mapping[str, str]) -> PubAck:
        """Return once the message is on disk.

        Raises:
            UnavailableError: `outcome_unknown` when it may be stored all the same; another code when it is surely not.
        """
        if not self._bus.connected:
            raise UnavailableError("The message bus is away.", code="nats_unavailable", retry_after_seconds=2)
        if self._missed >= _MISSES and self._waiting:
            # One at a time finds out when that is over; nobody else need wait for it.
            raise UnavailableError(
                "JetStream confirms no writes; its disk may be full.",
                code="jetstream_unavailable",
                retry_after_seconds=self._timeout_seconds,
            )
        loop = asyncio.get_running_loop()
        self._token += 1
        reply = f"{self._inbox}.{self._token}"
        waiting: asyncio.Future[PubAck] = loop.create_future()
        self._waiting[reply] = subject, waiting
        deadline = loop.call_later(self._timeout_seconds, self._too_late, reply)
        started = loop.time()
        try:
            try:
                await self._bus.client.publish(subject, body, reply=reply, headers=dict(headers))
            except nats.errors.MaxPayloadError as error:
                raise UnavailableError(
                    f"The block is larger than the server takes: {error}.", code="block_too_large"
                ) from None
            except nats.errors.Error as error:
                raise UnavailableError(
                    f"The message bus is away ({type(error).__name__}).", code="nats_unavailable", retry_after_seconds=2
                ) from None
            failpoints.hit("publisher.sent")
            ack: PubAck = await waiting
        finally:
            deadline.cancel()
            self._waiting.pop(reply, None)
        telemetry.commit_seconds.labels(ack.stream).observe(loop.time() - started)
        return ack

    async def _received(self, message: Msg) -> None:
        # Also where it comes too late: slow is not silent.
        self._missed = 0
        _, waiting = self._waiting.get(message.subject, (None, None))
        if waiting is None or waiting.done():
            return
        failpoints.hit("publisher.confirmed")
        try:
            waiting.set_result(_acknowledged(message))
        except UnavailableError as error:
            waiting.set_exception(error)

    def _too_late(self, reply: str) -> None:
        self._missed += 1
        self._missed_at = asyncio.get_running_loop().time()
        if self._missed == _MISSES:
            log.error("jetstream_silent", fix="see whether the disk of NATS is full, or its cluster has no quorum")
        self._fail(reply, f"JetStream did not confirm the write within {self._timeout_seconds:g} s")

    def _disconnected(self) -> None:
        self._missed = 0
        for reply in list(self._waiting):
            self._fail(reply, "The connection to the message bus broke before the write was confirmed")

    def _refused(self, refused: str) -> None:
        for subject, waiting in self._waiting.values():
            if subject.lower() == refused and not waiting.done():
                waiting.set_exception(
                    UnavailableError(
                        f"The server lets this process not publish to {subject}.",
                        code="jetstream_refused",
                        retry_after_seconds=30,
                    )
                )

    def _fail(self, reply: str, why: str) -> None:
        _, waiting = self._waiting.get(reply, (None, None))
        if waiting is not None and not waiting.done():
            waiting.set_exception(
                UnavailableError(
                    f"{why}; the outcome is unknown. Send it again with the same Idempotency-Key.",
                    code=OUTCOME_UNKNOWN,
                    retry_after_seconds=2,
                )
            )


@contextlib.asynccontextmanager
async def open_publisher(bus: Bus, timeout_seconds: float) -> AsyncIterator[Publisher]:
    publisher = Publisher(bus, timeout_seconds)
    subscription = await bus.client.subscribe(f"{publisher._inbox}.*", cb=publisher._received)
    bus.on_disconnect.append(publisher._disconnected)
    bus.on_refused.append(publisher._refused)
    try:
        yield publisher
    finally:
        bus.on_refused.remove(publisher._refused)
        bus.on_disconnect.remove(publisher._disconnected)
        publisher._disconnected()
        with contextlib.suppress(nats.errors.Error):
            await subscription.unsubscribe()


def _acknowledged(message: Msg) -> PubAck:
    """Return the PubAck that a reply holds.

    Raises:
        UnavailableError: the reply says that nothing was stored.
    """
    if not message.data and (message.headers or {}).get("Status") == "503":
        raise UnavailableError(
            "No stream takes this subject now: JetStream is starting, or the streams are missing.",
            code="jetstream_unavailable",
            retry_after_seconds=2,
        )
    ack = _decode(message.data)
    if ack.error is None:
        return ack
    code, detail = int(ack.error.get("err_code", 0)), str(ack.error.get("description", ""))
    if code in _FULL:
        raise UnavailableError(f"The stream is full: {detail}.", code="stream_full", retry_after_seconds=5)
    raise UnavailableError(
        f"JetStream refused the write: {detail} ({code}).", code="jetstream_refused", retry_after_seconds=2
    )
