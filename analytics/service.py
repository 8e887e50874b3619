"""The analytics process: opens the stores, answers over the mesh, and keeps its samples while it lives."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from nats.aio.msg import Msg

from analytics.answers import Answer
from analytics.backlog import Backlog
from analytics.books import Bookkeeper
from analytics.consumers import Consumers
from analytics.documents import DocumentStates
from analytics.endpoints import Desk
from analytics.health import Health
from analytics.job_desk import JobDesk
from analytics.jobs import jobs
from analytics.metrics import Metrics
from headrace import telemetry
from headrace.cache import Cache
from headrace.errors import UnavailableError
from headrace.job_runner import jobs_running
from headrace.messaging.connection import Bus, connect
from headrace.messaging.mesh import serve
from headrace.messaging.schemas import register
from headrace.registry import Pipelines, load_pipelines
from headrace.settings import Settings
from headrace.storage.job_runs import JobRuns, open_job_runs
from headrace.storage.mongo import open_documents
from headrace.storage.postgres import Facts, open_facts
from headrace.storage.redis import open_projection
from headrace.tasks import end
from headrace.topology import Topology, ensure

log = telemetry.logger(__name__)

_PREPARE_SECONDS = 1.0
# Counting millions of rows takes its time, and nobody waits for it.
_COUNT_SECONDS = 60.0


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """Answer until `stop` is set, then finish what was asked. Stores may be away at any time, also at the start.

    Raises:
        PipelineFileError: a pipeline cannot be loaded.
        SchemaChangeError: a pipeline's schema breaks the version before it.
        UnavailableError: NATS does not answer at the start.
        BusLostError: NATS is lost for good; the process is to be started again.
    """
    pipelines = load_pipelines(settings.pipelines)
    topology = Topology(settings.namespace)
    mongo, postgres = settings.mongo_url.get_secret_value(), settings.postgres_url.get_secret_value()
    # The gateway gives up after `request_timeout_seconds`; an honest 503 has to be there before.
    answer_seconds = 0.9 * settings.nats.request_timeout_seconds
    store_seconds = answer_seconds / 2
    async with (
        connect(settings, "analytics") as bus,
        open_documents(mongo, answer_seconds) as documents,
        open_facts(postgres, store_seconds) as facts,
        open_projection(settings.redis_url.get_secret_value(), settings.namespace, store_seconds) as projection,
        open_documents(mongo, _COUNT_SECONDS) as patient_documents,
        open_facts(postgres, _COUNT_SECONDS, max_connections=1) as patient_facts,
        open_job_runs(postgres, store_seconds) as history,
    ):
        health = Health(documents, facts, projection)
        consumers = Consumers(bus, settings)
        cache: Cache[Answer] = Cache(settings.analytics.cache_seconds)
        backlog = Backlog(bus, topology, consumers, settings.analytics.scan_seconds)
        bookkeeper = Bookkeeper(patient_documents, patient_facts, consumers, health, pipelines)
        desk = Desk(
            pipelines=pipelines,
            documents=documents,
            facts=facts,
            metrics=Metrics(facts, projection, health, store_seconds),
            states=DocumentStates(documents, facts, backlog, store_seconds),
            bookkeeper=bookkeeper,
            health=health,
            cache=cache,
            jobs=JobDesk(bus, settings, history),
            store_seconds=store_seconds,
            answer_seconds=answer_seconds,
        )

        async def stored(message: Msg) -> None:
            cache.drop(topology.pipeline_of(message.subject))

        async def status() -> Mapping[str, object]:
            return {"stores": health.stores}

        await bus.client.subscribe(topology.stored("facts", "*"), cb=stored)
        async with asyncio.TaskGroup() as tasks:
            background = [
                tasks.create_task(health.watch()),
                tasks.create_task(consumers.watch()),
            ]
            if not await _prepared(bus, settings, facts, history, pipelines):
                background.append(tasks.create_task(_prepare(bus, settings, facts, history, pipelines)))
            async with (
                serve(bus, settings.namespace, "analytics", desk.handlers(), status=status),
                jobs_running(bus, settings, "analytics", jobs(bookkeeper), stop),
            ):
                log.info("analytics_started", pipelines=sorted(pipelines))
                await stop.wait()
            await bookkeeper.close()
            await end(*background)


async def _prepare(bus: Bus, settings: Settings, facts: Facts, history: JobRuns, pipelines: Pipelines) -> None:
    while True:
        await asyncio.sleep(_PREPARE_SECONDS)
        if await _prepared(bus, settings, facts, history, pipelines):
            return


async def _prepared(bus: Bus, settings: Settings, facts: Facts, history: JobRuns, pipelines: Pipelines) -> bool:
    """Make streams and tables, so that there is an answer before the first worker has been started.

    Returns:
        Whether all is there now; not while a server is away.
    """
    try:
        await ensure(bus, settings)
        await register(bus, settings, pipelines.values())
        await facts.prepare(list(pipelines.values()))
        await history.prepare()
    except UnavailableError as error:
        log.warning("analytics_waits", reason=error.detail)
        return False
    return True
