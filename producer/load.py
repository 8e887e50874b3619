"""The load tester: sends documents from several processes, then proves from the stores what became of each.

    result = await run(LoadConfig(find_headrace(), "invoices", duration_seconds=10))

Open model (a rate is set): requests go out when they are due, whatever became of the ones before;
their latency counts from when they were due, so a server that stalls cannot hide it. Closed model:
so many requests are under way at any time; it finds the highest throughput, but its latency
leaves out the requests that a slow server kept it from sending.
"""

from __future__ import annotations

import asyncio
import math
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final

import msgspec

from headrace.errors import HeadraceError, UnavailableError
from producer import generators, sources
from producer.api import Api, PipelineInfo
from producer.load_config import LoadConfig, Progress, Watch
from producer.load_result import LoadResult, client_limits, numbers, remarks
from producer.proof import Books, Proof, Recent
from producer.prove import AT_ONCE, Ledger, Stores, prove
from producer.schedule import Schedule, schedule
from producer.sender import Plan
from producer.senders import open_senders, send
from producer.spool import read_ids, write_documents
from producer.stores import open_stores
from producer.tally import Interval, Totals
from producer.thresholds import Measured, verdict

_DEFAULT_SECONDS: Final = 10.0
# Different documents that a generator makes before a run; they are sent again under new keys when used up.
_MOST_GENERATED: Final = 20_000
_SAMPLE_EVERY: Final = 100
_SAMPLE_SMALL_RUN_EVERY: Final = 10
_SMALL_RUN: Final = 2000
# Books may be of a count of a while ago; then for a newer one.
_BOOKS_TRIES: Final = 6
_BOOKS_TRY_SECONDS: Final = 0.5


async def run(
    config: LoadConfig,
    *,
    watch: Watch | None = None,
    stop: asyncio.Event | None = None,
    senders: Sequence[asyncio.subprocess.Process] | None = None,
) -> LoadResult:
    """Run one load test, from reading the documents to the proof.

    Args:
        senders: `config.senders` client processes, for who has started them while this was imported.
        watch: called about once a second, and when the phase changes.
        stop: ends the sending early; what was sent is still proven.

    Raises:
        HeadraceError: the gateway is away, does not know the pipeline, or does not let us in.
        ValueError: the configuration makes no sense.
        SourceError: the file cannot be read.
    """
    totals = Totals()
    see = watch or (lambda progress: None)
    see(Progress(config, "prepare", totals, 0.0))
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="headrace-load-")))
        api = await stack.enter_async_context(Api(config.headrace))
        info = await api.pipeline(config.pipeline)
        server_version = await api.version()
        notes: list[str] = []
        if senders is None:
            senders = await stack.enter_async_context(open_senders(config.senders))
        pool = write_documents(folder, _documents(config, info, notes))
        if not pool:
            raise ValueError("there are no documents to send")
        stores = await _stores(config, info, stack, notes)
        before = await _books(api, config.pipeline, notes)
        plans = _plans(config, pool, folder)
        started_at = datetime.now(UTC)

        def hear(interval: Interval, elapsed_seconds: float) -> None:
            totals.add(interval)
            see(Progress(config, "send" if interval.sending else "sample", totals, elapsed_seconds))

        go_at = await send(plans, senders, hear, stop)
        totals.fail_unanswered("client_died")
        if config.refused_file:
            _join(config.refused_file, _parts(folder, "refused"))
        elapsed = max((last.until_seconds for last in totals.last.values()), default=0.0)

        try:
            proof = await prove(
                totals.counts.accepted,
                unknown=totals.counts.unknown,
                ledger=None if before is None else Ledger(partial(api.books, config.pipeline), before),
                stores=stores,
                read_ids=lambda: read_ids(_parts(folder, "ids"), at_once=AT_ONCE),
                settle_seconds=config.settle_seconds,
                ended_at=go_at + elapsed,
                say=lambda note: see(Progress(config, "prove", totals, elapsed, note)),
            )
        except HeadraceError as error:
            # What was measured stands, also where nothing is proven.
            proof = Proof("none", totals.counts.accepted, notes=[f"The proof could not be made: {error.detail}"])
    measured = Measured(numbers(totals, proof, elapsed), totals.latencies)
    return LoadResult(
        config=config,
        run_id=plans[0].run_id,
        started_at=started_at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        elapsed_seconds=elapsed,
        processes=len(plans),
        total_requests=plans[0].requests,
        totals=totals,
        proof=proof,
        limits=client_limits(totals, len(plans)),
        notes=notes + remarks(totals, elapsed),
        server_version=server_version,
        thresholds=[verdict(threshold, measured) for threshold in config.thresholds],
    )


def _documents(config: LoadConfig, info: PipelineInfo, notes: list[str]) -> Iterator[tuple[int, bytes]]:
    """Yield (row number, JSON text) of everything the run sends, each once."""
    if config.bodies is not None:
        yield from enumerate(config.bodies, 1)
    elif config.file is None:
        wanted = _MOST_GENERATED
        if config.requests is not None:
            wanted = min(wanted, config.requests * config.bulk)
        made = generators.bodies(config.pipeline, config.seed, bad_share=config.bad_share, example=info.example)
        yield from enumerate(islice(made, wanted), 1)
    elif config.file.suffix.lower() in (".jsonl", ".ndjson"):
        # As they stand, so that it is the gateway that judges broken lines too.
        with config.file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if text := line.strip():
                    yield number, text
    else:
        encode = msgspec.json.Encoder().encode
        unreadable = 0
        for row in sources.read(config.pipeline, config.file):
            if row.document is None:
                unreadable += 1
            else:
                yield row.number, encode(row.document)
        if unreadable:
            notes.append(f"Rows of the file that could not be read and so were not sent: {unreadable}.")


async def _stores(config: LoadConfig, info: PipelineInfo, stack: AsyncExitStack, notes: list[str]) -> Stores | None:
    """Open the stores, where we know them and may."""
    headrace = config.headrace
    if not headrace.mongo_url or not headrace.postgres_url:
        notes.append("The stores' URLs are not known here, so the proof rests on the ledger alone.")
        return None
    try:
        return await stack.enter_async_context(
            open_stores(headrace.mongo_url, headrace.postgres_url, config.pipeline, entity=info.mode == "entity")
        )
    except UnavailableError as error:
        notes.append(f"The stores could not be asked: {error.detail}")
        return None


async def _books(api: Api, pipeline: str, notes: list[str]) -> Books | None:
    """Return the books before the run; None where they cannot be had, or not of a count that began by now."""
    try:
        recent = Recent()
        for _ in range(_BOOKS_TRIES):
            books = await api.books(pipeline)
            if recent.holds(books):
                return books
            await asyncio.sleep(_BOOKS_TRY_SECONDS)
    except HeadraceError as error:
        notes.append(f"The ledger could not be read: {error.detail}")
        return None
    notes.append("The ledger was not counted in time before the run, so it is not compared.")
    return None


def _plans(config: LoadConfig, pool: int, folder: Path) -> list[Plan]:
    """Return what each process is to do.

    Raises:
        ValueError: the configuration makes no sense.
    """
    requests, duration, documents = config.requests, config.duration_seconds, None
    if requests is None and duration is None:
        if config.file is not None or config.bodies is not None:
            documents, requests = pool, math.ceil(pool / config.bulk)
        else:
            duration = _DEFAULT_SECONDS
    arrivals: Schedule | None = None
    if config.rate is not None:
        arrivals = schedule(config.rate, requests=requests, duration_seconds=duration)
        requests, duration = arrivals.requests, arrivals.duration_seconds
    senders = min(config.senders, requests or config.connections)
    small = requests is not None and requests < _SMALL_RUN
    run_id = uuid.uuid4().hex[:16]
    return [
        Plan(
            run_id=run_id,
            sender=number,
            senders=senders,
            url=config.headrace.url,
            path=f"/v1/documents/{config.pipeline}",
            token=config.headrace.token,
            client=config.client,
            folder=str(folder),
            requests=requests,
            documents=documents,
            duration_seconds=duration,
            connections=len(range(number, config.connections, senders)),
            rate=None if config.rate is None else (config.rate.start, config.rate.end),
            bulk=config.bulk,
            retry=config.retry,
            timeout_seconds=config.timeout_seconds,
            sample_every=(_SAMPLE_SMALL_RUN_EVERY if small else _SAMPLE_EVERY) if config.sample else 0,
            record_refused=config.refused_file is not None,
        )
        for number in range(senders)
    ]


def _parts(folder: Path, name: str) -> list[Path]:
    """Return the files that the processes wrote under this name."""
    return sorted(folder.glob(f"{name}-*"))


def _join(target: Path, parts: Iterable[Path]) -> None:
    with target.open("wb") as out:
        for part in parts:
            with part.open("rb") as file:
                shutil.copyfileobj(file, out)
