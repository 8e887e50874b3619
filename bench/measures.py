"""The measurements. Each alternates between what it compares, round by round, and returns a section of the report."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from bench import settle
from bench.books import balanced
from bench.client import Sent
from bench.drive import BULK_CONNECTIONS, BULK_DOCUMENTS, drive, wrk_rate
from bench.machine import OthersShare, cpu_seconds, fsync_seconds, resident_bytes
from bench.report import Bar, Row, Section, costs, growth, ratios
from bench.stack import NOTHING, OPEN, OURS, PEER, PEER_BATCH_WORKER, PEER_WORKER, Stack

_AUTH: Final = Bar(3, at_most=True)
_P99: Final = Bar(5, at_most=True)
_GROWTH: Final = Bar(5, at_most=True)

SERVICES: Final = ("auth", "gateway", "workers", "analytics")


@dataclass(frozen=True)
class Extent:
    """How long a measurement takes."""

    rounds: int = 5
    seconds: float = 3.0
    auth_rounds: int = 12
    auth_seconds: float = 1.5
    backlog_documents: int = 50_000
    memory_documents: tuple[int, int] = (100_000, 1_000_000)


QUICK: Final = Extent(
    rounds=2, seconds=1.0, auth_rounds=4, auth_seconds=0.8, backlog_documents=10_000, memory_documents=(20_000, 100_000)
)


@dataclass
class _Notes:
    """What is collected during a section.

    Attributes:
        values: rounds by name.
        cpu: microseconds of the server's CPU per request, rounds by name.
    """

    values: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    cpu: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    client_share: float = 0.0
    remarks: list[str] = field(default_factory=list)
    _others: OthersShare = field(default_factory=OthersShare)

    def section(self, name: str, *rows: Row) -> Section:
        return Section(name, rows, self.client_share, self._others.value(), tuple(self.remarks))

    def row(self, name: str, unit: str, key: str, bar: Bar | None = None) -> Row:
        return Row(name, unit, tuple(self.values[key]), bar)

    async def sent(self, stack: Stack, name: str, key: str, **plan: Any) -> Sent:
        """Send as `drive` does; note the CPU that client and server took, the latter under a key."""
        before = cpu_seconds(stack.pid(name))
        sent = await drive(stack, name, **plan)
        self.cpu[key].append(1e6 * (cpu_seconds(stack.pid(name)) - before) / sum(sent.statuses.values()))
        self.client_share = max(self.client_share, sent.cpu_share)
        return sent


async def accept(stack: Stack, extent: Extent) -> Section:
    """Single POSTs to one process of ours, of FastAPI doing nothing, and of the peer."""
    targets = {"ours": OURS, "keyed": OURS, "nothing": NOTHING, "peer": PEER}
    await stack.start("auth", OURS, NOTHING, PEER)
    for name in (OURS, NOTHING, PEER):
        await drive(stack, name, seconds=0.5)
    notes = _Notes()
    for number in range(extent.rounds):
        # There and back again, so that a machine that slows down slows all alike.
        for key in list(targets) if number % 2 == 0 else reversed(targets):
            sent = await notes.sent(stack, targets[key], key, seconds=extent.seconds, keyed=key == "keyed")
            notes.values[key].append(_rate(sent))
            await stack.empty()
    for name in (OURS, NOTHING):
        if (rate := await wrk_rate(stack, name, extent.seconds)) is not None:
            notes.remarks.append(f"wrk, which is no client of ours, got {rate:,.0f} requests/s from {name}")
    await stack.empty()
    values, cpu = notes.values, notes.cpu
    return notes.section(
        "accept",
        ratios("our POST : FastAPI's do-nothing route", values["ours"], values["nothing"], Bar(2)),
        ratios("our POST with Idempotency-Keys : FastAPI's do-nothing route", values["keyed"], values["nothing"]),
        ratios("our POST : FastAPI + FastStream's POST", values["ours"], values["peer"], Bar(8)),
        ratios("the same by documents per CPU second of the server", _inverted(cpu["ours"]), _inverted(cpu["peer"])),
        notes.row("our POST: token, schema, fsync", "requests/s", "ours"),
        notes.row("the same, each with an Idempotency-Key", "requests/s", "keyed"),
        notes.row("FastAPI's do-nothing route", "requests/s", "nothing"),
        notes.row("FastAPI + FastStream's POST: token, schema, fsync", "requests/s", "peer"),
    )


async def authentication(stack: Stack, extent: Extent) -> Section:
    """The same POST with and without authentication, in many short rounds."""
    await stack.start("auth", OURS, OPEN)
    for name in (OURS, OPEN):
        await drive(stack, name, seconds=0.5)
    notes = _Notes()
    for number in range(extent.auth_rounds):
        for name in (OURS, OPEN) if number % 2 == 0 else (OPEN, OURS):
            notes.values[name].append(_rate(await notes.sent(stack, name, name, seconds=extent.auth_seconds)))
            await stack.empty()
    await stack.stop(OPEN)
    return notes.section(
        "auth",
        costs("what authentication costs, by rate", notes.values[OPEN], notes.values[OURS], _AUTH),
        # CPU is what a rate is made of, and other programs disturb it less.
        costs(
            "what authentication costs, by CPU per request",
            _inverted(notes.cpu[OPEN]),
            _inverted(notes.cpu[OURS]),
            _AUTH,
        ),
        Row("gateway's CPU per request", "µs", tuple(notes.cpu[OURS])),
        Row("gateway's CPU per request, authentication off", "µs", tuple(notes.cpu[OPEN])),
    )


async def bulk(stack: Stack, extent: Extent) -> Section:
    """Bulk POSTs to one gateway process."""
    await stack.start("auth", OURS)
    await drive(stack, OURS, seconds=0.5)
    notes = _Notes()
    for _ in range(extent.rounds):
        notes.values["single"].append(_rate(await notes.sent(stack, OURS, "single", seconds=extent.seconds)))
        await stack.empty()
        sent = await notes.sent(
            stack, OURS, "bulk", seconds=extent.seconds, lines=BULK_DOCUMENTS, connections=BULK_CONNECTIONS
        )
        notes.values["bulk"].append(BULK_DOCUMENTS * _rate(sent))
        await stack.empty()
    return notes.section(
        "bulk",
        ratios("bulk : single POSTs, documents", notes.values["bulk"], notes.values["single"]),
        notes.row(f"accepted in bulks of {BULK_DOCUMENTS:,}", "documents/s", "bulk", Bar(40_000)),
    )


async def latency(stack: Stack, extent: Extent) -> Section:
    """Latency to 202 at half of the rate that was the peak a moment before; requests come by schedule."""
    await stack.start("auth", OURS)
    notes = _Notes()
    for _ in range(extent.rounds):
        peak = _rate(await notes.sent(stack, OURS, "peak", seconds=extent.seconds / 2))
        await stack.empty()
        sent = await notes.sent(stack, OURS, "half", seconds=extent.seconds, rate=peak / 2, connections=4 * 64)
        await stack.empty()
        p50, p99, longest = sent.latencies
        for key, value in (("p50", p50), ("p99", p99), ("max", longest)):
            notes.values[key].append(1000 * value)
        notes.values["rate"].append(_rate(sent))
        alone = await asyncio.to_thread(fsync_seconds, stack.state.directory)
        notes.values["fsync p50"].append(1000 * alone[len(alone) // 2])
        notes.values["fsync p99"].append(1000 * alone[len(alone) * 99 // 100])
    return notes.section(
        "latency",
        ratios("p99 to 202 : median, at half of the peak rate", notes.values["p99"], notes.values["p50"], _P99),
        notes.row("offered and accepted", "requests/s", "rate"),
        notes.row("median to 202", "ms", "p50"),
        notes.row("p99 to 202", "ms", "p99"),
        notes.row("longest to 202", "ms", "max"),
        notes.row("an fsync alone, just after: median", "ms", "fsync p50"),
        notes.row("an fsync alone, just after: p99", "ms", "fsync p99"),
    )


async def end_to_end(stack: Stack, extent: Extent) -> Section:
    """Single POSTs until every store has them: ours, the peer, and the peer with a worker that takes batches."""
    await stack.start(*SERVICES, PEER)
    await stack.empty()
    await settle.at_work(stack.js, settle.OURS)
    notes = _Notes()
    async with balanced(stack) as accepted:
        for _ in range(extent.rounds):
            for key, worker in (("ours", None), ("peer", PEER_WORKER), ("batch", PEER_BATCH_WORKER)):
                stages = settle.OURS if worker is None else settle.THEIRS
                if worker:
                    await stack.start(worker)
                    await settle.at_work(stack.js, stages)
                sent = await notes.sent(stack, PEER if worker else OURS, key, seconds=extent.seconds)
                times = await settle.settled(stack.js, stages)
                count = sum(sent.statuses.values())
                accepted["peer" if worker else "ours"] += count
                notes.values[key].append(count / (max(times.values()) - sent.began_at))
                notes.values[f"{key} accepted"].append(_rate(sent))
                for stage, time in times.items():
                    notes.values[f"{key} {stage}"].append(count / (time - sent.began_at))
                if worker:
                    await stack.stop(worker)
    values = notes.values
    return notes.section(
        "end to end",
        ratios("single POSTs into all stores, ours : FastAPI + FastStream", values["ours"], values["peer"], Bar(5)),
        ratios("the same : FastAPI + FastStream in batches", values["ours"], values["batch"]),
        notes.row("ours, into all stores", "documents/s", "ours"),
        notes.row("ours, accepted meanwhile", "documents/s", "ours accepted"),
        *_sink_rows(notes, "ours"),
        notes.row("FastAPI + FastStream, into all stores", "documents/s", "peer"),
        notes.row("FastAPI + FastStream, accepted meanwhile", "documents/s", "peer accepted"),
        notes.row("FastAPI + FastStream in batches, into all stores", "documents/s", "batch"),
    )


async def backlog(stack: Stack, extent: Extent) -> Section:
    """A backlog in bulk until every store has it."""
    await stack.start(*SERVICES)
    await stack.empty()
    await settle.at_work(stack.js, settle.OURS)
    notes, requests = _Notes(), extent.backlog_documents // BULK_DOCUMENTS
    async with balanced(stack) as accepted:
        for _ in range(extent.rounds):
            sent = await notes.sent(
                stack, OURS, "bulk", requests=requests, lines=BULK_DOCUMENTS, connections=BULK_CONNECTIONS
            )
            times = await settle.settled(stack.js, settle.OURS)
            count = requests * BULK_DOCUMENTS
            accepted["ours"] += count
            notes.values["accepted"].append(count / sent.seconds)
            notes.values["ours"].append(count / (max(times.values()) - sent.began_at))
            for stage, time in times.items():
                notes.values[f"ours {stage}"].append(count / (time - sent.began_at))
    return notes.section(
        "backlog",
        notes.row(f"{extent.backlog_documents:,} documents in bulk, into all stores", "documents/s", "ours"),
        notes.row("accepted, with all stages at work", "documents/s", "accepted"),
        *_sink_rows(notes, "ours", {"facts": Bar(15_000)}),
    )


async def memory(stack: Stack, extent: Extent) -> Section:
    """Resident memory of our processes when so many documents are through.

    They come in equal bursts, each settled before the next: a deeper backlog takes more memory, up to the workers'
    limits, and that is no growth.
    """
    await stack.start(*SERVICES)
    await stack.empty()
    await settle.at_work(stack.js, settle.OURS)
    first, last = extent.memory_documents
    burst = first // 2
    notes = _Notes()
    seen: dict[int, dict[str, float]] = {}
    async with balanced(stack) as accepted:
        for documents in range(burst, last + 1, burst):
            requests = burst // BULK_DOCUMENTS
            await notes.sent(stack, OURS, "bulk", requests=requests, lines=BULK_DOCUMENTS, connections=BULK_CONNECTIONS)
            accepted["ours"] += requests * BULK_DOCUMENTS
            await settle.settled(stack.js, settle.OURS)
            seen[documents] = {service: resident_bytes(stack.pid(service)) / 2**20 for service in SERVICES}
    first, last = extent.memory_documents
    grown = f"from the {first:,}th to the {last:,}th document"
    return notes.section(
        "memory",
        *(
            growth(f"{service} grew {grown}", seen[first][service], seen[last][service], _GROWTH)
            for service in SERVICES
        ),
        *(Row(f"{service} at the {last:,}th document", "MiB", (seen[last][service],)) for service in SERVICES),
    )


MEASURES: Final = {
    "accept": accept,
    "auth": authentication,
    "bulk": bulk,
    "latency": latency,
    "end-to-end": end_to_end,
    "backlog": backlog,
    "memory": memory,
}

_STAGE_ROWS: Final = {
    "refine": "ours, refined",
    "facts": "ours, counted in Postgres and Redis",
    "documents": "ours, in the embedded server that speaks MongoDB's protocol",
}


def _sink_rows(notes: _Notes, key: str, bars: Mapping[str, Bar] | None = None) -> list[Row]:
    return [
        notes.row(name, "documents/s", f"{key} {stage}", (bars or {}).get(stage)) for stage, name in _STAGE_ROWS.items()
    ]


def _rate(sent: Sent) -> float:
    return sum(sent.statuses.values()) / sent.seconds


def _inverted(values: list[float]) -> list[float]:
    return [1 / value for value in values]
