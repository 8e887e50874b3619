"""Does what was decided about dead letters, through crashes, and with two who decide at once.

A replay takes letters a batch at a time: (1) in one transaction they are marked `replaying` with the id of the
block they go back in; (2) that block is published; (3) after its PubAck they are `replayed`. Who finds letters
between (1) and (3) makes the same block of them again: the same id with the same lines changes nothing where it
was stored before, since books and sinks know a block by its id. So neither a crash nor two who work on one
action lose or double anything; the lease only saves work.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final
from uuid import UUID

import msgspec

from headrace import telemetry
from headrace.document import Block, new_id, parse_time, parts
from headrace.errors import HeadraceError, RequestError, UnavailableError
from headrace.messaging.publisher import Publisher
from headrace.registry import Pipelines
from headrace.settings import BlockSettings, DeadLetterSettings
from headrace.storage import dead_letters
from headrace.storage.dead_letters import NewAction, Row, Selection
from headrace.storage.postgres import Facts
from headrace.tally import accepted
from headrace.tasks import end
from headrace.topology import CLEAN, RAW, Topology
from workers.workbench.again import Again, Rules, again
from workers.workbench.requests import Patches, patches_of
from workers.workbench.trial import sample

log = telemetry.logger(__name__)

_LEASE_SECONDS: Final = 15.0
_LOOK_SECONDS: Final = 1.0
_RETRY_SECONDS: Final = 2.0
_BUG_SECONDS: Final = 30.0
_DISCARDED_AT_ONCE: Final = 5000
_SAMPLES: Final = 10

# Called between two effects; tests break off there.
Seam = Callable[[str], Awaitable[None]]


async def _no_seam(_where: str) -> None:
    return


class _LostError(Exception):
    """Somebody else works on the action now, or it is done."""


class Actions:
    """The actions that this process works on. Use `run` as a task."""

    def __init__(
        self,
        facts: Facts,
        publisher: Publisher,
        topology: Topology,
        pipelines: Pipelines,
        block: BlockSettings,
        settings: DeadLetterSettings,
        seam: Seam = _no_seam,
    ) -> None:
        self._facts = facts
        self._publisher = publisher
        self._topology = topology
        self._pipelines = pipelines
        self._block = block
        self._settings = settings
        self._seam = seam
        self._owner = new_id()
        self._running: dict[UUID, asyncio.Task[None]] = {}
        self._stopping = False

    async def run(self, stop: asyncio.Event) -> None:
        """Claim what nobody works on, until told to stop; then leave all at the end of a batch."""
        while not stop.is_set():
            with contextlib.suppress(HeadraceError):
                await self._claim()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_SECONDS):
                    await stop.wait()
        self._stopping = True
        if self._running:
            # Whoever sleeps for the sake of its rate is ended in its sleep.
            await asyncio.wait(self._running.values(), timeout=_RETRY_SECONDS)
        await end(*self._running.values())

    async def begin(self, action: NewAction, wait_seconds: float) -> bool:
        """Note an action and work on it; return when it is done, or after the wait.

        Returns:
            Whether it was noted; not where enough are running.

        Raises:
            UnavailableError: Postgres is away; whether it was noted is not known where that is so at the last moment.
        """
        row = await dead_letters.begin(self._facts, action, self._owner, _LEASE_SECONDS, self._settings.max_running)
        if row is None:
            return False
        await asyncio.wait([self._start(row)], timeout=wait_seconds)
        return True

    async def _claim(self) -> None:
        for row in await dead_letters.claim(self._facts, self._owner, _LEASE_SECONDS):
            if row["id"] not in self._running:
                self._start(row)

    def _start(self, row: Row) -> asyncio.Task[None]:
        action_id: UUID = row["id"]
        task = self._running[action_id] = asyncio.create_task(self._work(row))
        task.add_done_callback(lambda _: self._running.pop(action_id, None))
        return task

    async def _work(self, row: Row) -> None:
        action_id: UUID = row["id"]
        problem, wait = None, 0.0
        try:
            ended = await (self._replay(row) if row["kind"] == "replay" else self._discard(row))
            if ended:
                await dead_letters.end(self._facts, action_id, self._owner)
                log.info("dead_letters_done", action=str(action_id), kind=row["kind"])
                return
        except _LostError:
            return
        except UnavailableError as error:
            problem, wait = error.detail, _RETRY_SECONDS
            log.warning("dead_letters_wait", action=str(action_id), reason=error.detail)
        except Exception as error:
            problem, wait = f"It failed with {type(error).__name__}; the log has more.", _BUG_SECONDS
            log.exception("dead_letters_failed", action=str(action_id))
        with contextlib.suppress(HeadraceError):
            await dead_letters.let_go(self._facts, action_id, self._owner, problem, wait)

    async def _discard(self, row: Row) -> bool:
        selection, place = _selection(row["selection"]), row["place"]
        while not self._stopping:
            async with self._facts.transaction() as connection:
                if await dead_letters.owned(connection, row["id"], self._owner, _LEASE_SECONDS) is None:
                    raise _LostError
                count, ended_at = await dead_letters.discard(
                    connection, row["id"], selection, place, row["last"], _DISCARDED_AT_ONCE
                )
                if ended_at is None:
                    return True
                place = ended_at
                await dead_letters.advance(connection, row["id"], place, done=count)
            telemetry.dead_letters_resolved.labels("discarded").inc(count)
            await self._seam("discarded")
        return False

    async def _replay(self, row: Row) -> bool:
        patches = patches_of(row["patch"])
        await self._recover(row, patches)
        selection = _selection(row["selection"])
        rules = Rules(self._pipelines, self._settings.max_replays, row["force"], selection.ids is None)
        limit = max(1, min(self._block.max_documents, int(row["rate"])))
        started, published, place = time.monotonic(), 0, row["place"]
        while not self._stopping:
            blocks, place = await self._take(row["id"], selection, patches, rules, place, row["last"], limit)
            if place is None:
                return True
            await self._seam("marked")
            published += await self._publish(row, blocks)
            ahead = published / row["rate"] - (time.monotonic() - started)
            await asyncio.sleep(max(0.0, min(ahead, _LEASE_SECONDS / 3)))
        return False

    async def _take(
        self, action_id: UUID, selection: Selection, patches: Patches, rules: Rules, after: int, last: int, limit: int
    ) -> tuple[list[tuple[str, Block]], int | None]:
        """Mark the next letters; return their blocks, each with its stream, and where they end, None after the last."""
        async with self._facts.transaction() as connection:
            action = await dead_letters.owned(connection, action_id, self._owner, _LEASE_SECONDS)
            if action is None:
                raise _LostError
            letters, place = await dead_letters.take(connection, selection, after, last, limit)
            if place is None:
                return [], None
            going: list[Again] = []
            samples = msgspec.json.decode(action["samples"])
            left_out = 0
            for letter in letters:
                try:
                    going.append(again(letter, patches.of(str(letter["document_id"])), rules))
                except RequestError as error:
                    left_out += 1
                    if len(samples) < _SAMPLES:
                        samples.append(sample(letter, error))
            blocks: list[tuple[str, Block]] = []
            block_of: dict[int, str] = {}
            for stream, _, part in self._parts(going):
                block = _block(new_id(), part)
                blocks.append((stream, block))
                block_of |= {one.seq: block.id for one in part}
            await dead_letters.mark_replaying(connection, action_id, block_of)
            text = msgspec.json.encode(samples).decode()
            await dead_letters.advance(connection, action_id, place, left_out=left_out, samples=text)
        return blocks, place

    def _parts(self, going: Sequence[Again]) -> list[tuple[str, str, list[Again]]]:
        """Return runs of documents that fit one block: one stream, one pipeline, within the limits."""
        lanes: dict[tuple[str, str], list[Again]] = {}
        for one in going:
            lanes.setdefault((one.stream, one.pipeline), []).append(one)
        found = []
        for (stream, pipeline), of_one in lanes.items():
            place = 0
            for lines in parts([one.line for one in of_one], self._block.max_documents, self._block.max_bytes):
                found.append((stream, pipeline, of_one[place : place + len(lines)]))
                place += len(lines)
        return found

    async def _recover(self, row: Row, patches: Patches) -> None:
        """Publish once more what was marked and not seen to be on disk."""
        # They passed when they were marked, and nothing that decides has changed but the rules.
        rules = Rules(self._pipelines, self._settings.max_replays, force=True, by_filter=False)
        found: dict[str, list[Again]] = {}
        for letter in await dead_letters.replaying(self._facts, row["id"]):
            one = again(letter, patches.of(str(letter["document_id"])), rules)
            found.setdefault(str(letter["again"]), []).append(one)
        blocks = [(part[0].stream, _block(block_id, part)) for block_id, part in found.items()]
        if blocks:
            log.info("replay_recovered", action=str(row["id"]), blocks=len(blocks))
            await self._publish(row, blocks)

    async def _publish(self, row: Row, blocks: Sequence[tuple[str, Block]]) -> int:
        """Publish blocks and note that they are on disk; return how many documents they hold."""
        if not blocks:
            return 0
        sending = [self._send(row["tries"], stream, block) for stream, block in blocks]
        for outcome in await asyncio.gather(*sending, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome
        await self._seam("published")
        count = await dead_letters.mark_replayed(self._facts, row["id"], [block.id for _, block in blocks])
        telemetry.dead_letters_resolved.labels("replayed").inc(count)
        return sum(block.count for _, block in blocks)

    async def _send(self, tries: int, stream: str, block: Block) -> None:
        subject = self._topology.clean(block.pipeline) if stream == CLEAN else self._topology.raw(block.pipeline)
        # No two tries share a message id: what JetStream takes for a duplicate, it does not store.
        ack = await self._publisher.publish(subject, block.body, block.headers(f"{block.id}.r{tries}"))
        if ack.duplicate:
            raise UnavailableError(
                "JetStream took a replayed block for a repeat and did not store it.", code="replay_duplicate"
            )


def _block(block_id: str, part: Sequence[Again]) -> Block:
    lines = [one.line for one in part]
    # What goes to one sink has been in the books since it was accepted.
    body = b"".join(lines)
    said = accepted(block_id, lines, body) if part[0].stream == RAW else ""
    return Block(block_id, part[0].pipeline, body, len(lines), said)


def _selection(text: str) -> Selection:
    said = msgspec.json.decode(text)
    if "ids" in said:
        return Selection(ids=tuple(UUID(one) for one in said["ids"]))
    times = {name: parse_time(said["filter"][name]) for name in ("after", "before") if name in said["filter"]}
    return Selection(**{**said["filter"], **times})
