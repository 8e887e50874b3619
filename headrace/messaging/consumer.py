"""A durable pull consumer of blocks: pulls overlap, what is held is kept in progress, shutdown leaves nothing behind.

nats-py's `fetch` costs a task per message, may return more than asked for and makes `drain` hang,
so pulls are sent and counted here.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass

import nats.errors
from nats.aio.msg import Msg
from nats.js.errors import NotFoundError

from headrace import telemetry
from headrace.document import BLOCK_HEADER, COUNT_HEADER, Block, derived_id, parse_id, rfc3339
from headrace.errors import UnavailableError
from headrace.messaging.connection import Bus
from headrace.settings import Settings
from headrace.tasks import end
from headrace.topology import StageTopology, Topology, ensure, ensure_consumer

log = telemetry.logger(__name__)

_PULL_BLOCKS = 128
_SHORTEST_LINE = 64
_OPEN_PULLS = 2
# Also how long a stop takes: a pull cannot be taken back.
_PULL_SECONDS = 1.0
_HEARTBEAT_SECONDS = 0.5
# How a pull ends when all is well: (status, the start of its description).
_ROUTINE_ENDS = (("404", ""), ("408", ""), ("409", "Batch Completed"), ("409", "Message Size Exceeds MaxBytes"))
# From this delivery on a block may be what killed its worker, and is handled alone.
SUSPICIOUS_ATTEMPT = 2


@dataclass(eq=False, slots=True)
class Delivery:
    """One block in a worker's hands; it leaves them settled.

    Attributes:
        bare: the message is a bare document from a publisher other than the gateway, not NDJSON of envelopes.
        attempt: deliveries so far, 1 for the first.
        stored_at: when JetStream stored the message, RFC 3339.
    """

    block: Block
    bare: bool
    attempt: int
    stored_at: str
    headers: dict[str, str]
    reply: str
    _consumer: BlockConsumer

    async def ack(self) -> None:
        await self._consumer._settle(self, b"+ACK")

    async def nak(self, delay_seconds: float) -> None:
        """Give the block back, to come again after the delay; a bare nak would come again at once, for ever."""
        await self._consumer._settle(self, b'-NAK {"delay": %d}' % int(delay_seconds * 1e9))


class BlockConsumer:
    """Use `open_consumer`."""

    def __init__(self, bus: Bus, settings: Settings, stage: StageTopology) -> None:
        self._bus = bus
        self._settings = settings
        self._stage = stage
        self._topology = Topology(settings.namespace)
        self._inbox = bus.client.new_inbox()
        self._next = f"$JS.API.CONSUMER.MSG.NEXT.{self._topology.stream(stage.stream)}.{stage.name}"
        self._ready: deque[Delivery] = deque()
        self._ready_bytes = 0
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()
        self._held: set[Delivery] = set()
        self._pulls: set[str] = set()
        self._refused = False
        self._last_heard = 0.0
        self._token = 0
        self._stopping = False
        self._ended = False

    def stop(self) -> None:
        """Pull no more. `take` gives what is still on its way, then ends."""
        self._stopping = True
        self._room.set()

    async def take(self, max_documents: int, max_blocks: int) -> list[Delivery]:
        """Return at least one delivery and at most what the limits allow; empty only once all has ended.

        A delivery that may be the death of its worker comes alone.
        """
        while not self._ready:
            if self._ended:
                return []
            self._arrived.clear()
            await self._arrived.wait()
        taken: list[Delivery] = []
        documents = 0
        while self._ready and len(taken) < max_blocks:
            delivery = self._ready[0]
            alone = delivery.attempt >= SUSPICIOUS_ATTEMPT
            if taken and (alone or documents + delivery.block.count > max_documents):
                break
            taken.append(self._ready.popleft())
            self._ready_bytes -= len(delivery.block.body)
            documents += delivery.block.count
            if alone:
                break
        self._room.set()
        return taken

    async def _settle(self, delivery: Delivery, word: bytes) -> None:
        self._held.discard(delivery)
        # An ack that is lost here repeats work and changes nothing.
        with contextlib.suppress(nats.errors.Error):
            await self._bus.client.publish(delivery.reply, word)

    async def _received(self, message: Msg) -> None:
        self._last_heard = asyncio.get_running_loop().time()
        status = (message.headers or {}).get("Status") if not message.reply else None
        if status is not None or not message.reply.startswith("$JS.ACK."):
            self._pull_ended(message, status or "")
            return
        delivery = self._delivery(message)
        self._held.add(delivery)
        self._ready.append(delivery)
        self._ready_bytes += len(delivery.block.body)
        self._refused = False
        self._arrived.set()
        self._room.set()

    def _pull_ended(self, message: Msg, status: str) -> None:
        if status == "100":  # heartbeat
            return
        self._pulls.discard(message.subject)
        why = (message.headers or {}).get("Description", "")
        refused = not any(status == routine and why.startswith(start) for routine, start in _ROUTINE_ENDS)
        if refused and not self._refused:
            log.warning("pull_refused", stage=self._stage.name, status=status, why=why)
        self._refused = refused
        self._room.set()

    def _delivery(self, message: Msg) -> Delivery:
        about = message.metadata
        headers = message.headers or {}
        bare = self._topology.is_bare(message.subject)
        stored_at = rfc3339(about.timestamp)
        # What has no id from the gateway is named by sequence and time together: the sequence alone can come again
        # after a lost tail. The id of another publisher may be anything, even that of somebody else's block.
        block_id = None if bare else _uuid(headers.get(BLOCK_HEADER, ""))
        if block_id is None:
            block_id = derived_id("bare", str(about.sequence.stream), stored_at)
            count = 1
        else:
            # Of a message without its body, its size is in a header; no envelope is shorter than that.
            size = _whole_number(headers.get("Nats-Msg-Size", "")) if not message.data else len(message.data)
            count = min(_whole_number(headers.get(COUNT_HEADER, "")), max(1, size // _SHORTEST_LINE))
        pipeline = self._topology.pipeline_of(message.subject)
        return Delivery(
            Block(block_id, pipeline, message.data, count),
            bare,
            about.num_delivered or 1,
            stored_at,
            headers,
            message.reply,
            self,
        )

    async def _run(self) -> None:
        """Keep enough pulls open for what there is room for, until told to stop and all pulls have ended."""
        loop = asyncio.get_running_loop()
        self._last_heard = loop.time()
        while not (self._stopping and not self._pulls):
            if self._pulls and loop.time() - self._last_heard > _PULL_SECONDS + 2:
                # A pull can die without a word, at a change of leader or a reconnect.
                log.warning("pulls_lost", stage=self._stage.name)
                self._pulls.clear()
                self._last_heard = loop.time()
            if self._refused and not self._stopping:
                # The consumer or its stream is gone, or JetStream is starting; asking at once would be a storm.
                await asyncio.sleep(_HEARTBEAT_SECONDS)
            room = self._ready_bytes < self._settings.workers.prefetch_bytes and len(self._ready) < 2 * _PULL_BLOCKS
            if not self._stopping and room and len(self._pulls) < _OPEN_PULLS:
                await self._pull()
                continue
            self._room.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_HEARTBEAT_SECONDS):
                    await self._room.wait()
        self._ended = True
        self._arrived.set()

    async def _pull(self) -> None:
        self._token += 1
        reply = f"{self._inbox}.{self._token}"
        request = {
            "batch": _PULL_BLOCKS,
            "max_bytes": self._settings.workers.prefetch_bytes // _OPEN_PULLS,
            "expires": int(_PULL_SECONDS * 1e9),
            "idle_heartbeat": int(_HEARTBEAT_SECONDS * 1e9),
        }
        self._pulls.add(reply)
        try:
            await self._bus.client.publish(self._next, json.dumps(request).encode(), reply=reply)
        except nats.errors.Error:
            self._pulls.discard(reply)
            await asyncio.sleep(_HEARTBEAT_SECONDS)

    async def _keep_in_progress(self) -> None:
        while True:
            await asyncio.sleep(self._settings.workers.ack_wait_seconds / 3)
            for delivery in list(self._held):
                with contextlib.suppress(nats.errors.Error):
                    await self._bus.client.publish(delivery.reply, b"+WPI")

    async def _watch(self) -> None:
        """Sample the lag, and make the consumer anew if somebody deleted it."""
        while True:
            try:
                info = await ensure_consumer(self._bus, self._settings, self._stage)
                telemetry.consumer_pending.labels(self._stage.name).set(info.num_pending or 0)
                telemetry.consumer_ack_pending.labels(self._stage.name).set(info.num_ack_pending or 0)
            except NotFoundError:
                # Somebody deleted the stream. What it held is gone, and the ledger says how much; what comes is taken.
                log.error("stream_missing", stream=self._stage.stream, stage=self._stage.name)
                with contextlib.suppress(UnavailableError):
                    await ensure(self._bus, self._settings)
            except Exception as error:
                log.warning("consumer_unavailable", stage=self._stage.name, error=type(error).__name__)
            await asyncio.sleep(2)

    async def _flush_acks(self) -> None:
        """Return when the server has every ack: a request is answered after what went before it."""
        with contextlib.suppress(Exception):
            await self._bus.client.request("$JS.API.INFO", b"", timeout=2)


@contextlib.asynccontextmanager
async def open_consumer(bus: Bus, settings: Settings, stage: StageTopology) -> AsyncIterator[BlockConsumer]:
    """Consume while the body runs; at its end every settled block's ack has reached the server.

    The consumer is made if it is missing; while JetStream is away, nothing comes.
    """
    consumer = BlockConsumer(bus, settings, stage)
    subscription = await bus.client.subscribe(f"{consumer._inbox}.*", cb=consumer._received)
    background = [
        asyncio.create_task(consumer._run()),
        asyncio.create_task(consumer._keep_in_progress()),
        asyncio.create_task(consumer._watch()),
    ]
    try:
        yield consumer
    finally:
        await end(*background)
        await consumer._flush_acks()
        with contextlib.suppress(nats.errors.Error):
            await subscription.unsubscribe()


def _uuid(text: str) -> str | None:
    try:
        return str(parse_id(text))
    except ValueError:
        return None


def _whole_number(text: str) -> int:
    return max(1, int(text)) if text.isascii() and text.isdecimal() and len(text) < 10 else 1
