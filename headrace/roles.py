"""Who may do what on NATS: one table, from a namespace to each role's permissions. Pure.

A role is a user of the server. What is not listed is refused: a device cannot read, the gateway cannot change or
purge a stream, and nobody but its own role hears an answer, since each has its inboxes under its own name.
`headrace up` and `deploy/nats.conf` are made from this table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from headrace.topology import CLEAN, JOBS, RAW, STAGES, STREAMS, Topology

GATEWAY: Final = "gateway"
AUTH: Final = "auth"
WORKERS: Final = "workers"
ANALYTICS: Final = "analytics"
# Publishers of bare documents, over MQTT or NATS.
DEVICE: Final = "device"
# `headrace mqtt-bridge`, which brings documents from another broker.
BRIDGE: Final = "bridge"
# The command line and whoever runs the server. May do everything.
OPERATOR: Final = "operator"
SERVICES: Final = (GATEWAY, AUTH, WORKERS, ANALYTICS)
ROLES: Final = (*SERVICES, DEVICE, BRIDGE, OPERATOR)

_API: Final = "$JS.API"


@dataclass(frozen=True, slots=True)
class Permissions:
    """What a role may do.

    Attributes:
        publish, subscribe: subjects, with wildcards.
        answers: whether it may answer whoever asks it, on the asker's own inbox, once per question.
        over_mqtt: whether its password opens the MQTT listener too.
    """

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]
    answers: bool = False
    over_mqtt: bool = False


def permissions(namespace: str = "") -> Mapping[str, Permissions]:
    """Return what each role but the operator may do in a Headrace of this namespace."""
    topology = Topology(namespace)
    ns = namespace
    buckets = ("revocations", "probes", "schemas", "sessions")
    revocations, probes, schemas, sessions = (f"{ns}{bucket}" for bucket in buckets)
    jobs = topology.stream(JOBS)
    everything = [topology.stream(name) for name in STREAMS]
    stages = [(topology.stream(stage.stream), stage.name) for stage in STAGES.values()]
    publish = {
        GATEWAY: [
            topology.raw("*"),
            f"{ns}svc.>",
            # It makes the streams that are missing, so that it can accept; to change one takes the workers.
            *(subject for stream in everything for subject in _made(stream)),
            *(f"{_API}.CONSUMER.INFO.{stream}.*" for stream in everything),
            # For the age of the oldest block that waits.
            *(subject for stream in everything for subject in _read(stream)),
            *_bucket_read(revocations),
            *_bucket_written(schemas),
            # Of those who are signed in to the pages; sealed with what only their cookies hold.
            *_bucket_written(sessions),
            f"{_API}.STREAM.UPDATE.KV_{sessions}",
        ],
        AUTH: [
            # `headrace user add` where the service's own credentials are all there is.
            f"{ns}svc.{AUTH}.>",
            f"{ns}svc.parts.{AUTH}.>",
            *_bucket_written(revocations),
            f"{_API}.STREAM.UPDATE.KV_{revocations}",
            *_bucket_read(schemas),
            *_jobs_run(ns, jobs, AUTH),
        ],
        WORKERS: [
            # Dead letters that are replayed, and what their jobs fetch.
            topology.raw("*"),
            topology.clean("*"),
            topology.dead("*"),
            topology.stored("*", "*"),
            *(subject for stream in everything for subject in (*_made(stream), f"{_API}.STREAM.UPDATE.{stream}")),
            *(subject for stream in everything for subject in _read(stream)),
            # Dead letters are never purged: they stay until somebody resolves them.
            *(f"{_API}.STREAM.PURGE.{topology.stream(name)}" for name in (RAW, CLEAN)),
            *(subject for stream, stage in stages for subject in _consumed(stream, stage)),
            *_bucket_written(probes),
            *_bucket_written(schemas),
            *_jobs_run(ns, jobs, WORKERS),
        ],
        ANALYTICS: [
            *(subject for stream in everything for subject in (*_made(stream), f"{_API}.STREAM.UPDATE.{stream}")),
            *(subject for stream in everything for subject in _read(stream)),
            *(subject for stream, stage in stages for subject in _consumer_made(stream, stage)),
            *_bucket_written(schemas),
            *_jobs_run(ns, jobs, ANALYTICS),
            # Runs that somebody asks for.
            f"{ns}jobs.due.>",
        ],
        DEVICE: [topology.ingest("*")],
        BRIDGE: [topology.raw("*"), topology.ingest("*")],
    }
    subscribe = {
        GATEWAY: [topology.stored("*", "*"), f"$KV.{revocations}.>"],
        AUTH: [f"$KV.{revocations}.>"],
        WORKERS: [],
        ANALYTICS: [topology.stored("*", "*")],
        DEVICE: [],
        BRIDGE: [],
    }
    return {
        role: Permissions(
            publish=(*publish[role], *(() if role == DEVICE else _of_a_process(role))),
            subscribe=(inboxes(role), *subscribe[role], *(() if role == DEVICE else _served(ns, role))),
            answers=role != DEVICE,
            over_mqtt=role == DEVICE,
        )
        for role in publish
    }


def inboxes(user: str) -> str:
    """Return the inboxes that a user hears, and no other role."""
    return f"_INBOX.{user}.>"


def users(passwords: Mapping[str, str], namespace: str = "") -> list[dict[str, Any]]:
    """Return the `users` of the server's configuration.

    Args:
        passwords: by role; a role without one is left out.
    """
    table = permissions(namespace)
    found: list[dict[str, Any]] = []
    for role in ROLES:
        if role not in passwords:
            continue
        user: dict[str, Any] = {"user": role, "password": passwords[role]}
        if role in table:
            may = table[role]
            user["allowed_connection_types"] = ["STANDARD", "MQTT"] if may.over_mqtt else ["STANDARD"]
            user["permissions"] = {
                "publish": {"allow": list(may.publish)},
                "subscribe": {"allow": list(may.subscribe)},
                **({"allow_responses": {"max": 1, "expires": "1m"}} if may.answers else {}),
            }
        found.append(user)
    return found


def _of_a_process(role: str) -> tuple[str, ...]:
    """Return what each process of ours does: its connection's echo, the flow control of what it follows."""
    return (inboxes(role), f"{_API}.INFO", "$JS.FC.>")


def _served(ns: str, role: str) -> tuple[str, ...]:
    """Return what an instance of a service hears as one: its endpoints, what all are asked, discovery."""
    return (f"{ns}svc.{role}.>", f"{ns}svc.parts.{role}.>", f"{ns}svc.all.*", "$SRV.>")


def _made(stream: str) -> tuple[str, ...]:
    """Return what it takes to look at a stream, and to make it where it is missing; one that is there stays."""
    return (f"{_API}.STREAM.INFO.{stream}", f"{_API}.STREAM.CREATE.{stream}")


def _read(stream: str) -> tuple[str, ...]:
    return (f"{_API}.DIRECT.GET.{stream}", f"{_API}.DIRECT.GET.{stream}.>")


def _consumer_made(stream: str, consumer: str) -> tuple[str, ...]:
    return (
        f"{_API}.CONSUMER.INFO.{stream}.{consumer}",
        f"{_API}.CONSUMER.DURABLE.CREATE.{stream}.{consumer}",
        f"{_API}.CONSUMER.CREATE.{stream}.{consumer}",
        f"{_API}.CONSUMER.CREATE.{stream}.{consumer}.>",
    )


def _consumed(stream: str, consumer: str) -> tuple[str, ...]:
    return (
        *_consumer_made(stream, consumer),
        f"{_API}.CONSUMER.MSG.NEXT.{stream}.{consumer}",
        f"$JS.ACK.{stream}.{consumer}.>",
        # As servers with the second form of acknowledgements spell it (ADR-15): domain and account first.
        f"$JS.ACK.*.*.{stream}.{consumer}.>",
    )


def _jobs_run(ns: str, stream: str, role: str) -> tuple[str, ...]:
    """Return what it takes to keep the schedules of a service's own jobs, and to run what is due."""
    return (
        f"{ns}jobs.schedule.{role}.*",
        *_made(stream),
        f"{_API}.STREAM.UPDATE.{stream}",
        f"{_API}.STREAM.PURGE.{stream}",
        f"{_API}.STREAM.MSG.GET.{stream}",
        *_read(stream),
        # A job's consumer is called `<service>-<job>`, which no wildcard can be part of.
        *_consumed(stream, "*"),
        f"{_API}.CONSUMER.LIST.{stream}",
        f"{_API}.CONSUMER.NAMES.{stream}",
        f"{_API}.CONSUMER.DELETE.{stream}.*",
    )


def _bucket_read(bucket: str) -> tuple[str, ...]:
    """Return what it takes to read and follow a key-value bucket."""
    stream = f"KV_{bucket}"
    return (
        f"{_API}.STREAM.INFO.{stream}",
        *_read(stream),
        f"{_API}.STREAM.MSG.GET.{stream}",
        f"{_API}.CONSUMER.CREATE.{stream}",
        f"{_API}.CONSUMER.CREATE.{stream}.>",
        f"{_API}.CONSUMER.INFO.{stream}.*",
        f"{_API}.CONSUMER.DELETE.{stream}.*",
    )


def _bucket_written(bucket: str) -> tuple[str, ...]:
    return (f"$KV.{bucket}.>", f"{_API}.STREAM.CREATE.KV_{bucket}", *_bucket_read(bucket))
