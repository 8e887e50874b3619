"""Acts on verdicts: publish first, ack last. The only caller of ack and nak."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Sequence
from typing import Any, assert_never

import nats.errors

from headrace import failpoints, telemetry
from headrace.document import Block, DeadLetter, dead_letter_lines, derived_id, digest, id_bytes, now, parts
from headrace.errors import RequestError
from headrace.messaging.connection import Bus
from headrace.messaging.consumer import Delivery
from headrace.messaging.publisher import Publisher
from headrace.settings import BlockSettings
from headrace.topology import Topology
from workers.outcome import MAX_LINE_BYTES, UNKNOWN_PIPELINE, Forward, Item, Refused, Stored, Verdict

# A dead letter holds its document in base64 and the broken rules; a block of them must stay below max_payload.
_DEAD_BLOCK_BYTES = 700 * 1024
_TEXT_LENGTH = 500
_POINTER_LENGTH = 250

Publication = Coroutine[Any, Any, None]


class Settler:
    def __init__(self, bus: Bus, publisher: Publisher, topology: Topology, block: BlockSettings) -> None:
        self._bus = bus
        self._publisher = publisher
        self._topology = topology
        self._block = block

    async def settle(self, stage: str, delivery: Delivery, items: Sequence[Item], verdicts: Sequence[Verdict]) -> None:
        """Publish what a block became, then ack it: a crash in between repeats work, never loses it.

        Raises:
            UnavailableError: JetStream did not take it all; the block is not acked.
        """
        forward: list[bytes] = []
        dead: list[DeadLetter] = []
        stored: list[str] = []
        for item, verdict in zip(items, verdicts, strict=True):
            match verdict:
                case Forward(line):
                    forward.append(line)
                case Stored():
                    stored.append(item.envelope.id)
                case Refused(error):
                    dead.append(dead_letter(stage, delivery, item, error))
                case _:
                    assert_never(verdict)
        failpoints.hit("settle.judged", stage)
        await asyncio.gather(*self._forward(stage, delivery, forward), *self._bury(stage, delivery, dead))
        failpoints.hit("settle.published", stage)
        # Told before the ack, over the same connection: whoever keeps answers must not miss what is settled for good.
        await self.announce(stage, delivery.block.pipeline, stored)
        await delivery.ack()
        failpoints.hit("settle.acknowledged", stage)
        count = telemetry.stage_documents
        # A publisher may name any pipeline, and metrics must not grow with that.
        unknown = bool(dead) and dead[0].code == UNKNOWN_PIPELINE
        pipeline = "unknown" if unknown else delivery.block.pipeline
        if done := len(forward) + len(stored):
            count.labels(stage, pipeline, "done").inc(done)
        if dead:
            count.labels(stage, pipeline, "dead").inc(len(dead))

    async def give_back(self, delivery: Delivery, delay_seconds: float) -> None:
        await delivery.nak(delay_seconds)

    async def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            await delivery.ack()

    def _forward(self, stage: str, delivery: Delivery, lines: Sequence[bytes]) -> list[Publication]:
        """Return the publications of the clean block; where a transform makes documents grow it is more than one."""
        block = delivery.block
        subject = self._topology.clean(block.pipeline)
        publications = []
        for part in parts(lines, self._block.max_documents, MAX_LINE_BYTES):
            clean = Block(block.id, block.pipeline, b"".join(part), len(part))
            # By content: had another try other documents to forward, the broker must not take its part for this one.
            message_id = f"{block.id}.{stage}.{digest(clean.body)}"
            publications.append(self._publish(subject, clean, message_id, "settle.forwarded"))
        return publications

    def _bury(self, stage: str, delivery: Delivery, letters: Sequence[DeadLetter]) -> list[Publication]:
        block = delivery.block
        subject = self._topology.dead(block.pipeline)
        publications = []
        done = 0
        for part in parts(dead_letter_lines(letters), self._block.max_documents, _DEAD_BLOCK_BYTES):
            dead = Block(block.id, block.pipeline, b"".join(part), len(part))
            # Of who they are: a raw block may have become two clean ones, each with letters of its own.
            who = [f"{letter.id} {letter.ordinal}" for letter in letters[done : done + len(part)]]
            message_id = f"{block.id}.{stage}.dead.{derived_id(*who)}"
            publications.append(self._publish(subject, dead, message_id, "settle.buried"))
            done += len(part)
        return publications

    async def _publish(self, subject: str, block: Block, message_id: str, then: str) -> None:
        await self._publisher.publish(subject, block.body, block.headers(message_id))
        failpoints.hit(then)

    async def announce(self, stage: str, pipeline: str, ids: Sequence[str]) -> None:
        """Tell who waits, over core NATS: ids of 16 bytes each. Told again where the block is delivered again."""
        if not ids:
            return
        body = b"".join(id_bytes(document_id) for document_id in ids)
        with contextlib.suppress(nats.errors.Error):
            await self._bus.client.publish(self._topology.stored(stage, pipeline), body)


def dead_letter(stage: str, delivery: Delivery, item: Item, error: RequestError) -> DeadLetter:
    return DeadLetter(
        id=item.envelope.id,
        pipeline=delivery.block.pipeline,
        stage=stage,
        code=error.code,
        reason=_text(error.detail, _TEXT_LENGTH),
        attempts=delivery.attempt,
        time=item.envelope.time,
        subject=item.envelope.subject,
        block=item.block,
        ordinal=item.envelope.ordinal,
        dead_at=now(),
        body=bytes(item.envelope.data),
        errors=[
            {
                "pointer": _text(e.pointer, _POINTER_LENGTH),
                "code": e.code,
                "message": _text(e.message, _TEXT_LENGTH),
            }
            for e in error.errors
        ],
        sha256=item.envelope.sha256,
        replays=item.envelope.replays,
    )


def _text(text: str, length: int) -> str:
    """Return what JSON and Postgres can take of a text: a pointer may be as long as a client's key, a message a bug."""
    return text[:length].replace("\x00", " ").encode(errors="replace").decode()
