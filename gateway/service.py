"""The gateway's process: opens the bus and the door, serves, and drains at the end."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from gateway.admission import Admission
from gateway.app import build
from gateway.authenticate import Authenticator
from gateway.door import Door
from gateway.edge import cross_origin
from gateway.ingest import Ingest
from gateway.plain import plain_posts
from gateway.receipts import open_receipts
from gateway.server import listen, serving
from headrace import telemetry
from headrace.errors import HeadraceError
from headrace.exposure import plain_http
from headrace.messaging.commit import Committer
from headrace.messaging.connection import connect
from headrace.messaging.mesh import serve
from headrace.messaging.publisher import open_publisher
from headrace.messaging.schemas import register
from headrace.registry import load_pipelines
from headrace.revocations import watch_revocations
from headrace.settings import Settings
from headrace.tasks import end
from headrace.topology import Topology, ensure_streams

log = telemetry.logger(__name__)

# After this much of "not ready" and "connection: close", balancers and clients have gone elsewhere.
_FAREWELL_SECONDS = 1.0


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """Serve until `stop` is set, then answer what was begun.

    Raises:
        HeadraceError: the port is taken, a pipeline cannot be loaded or breaks its schema, or NATS does not answer.
        BusLostError: NATS is lost for good; the process is to be started again.
    """
    pipelines = load_pipelines(settings.pipelines)
    topology = Topology(settings.namespace)
    limits = settings.gateway
    if plain_http(settings) and not settings.private_network:
        log.warning(
            "unencrypted_and_open",
            host=limits.host,
            risk="whoever is on the network can read passwords, tokens and documents",
            fix="set HEADRACE_GATEWAY__TLS_CERTIFICATE, or HEADRACE_PRIVATE_NETWORK=true behind a proxy with TLS",
        )
    try:
        listener = listen(limits.host, limits.port)
    except OSError as error:
        raise HeadraceError(
            f"The gateway cannot bind {limits.host}:{limits.port}: {error.strerror}. Set HEADRACE_GATEWAY__PORT.",
            code="port_taken",
        ) from error
    async with (
        connect(settings, "gateway") as bus,
        open_publisher(bus, settings.nats.publish_timeout_seconds) as publisher,
        open_receipts(bus, topology) as receipts,
        watch_revocations(bus, settings.namespace) as revocations,
        asyncio.TaskGroup() as tasks,
    ):
        await ensure_streams(bus, settings)
        await register(bus, settings, pipelines.values())
        admission = Admission(bus, settings)
        sampling = tasks.create_task(admission.sample())
        door = Door(
            settings=settings,
            bus=bus,
            pipelines=pipelines,
            authenticator=Authenticator(bus, settings.namespace, revocations, limits.token_cache_seconds),
            admission=admission,
            committer=Committer(
                publisher,
                topology,
                settings.block,
                max_documents=limits.in_flight_documents,
                max_bytes=limits.in_flight_bytes,
            ),
            receipts=receipts,
        )

        ingest = Ingest(door, build(door))

        async def status() -> Mapping[str, object]:
            return {"address": f"{limits.host}:{listener.getsockname()[1]}", "in_flight": door.committer.in_flight}

        async with (
            serve(bus, settings.namespace, "gateway", {}, status=status),
            serving(cross_origin(ingest, limits.cors_origins), listener, limits, plain_posts(ingest, limits)),
        ):
            log.info(
                "gateway_started", address=f"{limits.host}:{listener.getsockname()[1]}", pipelines=sorted(pipelines)
            )
            await stop.wait()
            door.draining = True
            await asyncio.sleep(_FAREWELL_SECONDS)
        await end(sampling)
