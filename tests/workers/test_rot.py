"""NATS' files are damaged while it is down: no wrong bytes are stored, and what is gone is named by the reconciler."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from headrace.document import new_id, now, raw_line
from tests.servers import Servers
from tests.waiting import eventually
from tests.workers.plant import Plant, sealed
from tests.workers.test_reconcile import open_bench

BLOCKS = 30
DAMAGED = 12


def bit_flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]


def cut_short(data: bytes, at: int) -> bytes:
    return data[:at]


@pytest.mark.long
@pytest.mark.parametrize("damage", [bit_flipped, cut_short])
async def test_what_rot_takes_from_raw_is_named_and_nothing_wrong_is_stored(
    harmed: Plant, own_servers: Servers, damage: Callable[[bytes, int], bytes]
) -> None:

    async def connected() -> bool:
        return harmed.bus.connected

    sent = {}
    for number in range(BLOCKS):
        ids = [new_id(), new_id()]
        lines = [raw_line(one, now(), b'"me"', b'{"name":"thing-%d"}' % number) for one in ids]
        block = sealed("things", lines)
        await harmed.publish(block)
        sent[block.id] = ids
    await harmed.work("journal")
    await own_servers.stop("nats")
    [file] = [
        path
        for path in own_servers.directory.glob(f"**/{harmed.topology.stream('RAW')}/msgs/*.blk")
        if b'"thing-%d"' % DAMAGED in path.read_bytes()
    ]
    written = file.read_bytes()
    file.write_bytes(damage(written, written.index(b'"thing-%d"' % DAMAGED) + 3))
    await own_servers.start("nats")
    await eventually(connected)

    # What comes afterwards is stored, whatever numbers NATS gives it.
    after = await _submitted(harmed)
    await harmed.work()

    async with open_bench(harmed) as bench:
        report = await bench.run(repair=True)
    stored = set(await harmed.stored("things"))
    gone = {block: ids for block, ids in sent.items() if not stored & set(ids)}
    assert {one.kind for one in report.findings} <= {"lost", "corrupt"}
    assert {one.block: one.count for one in report.findings} == {block: len(ids) for block, ids in gone.items()}
    assert gone
    assert stored == {*after, *(one for block, ids in sent.items() if block not in gone for one in ids)}
    names = await harmed.fetch("SELECT DISTINCT name FROM facts.things")
    assert {row["name"] for row in names} <= {"after", *(f"thing-{number}" for number in range(BLOCKS))}
    assert not any(stage != "refine" for stage, _ in await harmed.letters())


async def _submitted(plant: Plant) -> list[str]:
    return [one for _ in range(3) for one in await plant.submit("things", {"name": "after"})]
