"""Group commit: few blocks for many documents, and each document answered for itself."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from headrace.document import envelopes, new_id, now, raw_line
from headrace.errors import UnavailableError
from headrace.messaging.commit import Committer
from headrace.messaging.connection import Bus
from headrace.messaging.publisher import PubAck, Publisher
from headrace.settings import BlockSettings, Settings
from headrace.topology import RAW, Topology

BLOCK = BlockSettings(max_documents=100, max_bytes=64 * 1024)


def line(data: bytes = b"{}") -> bytes:
    return raw_line(new_id(), now(), b'"me"', data)


def committer(publisher: Any, topology: Topology, documents: int = 10_000, size_bytes: int = 1 << 24) -> Committer:
    return Committer(publisher, topology, BLOCK, max_documents=documents, max_bytes=size_bytes)


class Held:
    """Stands for a publisher whose outcomes the test decides."""

    def __init__(self) -> None:
        self.blocks: list[list[bytes]] = []
        self.answers: list[asyncio.Future[PubAck]] = []
        self.published = asyncio.Condition()

    async def publish(self, subject: str, body: bytes, headers: Mapping[str, str]) -> PubAck:
        answer: asyncio.Future[PubAck] = asyncio.get_running_loop().create_future()
        self.blocks.append(body.splitlines(keepends=True))
        self.answers.append(answer)
        async with self.published:
            self.published.notify_all()
        return await answer

    async def received(self, blocks: int) -> None:
        async with asyncio.timeout(10), self.published:
            await self.published.wait_for(lambda: len(self.blocks) >= blocks)


@pytest.fixture
def held() -> Held:
    return Held()


def waiting(commits: Committer, lines: list[bytes], pipeline: str = "things") -> list[asyncio.Task[None]]:
    return [asyncio.create_task(commits.commit(pipeline, one)) for one in lines]


async def raw_blocks(bus: Bus, topology: Topology) -> list[list[str]]:
    js = bus.client.jetstream()
    state = (await js.stream_info(topology.stream(RAW))).state
    return [
        [one.id for one in envelopes((await js.get_msg(topology.stream(RAW), seq)).data or b"")]
        for seq in range(1, state.last_seq + 1)
    ]


async def test_a_single_document_goes_at_once(bus: Bus, publisher: Publisher, topology: Topology) -> None:
    commits = committer(publisher, topology)
    await commits.commit("things", line())

    assert [len(one) for one in await raw_blocks(bus, topology)] == [1]
    assert commits.in_flight == 0


async def test_documents_that_come_together_share_blocks(bus: Bus, publisher: Publisher, topology: Topology) -> None:
    commits = committer(publisher, topology)
    lines = [line() for _ in range(500)]
    await asyncio.gather(*waiting(commits, lines))
    blocks = await raw_blocks(bus, topology)

    assert [one for block in blocks for one in block] == [one.id for one in envelopes(b"".join(lines))]
    assert len(blocks) < 20
    assert max(map(len, blocks)) <= BLOCK.max_documents


async def test_what_has_gathered_goes_to_the_disk_before_anybody_of_the_block_before_is_answered(
    held: Held, topology: Topology
) -> None:
    commits = committer(held, topology)
    blocks_when_answered: list[int] = []
    commits.join("things", line(), lambda _: blocks_when_answered.append(len(held.blocks)))
    await held.received(1)
    second = waiting(commits, [line()])
    held.answers[0].set_result(PubAck())
    await held.received(2)
    held.answers[1].set_result(PubAck())
    await asyncio.gather(*second)

    assert blocks_when_answered == [2]
    assert commits.in_flight == 0


async def test_who_fails_at_being_told_keeps_it_from_nobody(held: Held, topology: Topology) -> None:
    def fail(_: BaseException | None) -> None:
        raise ValueError("the connection is gone")

    commits = committer(held, topology)
    commits.join("things", line(), fail)
    others = waiting(commits, [line() for _ in range(3)])
    await held.received(1)
    held.answers[0].set_result(PubAck())
    await asyncio.gather(*others)
    later = waiting(commits, [line()])
    await held.received(2)
    held.answers[1].set_result(PubAck())
    await asyncio.gather(*later)

    assert [len(block) for block in held.blocks] == [4, 1]


async def test_while_one_block_is_on_its_way_the_next_gathers(held: Held, topology: Topology) -> None:
    commits = committer(held, topology)
    first = waiting(commits, [line()])
    await held.received(1)
    rest = waiting(commits, [line() for _ in range(30)])
    await asyncio.sleep(0)
    held.answers[0].set_result(PubAck())
    await asyncio.gather(*first)
    await held.received(2)

    assert [len(block) for block in held.blocks] == [1, 30]
    assert not any(task.done() for task in rest)
    held.answers[1].set_result(PubAck())
    await asyncio.gather(*rest)


async def test_pipelines_do_not_wait_for_each_other(held: Held, topology: Topology) -> None:
    commits = committer(held, topology)
    slow = waiting(commits, [line()], "slow")
    await held.received(1)
    fast = waiting(commits, [line()], "fast")
    await held.received(2)
    held.answers[1].set_result(PubAck())
    await asyncio.gather(*fast)

    assert not slow[0].done()
    held.answers[0].set_result(PubAck())
    await asyncio.gather(*slow)


async def test_a_block_that_fails_fails_only_its_own(held: Held, topology: Topology) -> None:
    commits = committer(held, topology)
    first = waiting(commits, [line(), line()])
    await held.received(1)
    second = waiting(commits, [line()])
    await asyncio.sleep(0)
    held.answers[0].set_exception(UnavailableError("no", code="stream_full"))
    outcomes = await asyncio.gather(*first, return_exceptions=True)
    await held.received(2)
    held.answers[1].set_result(PubAck())
    await asyncio.gather(*second)

    assert [getattr(one, "code", one) for one in outcomes] == ["stream_full", "stream_full"]
    assert commits.in_flight == 0


async def test_beyond_its_limits_it_refuses_at_once(held: Held, topology: Topology) -> None:
    one = line()
    for commits in (committer(held, topology, documents=2), committer(held, topology, size_bytes=2 * len(one))):
        held.blocks.clear()
        held.answers.clear()
        kept = waiting(commits, [one, one])
        await held.received(1)
        for attempt in (commits.commit("things", one), commits.commit_many("things", [one])):
            with pytest.raises(UnavailableError) as caught:
                await attempt
            assert caught.value.code == "overloaded"
            assert caught.value.retry_after_seconds
        held.answers[0].set_result(PubAck())
        await asyncio.gather(*kept)
        assert commits.in_flight == 0


async def test_what_is_larger_than_its_limits_is_taken_alone(held: Held, topology: Topology) -> None:
    commits = committer(held, topology, documents=2)
    task = asyncio.gather(commits.commit_many("things", [line() for _ in range(3)]))
    await held.received(1)
    with pytest.raises(UnavailableError, match="await their write"):
        commits.require_room()
    held.answers[0].set_result(PubAck())
    await task

    commits.require_room()
    assert commits.in_flight == 0


async def test_who_stops_waiting_harms_nobody(held: Held, topology: Topology) -> None:
    commits = committer(held, topology)
    first = waiting(commits, [line()])
    await held.received(1)
    gone, stays = waiting(commits, [line(), line()])
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.wait([gone])
    assert commits.in_flight == 3, "its line is in memory until its block is done"
    held.answers[0].set_result(PubAck())
    await held.received(2)
    held.answers[1].set_result(PubAck())
    await asyncio.gather(*first, stays)

    assert len(held.blocks[1]) == 2
    assert commits.in_flight == 0


async def test_many_go_in_as_few_blocks_as_the_limits_allow(bus: Bus, publisher: Publisher, topology: Topology) -> None:
    commits = committer(publisher, topology)
    by_count, by_bytes = [line() for _ in range(250)], [line(b'"%b"' % (b"x" * 30_000)) for _ in range(4)]
    await commits.commit_many("things", by_count)
    await commits.commit_many("things", by_bytes)

    assert sorted(map(len, await raw_blocks(bus, topology))) == [2, 2, 50, 100, 100]
    assert commits.in_flight == 0


@pytest.mark.parametrize(
    ("failures", "code"),
    [
        ([None, "outcome_unknown"], "outcome_unknown"),
        # That the stream is full would say that nothing is stored, and a part of it is.
        ([None, "stream_full"], "outcome_unknown"),
        (["stream_full", "outcome_unknown"], "outcome_unknown"),
        (["stream_full", "stream_full"], "stream_full"),
    ],
)
async def test_many_of_which_a_part_fails_fail(
    held: Held, topology: Topology, failures: list[str | None], code: str
) -> None:
    commits = committer(held, topology)
    task = asyncio.gather(commits.commit_many("things", [line() for _ in range(150)]))
    await held.received(2)
    for answer, failure in zip(held.answers, failures, strict=True):
        if failure is None:
            answer.set_result(PubAck())
        else:
            answer.set_exception(UnavailableError("no", code=failure))

    with pytest.raises(UnavailableError) as caught:
        await task
    assert caught.value.code == code
    assert commits.in_flight == 0


async def test_the_settings_blocks_fit_the_server(bus: Bus, publisher: Publisher, settings: Settings) -> None:
    largest = BlockSettings(max_documents=100_000, max_bytes=BlockSettings.model_fields["max_bytes"].metadata[1].le)
    commits = Committer(publisher, Topology(settings.namespace), largest, max_documents=10**6, max_bytes=10**9)
    await commits.commit_many("things", [line() for _ in range(10_000)])

    assert commits.in_flight == 0
