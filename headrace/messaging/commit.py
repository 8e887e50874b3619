"""Group commit, as a database's log does it: while one block of a pipeline is being made durable, the next gathers.

No timer. An idle system commits a document at once; a busy one commits in blocks by itself,
so one fsync serves many documents.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from headrace import failpoints, telemetry
from headrace.document import Block, new_id, parts
from headrace.errors import UnavailableError
from headrace.messaging.publisher import OUTCOME_UNKNOWN, Publisher
from headrace.settings import BlockSettings
from headrace.tally import accepted
from headrace.topology import Topology

log = telemetry.logger(__name__)

# Is told that an envelope is on disk, or why it is not.
Told = Callable[[BaseException | None], None]


@dataclass
class _Lane:
    """The documents of one pipeline that wait for the next block."""

    lines: list[bytes] = field(default_factory=list)
    waiting: list[Told] = field(default_factory=list)
    running: asyncio.Task[None] | None = None


class Committer:
    """Makes documents durable. Bounded: beyond its limits it refuses at once rather than queue.

    Args:
        max_documents, max_bytes: what may await a PubAck in this process. What is more than that all by itself is taken
            where nothing else waits, since it could never come otherwise.
    """

    def __init__(
        self, publisher: Publisher, topology: Topology, block: BlockSettings, *, max_documents: int, max_bytes: int
    ) -> None:
        self._publisher = publisher
        self._topology = topology
        self._block = block
        self._max_documents = max_documents
        self._max_bytes = max_bytes
        self._lanes: dict[str, _Lane] = {}
        self._bytes = 0
        self.in_flight = 0
        telemetry.in_flight_documents.set_function(lambda: self.in_flight)

    def require_room(self) -> None:
        """Refuse where not one more document would be taken: cheap, for before a body is read.

        Raises:
            UnavailableError: `overloaded`.
        """
        if self.in_flight >= self._max_documents or self._bytes >= self._max_bytes:
            raise _overloaded()

    @contextlib.contextmanager
    def hold(self, documents: int, size_bytes: int) -> Iterator[None]:
        """Take room for documents while the body runs.

        Raises:
            UnavailableError: `overloaded`, at once.
        """
        self._enter(documents, size_bytes)
        try:
            yield
        finally:
            self._leave(documents, size_bytes)

    @property
    def silent(self) -> bool:
        """Return whether JetStream confirms no writes."""
        return self._publisher.silent

    async def commit(self, pipeline: str, line: bytes) -> None:
        """Return once this envelope is on disk.

        Raises:
            UnavailableError: as `Publisher.publish`, or `overloaded`.
        """
        # The lane lets it leave: who stops waiting does not take its line out of memory.
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.join(pipeline, line, partial(_settle, done))
        await done

    def join(self, pipeline: str, line: bytes, told: Told) -> None:
        """Let an envelope join the pipeline's next block.

        Args:
            told: called once it is on disk, or with what `Publisher.publish` raises. Not a future, which would take
                a turn of the loop for each envelope of a block.

        Raises:
            UnavailableError: `overloaded`; nobody is told of that again.
        """
        self._enter(1, len(line))
        lane = self._lanes.get(pipeline)
        if lane is None:
            lane = self._lanes[pipeline] = _Lane()
        lane.lines.append(line)
        lane.waiting.append(told)
        if lane.running is None:
            lane.running = asyncio.create_task(self._run(pipeline, lane))

    async def commit_many(self, pipeline: str, lines: Sequence[bytes]) -> None:
        """Return once all these envelopes are on disk, in as few blocks as the limits allow.

        Raises:
            UnavailableError: part of them may be stored; sent again with the same keys, none is stored twice.
        """
        with self.hold(len(lines), sum(map(len, lines))):
            await self.commit_held(pipeline, lines)

    async def commit_held(self, pipeline: str, lines: Sequence[bytes]) -> None:
        """Do as `commit_many`, for a caller that holds room for them already."""
        blocks = [self._seal(pipeline, part) for part in self._parts(lines)]
        outcomes = await asyncio.gather(*(self._publish(block) for block in blocks), return_exceptions=True)
        failures = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        if failures:
            raise _of_many(failures, len(blocks))

    async def _run(self, pipeline: str, lane: _Lane) -> None:
        """Publish block after block until nothing waits."""
        try:
            # One turn of the loop lets requests that are ready now join the first block.
            await asyncio.sleep(0)
            while lane.lines:
                publishing, waiting = self._begin(pipeline, lane)
                while waiting:
                    await asyncio.wait([publishing])
                    written, answered = publishing, waiting
                    waiting = []
                    if lane.lines:
                        # What has gathered goes to the disk before anybody is answered, so that the disk need not wait
                        # for us: one turn to publish it, one for the client to send it.
                        publishing, waiting = self._begin(pipeline, lane)
                        await asyncio.sleep(0)
                        await asyncio.sleep(0)
                    _tell(answered, written.exception())
        finally:
            lane.running = None

    def _begin(self, pipeline: str, lane: _Lane) -> tuple[asyncio.Task[None], list[Told]]:
        """Begin to publish the next block of what has gathered; return that, and who waits for it."""
        count = len(next(self._parts(lane.lines)))
        lines, lane.lines = lane.lines[:count], lane.lines[count:]
        waiting, lane.waiting = lane.waiting[:count], lane.waiting[count:]
        publishing = asyncio.create_task(self._publish(self._seal(pipeline, lines)))
        publishing.add_done_callback(lambda _: self._leave(count, sum(map(len, lines))))
        return publishing, waiting

    async def _publish(self, block: Block) -> None:
        failpoints.hit("commit.sealed")
        await self._publisher.publish(self._topology.raw(block.pipeline), block.body, block.headers(block.id))
        failpoints.hit("commit.published")
        telemetry.commit_documents.labels(block.pipeline).observe(block.count)
        telemetry.documents_accepted.labels(block.pipeline).inc(block.count)

    def _seal(self, pipeline: str, lines: Sequence[bytes]) -> Block:
        block = new_id()
        body = b"".join(lines)
        return Block(block, pipeline, body, len(lines), accepted(block, lines, body))

    def _parts(self, lines: Sequence[bytes]) -> Iterator[list[bytes]]:
        return parts(lines, self._block.max_documents, self._block.max_bytes)

    def _enter(self, documents: int, size_bytes: int) -> None:
        full = self.in_flight + documents > self._max_documents or self._bytes + size_bytes > self._max_bytes
        if full and self.in_flight:
            raise _overloaded()
        self.in_flight += documents
        self._bytes += size_bytes

    def _leave(self, documents: int, size_bytes: int) -> None:
        self.in_flight -= documents
        self._bytes -= size_bytes


def _overloaded() -> UnavailableError:
    return UnavailableError("Too many documents await their write to disk.", code="overloaded", retry_after_seconds=1)


def _of_many(failures: Sequence[BaseException], blocks: int) -> BaseException:
    """Return what the failures of some blocks say of them all.

    A refusal with a cause of its own would say that nothing is stored: it counts only where every block met one.
    """
    for failure in failures:
        if not isinstance(failure, UnavailableError) or failure.code == OUTCOME_UNKNOWN:
            return failure
    if len(failures) == blocks:
        return failures[0]
    return UnavailableError(
        "A part of the documents is on disk, the rest is not. Send all again with the same Idempotency-Key.",
        code=OUTCOME_UNKNOWN,
        retry_after_seconds=2,
    )


def _tell(waiting: Sequence[Told], failure: BaseException | None) -> None:
    """Tell everybody who waited for a block; one who fails at it keeps it from nobody."""
    for told in waiting:
        try:
            told(failure)
        except Exception:
            log.exception("answer_failed")


def _settle(done: asyncio.Future[None], failure: BaseException | None) -> None:
    if done.done():  # cancelled
        return
    if failure is None:
        done.set_result(None)
    else:
        done.set_exception(failure)
