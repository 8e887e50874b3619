"""Each role of NATS does its own work and nothing else: tried against the real server, not read from the table."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import nats
import nats.errors
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from pydantic import SecretStr
from structlog.testing import capture_logs

from headrace.errors import UnavailableError
from headrace.messaging.connection import connect, inbox_prefix
from headrace.messaging.mesh import Everyone, Reply, Request, ask, serve
from headrace.messaging.publisher import open_publisher
from headrace.revocations import open_revocations, revoke, watch_revocations
from headrace.roles import ANALYTICS, AUTH, BRIDGE, DEVICE, GATEWAY, OPERATOR, ROLES, SERVICES, WORKERS
from headrace.settings import Settings
from headrace.topology import ensure, ensure_streams
from tests.servers import Servers, in_own_task, reachable_directory, running

ALL = set(ROLES)
NAMESPACE = "acme_"
API = "$JS.API"
RAW, CLEAN, DEAD = f"{NAMESPACE.upper()}_RAW", f"{NAMESPACE.upper()}_CLEAN", f"{NAMESPACE.upper()}_DEAD"
JOBS = f"{NAMESPACE.upper()}_JOBS"

# Subject to the roles that may publish to it; the operator always may.
PUBLISH: Mapping[str, set[str]] = {
    "acme_raw.invoices": {GATEWAY, WORKERS, BRIDGE},
    "acme_ingest.invoices": {DEVICE, BRIDGE},
    "acme_ingest.invoices.more": set(),
    "acme_clean.invoices": {WORKERS},
    "acme_dead.invoices": {WORKERS},
    "acme_events.facts.invoices": {WORKERS},
    "acme_svc.auth.token": {GATEWAY, AUTH},
    "acme_svc.analytics.ledger": {GATEWAY},
    "acme_svc.all.status": {GATEWAY},
    "acme_jobs.schedule.workers.fetch": {WORKERS},
    "acme_jobs.schedule.auth.count": {AUTH},
    "acme_jobs.due.workers.fetch": {ANALYTICS},
    f"{API}.CONSUMER.MSG.NEXT.{JOBS}.workers-fetch": {AUTH, WORKERS, ANALYTICS},
    f"{API}.STREAM.DELETE.{JOBS}": set(),
    "$KV.acme_revocations.jti.1": {AUTH},
    "$KV.acme_probes.refine.1": {WORKERS},
    "$KV.acme_sessions.x": {GATEWAY},
    "$KV.acme_schemas.invoices": {GATEWAY, WORKERS, ANALYTICS},
    f"{API}.STREAM.CREATE.{RAW}": {GATEWAY, WORKERS, ANALYTICS},
    f"{API}.STREAM.UPDATE.{RAW}": {WORKERS, ANALYTICS},
    f"{API}.STREAM.PURGE.{RAW}": {WORKERS},
    f"{API}.STREAM.PURGE.{DEAD}": set(),
    f"{API}.STREAM.DELETE.{RAW}": set(),
    f"{API}.STREAM.MSG.DELETE.{RAW}": set(),
    f"{API}.STREAM.SNAPSHOT.{RAW}": set(),
    f"{API}.DIRECT.GET.{RAW}": {GATEWAY, WORKERS, ANALYTICS},
    f"{API}.CONSUMER.MSG.NEXT.{RAW}.refine": {WORKERS},
    f"{API}.CONSUMER.MSG.NEXT.{CLEAN}.facts": {WORKERS},
    f"{API}.CONSUMER.DURABLE.CREATE.{RAW}.refine": {WORKERS, ANALYTICS},
    f"{API}.CONSUMER.DURABLE.CREATE.{RAW}.thief": set(),
    f"{API}.CONSUMER.CREATE.{RAW}": set(),
    f"{API}.CONSUMER.DELETE.{RAW}.refine": set(),
    f"{API}.CONSUMER.DELETE.KV_acme_revocations.x": {GATEWAY, AUTH},
    f"$JS.ACK.{RAW}.refine.1.1.1.1.1": {WORKERS},
    f"$JS.ACK._.h4sh.{RAW}.refine.1.1.1.1.1.t": {WORKERS},
    f"$JS.ACK.{RAW}.thief.1.1.1.1.1": set(),
    # Another Headrace on the same server, and the server itself.
    "raw.invoices": set(),
    "ingest.invoices": set(),
    f"{API}.STREAM.PURGE.RAW": set(),
    "$SYS.REQ.SERVER.PING": set(),
    "$MQTT.msgs.acme_ingest.invoices": set(),
}
SUBSCRIBE: Mapping[str, set[str]] = {
    ">": set(),
    "acme_raw.>": set(),
    "acme_ingest.*": set(),
    "acme_clean.*": set(),
    "acme_dead.*": set(),
    "acme_events.facts.*": {GATEWAY, ANALYTICS},
    "acme_svc.>": set(),
    "acme_svc.auth.token": {AUTH},
    "acme_svc.analytics.dead.list": {ANALYTICS},
    "acme_svc.all.status": {*SERVICES, BRIDGE},
    "acme_svc.parts.auth.1.*": {AUTH},
    "$KV.acme_revocations.>": {GATEWAY, AUTH},
    "$KV.acme_probes.>": set(),
    "$SRV.PING": {*SERVICES, BRIDGE},
    "_INBOX.>": set(),
    **{f"_INBOX.{role}.x.*": {role} for role in ROLES if role != OPERATOR},
}


@pytest.fixture(scope="module")
async def guarded() -> AsyncIterator[Servers]:
    """A server whose roles are about one namespace."""
    with reachable_directory() as directory:
        async with in_own_task(running(directory, ["nats_url"], namespace=NAMESPACE)) as servers:
            yield servers


@contextlib.asynccontextmanager
async def as_role(servers: Servers, role: str) -> AsyncIterator[tuple[Client, list[str]]]:
    """Be a client of this role; the list holds what the server refused."""
    refused: list[str] = []

    async def note(error: Exception) -> None:
        refused.append(str(error).lower())

    url = servers.nats_roles[role]
    client = await nats.connect(url, inbox_prefix=inbox_prefix(url), allow_reconnect=False, error_cb=note)
    try:
        yield client, refused
    finally:
        await client.close()


@pytest.mark.parametrize("role", ROLES)
async def test_a_role_publishes_and_hears_its_own_subjects_and_no_other(guarded: Servers, role: str) -> None:
    async with as_role(guarded, role) as (client, refused):
        for subject in PUBLISH:
            # Without a reply, JetStream's API does nothing.
            await client.publish(subject, b"")
        for subject in SUBSCRIBE:
            await client.subscribe(subject, cb=_ignore)
        # Twice: the first may pass what was queued before it.
        await client.flush()
        await client.flush()

    may = {f"publish {subject}" for subject, roles in PUBLISH.items() if role in roles or role == OPERATOR}
    may |= {f"subscribe {subject}" for subject, roles in SUBSCRIBE.items() if role in roles or role == OPERATOR}
    said = "\n".join(refused)
    tried = {f"publish {subject}" for subject in PUBLISH} | {f"subscribe {subject}" for subject in SUBSCRIBE}
    passed = {what for what in tried if _violation(what) not in said}
    assert passed == may


def _violation(what: str) -> str:
    verb, _, subject = what.partition(" ")
    return f'{"subscription" if verb == "subscribe" else verb} to "{subject}"'.lower()


async def _ignore(_message: Msg) -> None:
    pass


def settings_of(servers: Servers, role: str) -> Settings:
    return Settings(nats_url=SecretStr(servers.nats_roles[role]), namespace=NAMESPACE)


async def test_the_services_do_their_work_with_these_rights(guarded: Servers) -> None:
    async def hello(request: Request) -> Reply:
        # Larger than one message, so that the rest is asked for apart.
        return Reply(request.payload * (3 << 20))

    with capture_logs() as logs:
        async with contextlib.AsyncExitStack() as stack:
            buses = {}
            for role in SERVICES:
                settings = settings_of(guarded, role)
                buses[role] = await stack.enter_async_context(connect(settings, role))
                await stack.enter_async_context(serve(buses[role], NAMESPACE, role, {"hello": hello}))
            for role in (WORKERS, ANALYTICS):
                assert await ensure(buses[role], settings_of(guarded, role)) == []
            await ensure_streams(buses[GATEWAY], settings_of(guarded, GATEWAY))
            bucket = await open_revocations(buses[AUTH], NAMESPACE, 60, 1)
            await revoke(bucket, "jti.1")
            revocations = await stack.enter_async_context(watch_revocations(buses[GATEWAY], NAMESPACE))
            await asyncio.wait_for(revocations.loaded.wait(), 10)

            assert len(await Everyone(buses[GATEWAY], NAMESPACE, "status").ask()) == len(SERVICES)
            for service in (AUTH, ANALYTICS):
                assert (await ask(buses[GATEWAY], NAMESPACE, service, "hello", b"x")).body == b"x" * (3 << 20)
            # `headrace user add` in the auth service's own container.
            assert (await ask(buses[AUTH], NAMESPACE, AUTH, "hello", b"x")).body == b"x" * (3 << 20)

    assert [log for log in logs if log["log_level"] == "error"] == []


async def test_a_service_that_may_not_hears_so_at_once_and_says_so(guarded: Servers) -> None:
    with capture_logs() as logs:
        # A bridge is a process of ours that may not publish dead letters.
        settings = settings_of(guarded, BRIDGE)
        async with connect(settings, "bridge") as bus, open_publisher(bus, 30) as publisher:
            with pytest.raises(UnavailableError, match=r"acme_dead\.invoices") as refused:
                await asyncio.wait_for(publisher.publish("acme_dead.invoices", b"{}", {}), 10)

    assert refused.value.code == "jetstream_refused"
    (said,) = [log for log in logs if log["event"] == "nats_forbidden"]
    assert said["log_level"] == "error"
    assert "acme_dead.invoices" in said["detail"]


async def test_nobody_overhears_an_answer_to_another_role(guarded: Servers) -> None:
    async with as_role(guarded, DEVICE) as (device, refused), as_role(guarded, GATEWAY) as (gateway, _):
        heard: list[Msg] = []

        async def hear(message: Msg) -> None:
            heard.append(message)

        await device.subscribe("_INBOX.gateway.>", cb=hear)
        await device.flush()
        await gateway.request(f"{API}.INFO", b"", timeout=5)
        await device.flush()

    assert heard == []
    assert len(refused) == 1


def test_nobody_makes_an_inbox_beside_those_of_the_connection() -> None:
    root = Path(__file__).parents[2]
    packages = ("headrace", "auth", "gateway", "workers", "analytics", "producer", "cli")
    spelled = {
        str(path.relative_to(root))
        for package in packages
        for path in (root / package).rglob("*.py")
        if "_INBOX" in path.read_text()
    }

    assert spelled == {"headrace/messaging/connection.py", "headrace/roles.py"}, "use bus.client.new_inbox()"


async def test_a_device_is_told_where_its_document_is(guarded: Servers) -> None:
    async with connect(settings_of(guarded, WORKERS), "workers") as bus:
        await ensure(bus, settings_of(guarded, WORKERS))

    async with as_role(guarded, DEVICE) as (device, refused):
        reply = await device.request("acme_ingest.invoices", b"{}", timeout=5)

    assert json.loads(reply.data)["stream"] == RAW
    assert refused == []


@pytest.mark.parametrize(
    ("url", "prefix"),
    [
        ("nats://gateway:secret@127.0.0.1:4222", "_INBOX.gateway"),
        ("nats://127.0.0.1:4222", "_INBOX"),
        # A token stands where a user would, and must not get into a subject.
        ("nats://s3cr3t-token@127.0.0.1:4222", "_INBOX"),
        ("nats://odd.name:secret@127.0.0.1:4222", "_INBOX"),
    ],
)
def test_inboxes_lie_under_the_name_of_the_user(url: str, prefix: str) -> None:
    assert inbox_prefix(url) == prefix


def test_no_two_roles_share_a_password(guarded: Servers) -> None:
    users = json.loads((guarded.directory / "nats" / "nats.conf").read_text())["authorization"]["users"]

    assert {user["user"] for user in users} == ALL
    assert len({user["password"] for user in users}) == len(ALL)
