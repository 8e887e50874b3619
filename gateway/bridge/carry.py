"""Carries one MQTT message into the stream of accepted documents, and returns once it is on disk there.

What passes its pipeline's schema joins the next block, as over HTTP. What does not is published bare, for refine to
make a dead letter of it, since over MQTT nobody hears a refusal.
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict, deque
from dataclasses import dataclass
from typing import Final

from gateway.bridge.topics import TopicTemplate
from headrace import telemetry
from headrace.acceptance import examine
from headrace.document import MSG_ID_HEADER, derived_id, digest, json_text, new_id, now, raw_line
from headrace.errors import RequestError, UnavailableError
from headrace.identity import BARE_SENDER
from headrace.messaging.commit import Committer
from headrace.messaging.publisher import Publisher
from headrace.pipeline import Pipeline
from headrace.registry import Pipelines
from headrace.settings import MAX_BLOCK_BYTES, MqttSettings
from headrace.topology import Topology

log = telemetry.logger(__name__)

_FIRST_WAIT_SECONDS: Final = 0.25
_LONGEST_WAIT_SECONDS: Final = 5.0
_SUBJECT: Final = json_text(BARE_SENDER)


@dataclass(frozen=True, slots=True)
class Received:
    """A message as the broker sent it.

    Attributes:
        again: the broker says that it may have sent it before.
        retained: it is an old message that the broker kept for new subscribers.
    """

    topic: str
    payload: bytes
    qos: int
    again: bool = False
    retained: bool = False


class Carrier:
    """Makes messages durable, each under one id however often it has to be tried."""

    def __init__(
        self,
        committer: Committer,
        publisher: Publisher,
        topology: Topology,
        pipelines: Pipelines,
        mqtt: MqttSettings,
        max_depth: int,
    ) -> None:
        self._committer = committer
        self._publisher = publisher
        self._topology = topology
        self._pipelines = pipelines
        self._template = TopicTemplate(mqtt.topic)
        self._by_content = mqtt.keyless == "content"
        self._max_depth = max_depth
        self._orphans: dict[tuple[str, str], deque[str]] = defaultdict(deque)

    def name(self, message: Received) -> str:
        """Return the id of a message, should its document have no natural key.

        A message that comes again, since the connection broke before it could be acknowledged, has the id it had.
        """
        content = message.topic, digest(message.payload)
        if self._by_content:
            return derived_id("mqtt", *content)
        if message.again and self._orphans.get(content):
            found = self._orphans[content].popleft()
            if not self._orphans[content]:
                del self._orphans[content]
            return found
        return new_id()

    def orphaned(self, message: Received, name: str) -> None:
        """Keep the id of a message that could not be acknowledged: it will come again."""
        if not self._by_content:
            self._orphans[message.topic, digest(message.payload)].append(name)

    async def carry(self, message: Received, name: str) -> None:
        """Return once the document is on disk, or refused for good; wait as long as that takes."""
        pipeline = self._template.pipeline_of(message.topic)
        if message.retained:
            # Sent at each subscription anew: not news.
            return
        if pipeline is None:
            self._refuse(message, "unknown", "unusable_topic")
            return
        if len(message.payload) > MAX_BLOCK_BYTES:
            # Nothing could hold it, not even as a dead letter.
            self._refuse(message, pipeline, "document_too_large")
            return
        line = self._line(self._pipelines.get(pipeline), message.payload, name)
        wait = _FIRST_WAIT_SECONDS
        while True:
            try:
                if line is None:
                    await self._publisher.publish(
                        self._topology.ingest(pipeline), message.payload, {MSG_ID_HEADER: name}
                    )
                else:
                    await self._committer.commit(pipeline, line)
                telemetry.mqtt_messages.labels("carried").inc()
                return
            except UnavailableError as error:
                # Unknown outcomes too: under the same id it is stored once.
                telemetry.mqtt_messages.labels("retried").inc()
                log.warning("mqtt_waits", code=error.code, reason=error.detail, seconds=round(wait, 2))
            await asyncio.sleep(wait * random.uniform(0.5, 1))
            wait = min(2 * wait, _LONGEST_WAIT_SECONDS)

    def _line(self, pipeline: Pipeline | None, payload: bytes, name: str) -> bytes | None:
        """Return the document's line of a block; None where refine is to refuse it."""
        if pipeline is None:
            return None
        try:
            # The sender of bare documents: one that comes both ways is one.
            sound = examine(pipeline, BARE_SENDER, payload, None, max_bytes=MAX_BLOCK_BYTES, max_depth=self._max_depth)
        except RequestError:
            return None
        return raw_line(sound.id if pipeline.key else name, now(), _SUBJECT, sound.data)

    def _refuse(self, message: Received, pipeline: str, code: str) -> None:
        telemetry.mqtt_messages.labels("refused").inc()
        label = pipeline if pipeline in self._pipelines else "unknown"
        telemetry.documents_refused.labels(label, code).inc()
        log.error("mqtt_refused", code=code, topic=message.topic[:200], size_bytes=len(message.payload))
