"""Blocks to publish, in the verbs of the tests."""

from __future__ import annotations

from headrace.document import Block, new_id, now, raw_line
from headrace.messaging.connection import Bus
from headrace.messaging.publisher import PubAck, Publisher
from headrace.topology import Topology


def block(documents: int = 1, pipeline: str = "things", size_bytes: int = 2) -> Block:
    data = b"{" + b" " * (size_bytes - 2) + b"}"
    lines = [raw_line(new_id(), now(), b'"me"', data) for _ in range(documents)]
    return Block(new_id(), pipeline, b"".join(lines), documents)


async def send(publisher: Publisher, topology: Topology, one: Block) -> PubAck:
    return await publisher.publish(topology.raw(one.pipeline), one.body, one.headers(one.id))


async def stored_ids(bus: Bus, topology: Topology) -> list[str]:
    """Return the ids of the blocks that are in RAW, in order."""
    js = bus.client.jetstream()
    name = topology.stream("RAW")
    state = (await js.stream_info(name)).state
    return [
        ((await js.get_msg(name, seq)).headers or {})["Headrace-Block"]
        for seq in range(state.first_seq, state.last_seq + 1)
        if state.messages
    ]
