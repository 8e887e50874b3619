"""Rows straight to JetStream, past the gateway: for jobs, which have no token but the bus's own credentials.

Same rules, same ids and same group commit as at the door. What the door alone knows, the rate of each principal and
the keys of the last minutes, is not asked: a conflict becomes a dead letter behind it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

from headrace.acceptance import examine
from headrace.document import json_text, now, raw_line
from headrace.errors import RequestError, UnavailableError
from headrace.messaging.commit import Committer
from headrace.messaging.connection import BusLostError, connect
from headrace.messaging.publisher import open_publisher
from headrace.pipeline import Pipeline
from headrace.settings import Settings
from headrace.topology import Topology
from producer.outlets import attempts
from producer.outlets.nowhere import rules
from producer.upload import CHUNK_BYTES, CHUNK_ROWS, Chunk, Outlet, Progress, RefusedRow, UploadError


@contextlib.asynccontextmanager
async def open_direct(settings: Settings, pipeline: Pipeline, source: str, sender: str) -> AsyncIterator[Outlet]:
    """Give the outlet that is the message bus itself.

    Args:
        source: names the rows' source in the ids of documents.
        sender: who the documents are from, such as `job:licenses`.

    Raises:
        UploadError: the bus is away.
    """
    try:
        async with (
            connect(settings, "produce") as bus,
            open_publisher(bus, settings.nats.publish_timeout_seconds) as publisher,
        ):
            committer = Committer(
                publisher,
                Topology(settings.namespace),
                settings.block,
                max_documents=CHUNK_ROWS,
                # Envelopes are longer than what they hold.
                max_bytes=2 * CHUNK_BYTES,
            )
            yield _Direct(committer, settings, pipeline, source, sender)
    except UnavailableError as error:
        raise UploadError(error.detail) from None
    except BusLostError as error:
        raise UploadError(str(error)) from None


class _Direct:
    def __init__(self, committer: Committer, settings: Settings, pipeline: Pipeline, source: str, sender: str) -> None:
        self._committer = committer
        self._limits = settings.gateway
        self._pipeline = pipeline
        self._source = source
        self._sender = sender
        self._sender_json = json_text(sender)

    async def send(self, chunk: Chunk, progress: Progress) -> list[RefusedRow]:
        lines: list[bytes] = []
        refused: list[RefusedRow] = []
        time_text = now()
        for number, key, body in zip(chunk.numbers, chunk.keys, chunk.bodies, strict=True):
            try:
                sound = examine(
                    self._pipeline,
                    self._sender,
                    body,
                    # A key of ours would hide the one that the document has in it.
                    None if self._pipeline.key else f"{self._source}/{key}",
                    max_bytes=self._limits.document_max_bytes,
                    max_depth=self._limits.max_depth,
                )
            except RequestError as error:
                refused.append(RefusedRow(number, rules(error)))
            else:
                lines.append(raw_line(sound.id, time_text, self._sender_json, sound.data))
        if lines:
            await self._commit(lines, progress)
        return refused

    async def _commit(self, lines: Sequence[bytes], progress: Progress) -> None:
        """Return once all lines are on disk.

        Raises:
            UploadError: the bus stays away, or the stream full.
        """
        for attempt in range(1, attempts.MOST_ATTEMPTS + 1):
            try:
                return await self._committer.commit_many(self._pipeline.name, lines)
            except UnavailableError as error:
                if attempt == attempts.MOST_ATTEMPTS:
                    raise UploadError(
                        f"The message bus did not take documents in {attempt} attempts: {error.detail}"
                    ) from None
                progress.retries += 1
                await asyncio.sleep(attempts.wait_seconds(attempt, error.retry_after_seconds))
