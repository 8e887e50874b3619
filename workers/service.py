"""The workers' process: opens what its stages need, runs them, and leaves nothing in the air at the end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import nats.errors
from nats.js.errors import APIError

from headrace import telemetry
from headrace.errors import HeadraceError, UnavailableError
from headrace.job_runner import jobs_running
from headrace.messaging.connection import Bus, connect
from headrace.messaging.consumer import BlockConsumer, open_consumer
from headrace.messaging.mesh import serve
from headrace.messaging.publisher import Publisher, open_publisher
from headrace.messaging.schemas import register
from headrace.registry import Pipelines, load_pipelines
from headrace.settings import Settings
from headrace.storage.job_runs import open_job_runs
from headrace.storage.mongo import Documents, open_documents
from headrace.storage.postgres import Facts, open_facts
from headrace.storage.redis import Projection, open_projection
from headrace.tasks import Once, end
from headrace.topology import STAGES, Topology, ensure, purge_settled, stream_fills
from workers.books import DeadIndex, Journal
from workers.documents import StoreDocuments
from workers.facts import StoreFacts
from workers.jobs import jobs
from workers.probe import Probes, open_probes
from workers.projection import keep_repaired
from workers.refine import Refine
from workers.runner import BookRunner, Runner
from workers.settle import Settler
from workers.workbench.actions import Actions
from workers.workbench.desk import Desk

log = telemetry.logger(__name__)

T = TypeVar("T")

ALL_STAGES = tuple(STAGES)
_START_SECONDS = 1.0
_SAMPLE_SECONDS = 2.0


@dataclass(frozen=True)
class Tools:
    """What the stages of one process share.

    Attributes:
        facts_ready: makes the tables; three stages need them, and making them takes as long as all else at the start.
    """

    bus: Bus
    publisher: Publisher
    probes: Probes
    settings: Settings
    pipelines: Pipelines
    documents: Documents
    facts: Facts
    facts_ready: Once
    projection: Projection


async def run(settings: Settings, stop: asyncio.Event, stages: Sequence[str] = ALL_STAGES) -> None:
    """Run stages until `stop` is set, then finish what was pulled.

    Raises:
        PipelineFileError: a pipeline cannot be loaded.
        SchemaChangeError: a pipeline's schema breaks the version before it.
        UnavailableError: NATS does not answer at the start.
        BusLostError: NATS is lost for good; the process is to be started again.
    """
    pipelines = load_pipelines(settings.pipelines)
    timeout = settings.workers.store_timeout_seconds
    async with (
        connect(settings, "workers") as bus,
        open_publisher(bus, settings.nats.publish_timeout_seconds) as publisher,
        open_documents(settings.mongo_url.get_secret_value(), timeout) as documents,
        open_facts(settings.postgres_url.get_secret_value(), timeout) as facts,
        open_projection(settings.redis_url.get_secret_value(), settings.namespace, timeout) as projection,
        open_job_runs(settings.postgres_url.get_secret_value(), timeout, max_connections=1) as history,
    ):
        await until_available("streams", lambda: ensure(bus, settings), stop)
        await until_available("schemas", lambda: register(bus, settings, pipelines.values()), stop)
        probes = await until_available("probes", lambda: open_probes(bus, settings), stop)
        if probes is None:
            return
        ready = Once(partial(facts.prepare, list(pipelines.values())))
        tools = Tools(bus, publisher, probes, settings, pipelines, documents, facts, ready, projection)
        actions = Actions(
            facts, publisher, Topology(settings.namespace), pipelines, settings.block, settings.dead_letters
        )
        desk = Desk(facts, actions, pipelines, settings.dead_letters, 0.9 * settings.nats.request_timeout_seconds)
        # Who indexes the dead letters answers for them; other workers do not share that load.
        handlers = desk.handlers() if DeadIndex.name in stages else {}
        async with (
            serve(bus, settings.namespace, "workers", handlers, status=_status(stages)),
            jobs_running(bus, settings, "workers", jobs(history, settings.jobs), stop),
            asyncio.TaskGroup() as tasks,
        ):
            if handlers:
                tasks.create_task(actions.run(stop))
            await _run_stages(tools, stages, stop)


async def _run_stages(tools: Tools, stages: Sequence[str], stop: asyncio.Event) -> None:
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(_run_stage(tools, name, stop)) for name in stages]
        background = [tasks.create_task(_tend_streams(tools))]
        if "facts" in stages:
            background.append(tasks.create_task(keep_repaired(tools.facts, tools.projection, tools.pipelines)))
        log.info("workers_started", stages=list(stages), pipelines=sorted(tools.pipelines))
        await asyncio.wait(running)
        await end(*background)


async def _run_stage(tools: Tools, name: str, stop: asyncio.Event) -> None:
    """Run one stage. Its store may be away for now: that delays this stage and no other."""
    settings = tools.settings
    await until_available(name, lambda: _prepare(tools, name), stop)
    if stop.is_set():
        return
    async with open_consumer(tools.bus, settings, STAGES[name]) as consumer:
        settler = Settler(tools.bus, tools.publisher, Topology(settings.namespace), settings.block)
        runner = _runner(tools, name, consumer, settler)
        stopper = asyncio.create_task(_stop_with(stop, runner))
        try:
            await runner.run()
        finally:
            stopper.cancel()


def _runner(tools: Tools, name: str, consumer: BlockConsumer, settler: Settler) -> Runner | BookRunner:
    workers, retry = tools.settings.workers, tools.settings.retry
    match name:
        case "journal":
            return BookRunner(Journal(tools.facts), consumer, settler, workers, retry)
        case "dead":
            return BookRunner(DeadIndex(tools.facts, settler.announce), consumer, settler, workers, retry)
        case "refine":
            stage: Refine | StoreDocuments | StoreFacts = Refine()
        case "documents":
            stage = StoreDocuments(tools.documents)
        case "facts":
            stage = StoreFacts(tools.facts, tools.projection)
        case _:
            raise HeadraceError(
                f"There is no stage {name!r}; there are: {', '.join(ALL_STAGES)}.", code="unknown_stage"
            )
    return Runner(stage, consumer, settler, tools.probes, tools.pipelines, workers, retry)


async def _prepare(tools: Tools, name: str) -> None:
    if name == "documents":
        for pipeline in tools.pipelines.values():
            await tools.documents.prepare(pipeline)
    elif name in ("facts", "journal", "dead"):
        await tools.facts_ready()


async def _stop_with(stop: asyncio.Event, runner: Runner | BookRunner) -> None:
    await stop.wait()
    runner.stop()


async def until_available(what: str, attempt: Callable[[], Awaitable[T]], stop: asyncio.Event) -> T | None:
    """Return what the attempt gives as soon as it works, None if `stop` is set before; only servers are waited for."""
    waited = False
    while not stop.is_set():
        try:
            return await attempt()
        except UnavailableError as error:
            if not waited:
                log.warning("waits_for", what=what, reason=error.detail)
            waited = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_START_SECONDS):
                await stop.wait()
    return None


async def _tend_streams(tools: Tools) -> None:
    """Sample the streams' fill; where one nears its limit, purge what every consumer has settled."""
    while True:
        try:
            fills = await stream_fills(tools.bus, tools.settings)
            for stream, fill in fills.items():
                if fill > tools.settings.streams.purge_fill:
                    await purge_settled(tools.bus, tools.settings, stream)
        except (nats.errors.Error, APIError, TimeoutError) as error:
            log.warning("streams_unavailable", error=type(error).__name__)
        await asyncio.sleep(_SAMPLE_SECONDS)


def _status(stages: Sequence[str]) -> Callable[[], Awaitable[Mapping[str, object]]]:
    async def status() -> Mapping[str, object]:
        return {"stages": list(stages)}

    return status
