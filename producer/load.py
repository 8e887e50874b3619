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
import os
import platform
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from typing import Any, Final

import msgspec

from headrace.errors import HeadraceError, UnavailableError
from producer import generators, sources
from producer.api import Api, PipelineInfo
from producer.proof import Books, Proof
from producer.prove import AT_ONCE, Ledger, Stores, prove
from producer.schedule import Rate, Schedule, schedule
from producer.sender import Plan
from producer.spool import read_ids, write_documents
from producer.stores import open_stores
from producer.tally import Interval, Totals
from producer.target import Headrace
from producer.thresholds import RATES, Measured, Threshold, Verdict, verdict

SCHEMA: Final = "headrace.load/1"

_DEFAULT_SECONDS: Final = 10.0
_CLOSED_CONNECTIONS: Final = 50
# Below the 1,024 open files that most shells allow.
_OPEN_CONNECTIONS: Final = 500
# Different documents that a generator makes before a run; they are sent again under new keys when used up.
_MOST_GENERATED: Final = 20_000
# What one process sends with ease; beyond it another is started.
_EASY_RATE: Final = {"aiohttp": 3000, "raw": 15000}
_MOST_PROCESSES: Final = 8
_SAMPLE_EVERY: Final = 100
_SAMPLE_SMALL_RUN_EVERY: Final = 10
_SMALL_RUN: Final = 2000
_LATE_SHARE: Final = 0.05
_BUSY_SHARE: Final = 0.95
# CPU use over less than this says nothing of the client.
_SHORT_SECONDS: Final = 1.0
# Books may have been counted a moment ago; older ones are asked for again, for this long.
_FRESH_SECONDS: Final = 2.0
_FRESH_TRIES: Final = 4
_START_SECONDS: Final = 30.0
_REPORT_BYTES: Final = 1 << 22
# Where `producer` lies: a client process started here finds it, installed or not.
_ROOT: Final = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class LoadConfig:
    """One run.

    Attributes:
        requests, duration_seconds: where the run ends; with a file and neither, when all its rows are sent.
        rate: requests a second, which makes it an open-model run.
        concurrency: requests under way at once: exactly so many (closed model), at most (open model).
        bulk: documents in one request, as NDJSON.
        file: where documents come from; else they are generated.
        bodies: JSON texts to send, for callers that have their own.
        bad_share: part of the generated documents that the schema refuses.
        processes: client processes; None chooses.
        retry: send again, under the same key, what was answered 429 or 503 or not at all.
        refused_file: gets a JSON line for each refused document.
        settle_seconds: after so long without progress, what is accepted and not stored is missing.
        sample: measure the time to stored on some of the documents.
    """

    headrace: Headrace
    pipeline: str
    requests: int | None = None
    duration_seconds: float | None = None
    rate: Rate | None = None
    concurrency: int | None = None
    bulk: int = 1
    file: Path | None = None
    bodies: Iterable[bytes] | None = field(default=None, repr=False)
    bad_share: float = 0.0
    seed: int = 1
    processes: int | None = None
    client: str = "aiohttp"
    retry: bool = False
    timeout_seconds: float = 30.0
    settle_seconds: float = 60.0
    sample: bool = True
    refused_file: Path | None = None
    thresholds: Sequence[Threshold] = ()

    @property
    def connections(self) -> int:
        if self.concurrency is not None:
            return self.concurrency
        return _CLOSED_CONNECTIONS if self.rate is None else _OPEN_CONNECTIONS


@dataclass(frozen=True, slots=True)
class Progress:
    """What a live view shows; `phase` is prepare, send, sample or prove."""

    config: LoadConfig
    phase: str
    totals: Totals
    elapsed_seconds: float
    note: str = ""


Watch = Callable[[Progress], None]


@dataclass(slots=True)
class LoadResult:
    """Everything that is known after a run."""

    config: LoadConfig
    run_id: str
    started_at: str
    elapsed_seconds: float
    processes: int
    total_requests: int | None
    totals: Totals
    proof: Proof
    limits: list[str]
    notes: list[str]
    server_version: str
    thresholds: list[Verdict]

    @property
    def client_limited(self) -> bool:
        return bool(self.limits)

    @property
    def passed(self) -> bool:
        return all(one.passed for one in self.thresholds)

    @property
    def numbers(self) -> dict[str, float | None]:
        """Return the counts and rates that thresholds may name."""
        return _numbers(self.totals, self.proof, self.elapsed_seconds)

    def to_json(self) -> dict[str, Any]:
        """Return the report, schema `headrace.load/1`: times in seconds, counts in documents unless named otherwise.

        A field's meaning never changes within a schema number; new fields may come.
        """
        config = self.config
        counts = msgspec.structs.asdict(self.totals.counts)
        return {
            "schema": SCHEMA,
            "run_id": self.run_id,
            "started_at": self.started_at,
            "elapsed_seconds": round(self.elapsed_seconds, 6),
            "config": {
                "url": config.headrace.url,
                "pipeline": config.pipeline,
                "model": "closed" if config.rate is None else "open",
                "rate": None if config.rate is None else str(config.rate),
                "requests": self.total_requests,
                "duration_seconds": config.duration_seconds,
                "concurrency": config.connections,
                "bulk": config.bulk,
                "processes": self.processes,
                "client": config.client,
                "retry": config.retry,
                "timeout_seconds": config.timeout_seconds,
                "source": _source_name(config),
            },
            "machine": {
                "cpus": os.cpu_count(),
                "system": f"{platform.system()} {platform.machine()}",
                "python": platform.python_version(),
                "headrace": _our_version(),
                "server": self.server_version,
            },
            "client_limited": self.client_limited,
            "limits": self.limits,
            "notes": self.notes,
            "counts": counts,
            "rates": {name: self.numbers[name] for name in RATES},
            "refused": dict(self.totals.refused.most_common()),
            "failed": dict(self.totals.failed.most_common()),
            "latencies": {
                name: {**histogram.summary(), "hdr": histogram.encode()}
                for name, histogram in self.totals.latencies.items()
                if histogram.count
            },
            "proof": msgspec.to_builtins(self.proof),
            "thresholds": msgspec.to_builtins(self.thresholds),
            "seconds": msgspec.to_builtins(self.totals.seconds),
        }


async def run(config: LoadConfig, *, watch: Watch | None = None, stop: asyncio.Event | None = None) -> LoadResult:
    """Run one load test, from reading the documents to the proof.

    Args:
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
        # They import while the documents are read.
        processes = [await stack.enter_async_context(_process()) for _ in range(_most_senders(config))]
        pool = write_documents(folder, _documents(config, info, notes))
        if not pool:
            raise ValueError("there are no documents to send")
        stores = await _stores(config, info, stack, notes)
        before = await _books(api, config.pipeline, notes)
        plans = _plans(config, pool, folder)
        started_at = datetime.now(UTC)
        go_at = await _send(config, plans, processes, totals, see, stop)
        totals.fail_unanswered("client_died")
        if config.refused_file:
            _join(config.refused_file, _parts(folder, "refused"))
        elapsed = max((last.until_seconds for last in totals.last.values()), default=0.0)

        try:
            proof = await prove(
                totals.counts.accepted,
                unknown=totals.counts.unknown,
                ledger=await _ledger(api, config.pipeline, before),
                stores=stores,
                read_ids=lambda: read_ids(_parts(folder, "ids"), at_once=AT_ONCE),
                settle_seconds=config.settle_seconds,
                ended_at=go_at + elapsed,
                say=lambda note: see(Progress(config, "prove", totals, elapsed, note)),
            )
        except HeadraceError as error:
            # What was measured stands, also where nothing is proven.
            proof = Proof("none", totals.counts.accepted, notes=[f"The proof could not be made: {error.detail}"])
    measured = Measured(_numbers(totals, proof, elapsed), totals.latencies)
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
        notes=notes + _remarks(totals, elapsed),
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
    """Return the books before the run, or None where they cannot be had, or are too old to hold what was before it."""
    try:
        for _ in range(_FRESH_TRIES):
            books = await api.books(pipeline)
            age_seconds = _age_seconds(books, await api.server_time())
            if age_seconds <= _FRESH_SECONDS:
                return books
            await asyncio.sleep(_FRESH_SECONDS / _FRESH_TRIES)
    except HeadraceError as error:
        notes.append(f"The ledger could not be read: {error.detail}")
        return None
    notes.append(f"The ledger was last counted {age_seconds:.0f} s before the run, so it is not compared.")
    return None


def _age_seconds(books: Books, server_time: datetime) -> float:
    return (server_time - datetime.fromisoformat(books.at)).total_seconds() if books.at else 0.0


async def _ledger(api: Api, pipeline: str, before: Books | None) -> Ledger | None:
    """Return the books as they are read after the run."""
    if before is None:
        return None
    # The server's time is in whole seconds; the next one is later than the end of the run for certain.
    ended_at = await api.server_time() + timedelta(seconds=1)
    return Ledger(lambda: api.books(pipeline), before, ended_at.strftime("%Y-%m-%dT%H:%M:%SZ"))


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
    senders = min(_most_senders(config), requests or config.connections)
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


def _most_senders(config: LoadConfig) -> int:
    return min(_processes(config), config.connections)


def _processes(config: LoadConfig) -> int:
    if config.processes is not None:
        return config.processes
    cpus = os.cpu_count() or 1
    if config.rate is None:
        # Half of the machine, for the server may be on it too.
        return max(1, min(cpus // 2, _MOST_PROCESSES))
    highest = max(config.rate.start, config.rate.end)
    return max(1, min(math.ceil(highest / _EASY_RATE[config.client]), cpus, _MOST_PROCESSES))


async def _send(
    config: LoadConfig,
    plans: Sequence[Plan],
    started: Sequence[asyncio.subprocess.Process],
    totals: Totals,
    see: Watch,
    stop: asyncio.Event | None,
) -> float:
    """Give each client process its plan, and follow them until all have sent their share.

    Args:
        started: at least as many as there are plans.
        totals: gets what they report.

    Returns:
        When they were told to begin, by `time.monotonic`.
    """
    processes = started[: len(plans)]
    for process, plan in zip(processes, plans, strict=True):
        # By stdin, for it holds the token.
        _tell(process, msgspec.json.encode(plan) + b"\n")
    # Imports take their time; nobody starts before all are there.
    async with asyncio.timeout(_START_SECONDS):
        ready = await asyncio.gather(*(_stdout(process).readline() for process in processes))
    if not all(ready):
        raise RuntimeError("a client process ended before it began; its words are above")
    started_at = time.monotonic()
    for process in processes:
        _tell(process, b"go\n")

    async def follow(process: asyncio.subprocess.Process) -> None:
        while line := await _stdout(process).readline():
            interval = msgspec.json.decode(line, type=Interval)
            totals.add(interval)
            phase = "send" if interval.sending else "sample"
            see(Progress(config, phase, totals, time.monotonic() - started_at))

    async def stop_early() -> None:
        assert stop is not None
        await stop.wait()
        for process in processes:
            _tell(process, b"stop\n")

    stopping = asyncio.create_task(stop_early()) if stop else None
    try:
        async with asyncio.TaskGroup() as followers:
            for process in processes:
                followers.create_task(follow(process))
    finally:
        if stopping:
            stopping.cancel()
    return started_at


@asynccontextmanager
async def _process() -> AsyncIterator[asyncio.subprocess.Process]:
    """Start a client process, which waits for its plan."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "producer.sender",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=_REPORT_BYTES,
        cwd=_ROOT,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            assert process.stdin is not None
            process.stdin.close()
            try:
                async with asyncio.timeout(2):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()


def _tell(process: asyncio.subprocess.Process, line: bytes) -> None:
    assert process.stdin is not None
    if not process.stdin.is_closing():
        process.stdin.write(line)


def _stdout(process: asyncio.subprocess.Process) -> asyncio.StreamReader:
    assert process.stdout is not None
    return process.stdout


def _parts(folder: Path, name: str) -> list[Path]:
    """Return the files that the processes wrote under this name."""
    return sorted(folder.glob(f"{name}-*"))


def _join(target: Path, parts: Iterable[Path]) -> None:
    with target.open("wb") as out:
        for part in parts:
            with part.open("rb") as file:
                shutil.copyfileobj(file, out)


def client_limits(totals: Totals, processes: int) -> list[str]:
    """Return why the client itself may have been the limit; empty when it was not. Pure."""
    limits = []
    if len(totals.ended) < processes:
        limits.append("A client process died during the run.")
    counts = totals.counts
    if counts.late_requests > _LATE_SHARE * max(1, counts.requests):
        limits.append(
            f"{counts.late_requests / counts.requests:.0%} of the requests left the client more than 10 ms late"
            " though a connection was free."
        )
    for number, last in sorted(totals.last.items()):
        span = last.until_seconds
        if span < _SHORT_SECONDS:
            continue
        used, wanted = last.cpu_seconds / span, (last.cpu_seconds + last.starved_seconds) / span
        if used > _BUSY_SHARE:
            limits.append(
                f"Client process {number + 1} used {used:.0%} of a CPU: add processes, or use the raw client."
            )
        elif wanted > _BUSY_SHARE:
            limits.append(
                f"Client process {number + 1} wanted {wanted:.0%} of a CPU and got {used:.0%}:"
                " the machine has no CPU left for it."
            )
    return limits


def _remarks(totals: Totals, elapsed_seconds: float) -> list[str]:
    """Return what one should know before reading the numbers."""
    counts, remarks = totals.counts, []
    if elapsed_seconds < _SHORT_SECONDS:
        remarks.append("The run took less than a second: its rates and latencies say little.")
    if counts.waited_requests > _LATE_SHARE * max(1, counts.requests):
        remarks.append(
            f"{counts.waited_requests / counts.requests:.0%} of the requests came due while every connection was busy;"
            " their wait is part of their latency."
        )
    return remarks


def _numbers(totals: Totals, proof: Proof, elapsed_seconds: float) -> dict[str, float | None]:
    counts = totals.counts
    span = max(elapsed_seconds, 1e-9)
    return {
        "sent": counts.sent,
        "accepted": counts.accepted,
        "refused": counts.refused,
        "failed": counts.failed,
        "unknown": counts.unknown,
        "stored": proof.stored,
        "dead": proof.dead,
        "in_flight": proof.in_flight,
        "lost": proof.lost,
        "duplicated": proof.duplicated,
        "rate": counts.accepted / span,
        "requests_rate": counts.requests / span,
        # From the first request until everything was in every store: what the whole system sustains.
        "stored_rate": proof.stored / (span + proof.settle_seconds) if proof.stored and proof.settled else None,
    }


def _source_name(config: LoadConfig) -> str:
    if config.file is not None:
        return config.file.name
    return "given" if config.bodies is not None else f"generator, seed {config.seed}"


def _our_version() -> str:
    try:
        return version("headrace")
    except PackageNotFoundError:
        return "unknown"
