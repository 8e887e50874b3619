"""What `doctor` can tell from the four servers: whether they answer, and whether they are set up as Headrace needs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import msgspec

from cli.findings import Finding
from cli.settings import mask_url
from headrace.settings import NatsSettings, Settings

Examine = Callable[[str, Settings], Awaitable[list[Finding]]]

_PATIENCE_SECONDS: Final = 5.0
_LEAST_NATS: Final = (2, 10)
_LEAST_POSTGRES: Final = 14
_MOST_SKEW: Final = timedelta(seconds=2)
# A block travels with its headers.
_HEADER_BYTES: Final = 16 * 1024
_POSTGRES_FLAGS: Final = "SELECT name, setting FROM pg_settings WHERE name IN ('fsync', 'synchronous_commit')"
_REDIS_FLAGS: Final = ("maxmemory", "maxmemory-policy", "appendonly")
_NAMES: Final = {"nats_url": "nats", "mongo_url": "mongo", "postgres_url": "postgres", "redis_url": "redis"}


async def servers(settings: Settings, data_dir: Path) -> list[Finding]:
    """Return the findings of all servers, examined at once."""
    running = running_urls(data_dir)
    found = await asyncio.gather(*(_server(setting, settings, running) for setting in _NAMES))
    return [finding for findings in found for finding in findings]


def running_urls(data_dir: Path) -> dict[str, str]:
    """Return the URLs of the `up` that runs on this directory, by their settings; none if there is none."""
    try:
        found = msgspec.json.decode((data_dir / "up.json").read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.MsgspecError):
        return {}
    return {setting: found[setting] for setting in _NAMES if setting in found}


async def _server(setting: str, settings: Settings, running: dict[str, str]) -> list[Finding]:
    name = _NAMES[setting]
    chosen = setting in settings.model_fields_set
    url = getattr(settings, setting).get_secret_value()
    if not chosen:
        url = running.get(setting, url)
    try:
        async with asyncio.timeout(_PATIENCE_SECONDS):
            return await _EXAMINATIONS[setting](url, settings)
    except Exception as error:
        # Each driver has errors of its own; whatever it is, the server could not be examined.
        return [unreachable(name, setting, mask_url(url), error, expected=chosen or setting in running)]


def unreachable(name: str, setting: str, url: str, error: Exception, *, expected: bool) -> Finding:
    if not expected:
        detail = f"HEADRACE_{setting.upper()} is not set, and nothing usable answers at its default; `up` starts one"
        return Finding(name, "note", detail)
    text = " ".join(mask_url(str(error)).split())[:200]
    reason = "no answer in time" if isinstance(error, TimeoutError) else f"{type(error).__name__}: {text}"
    return Finding(name, "failed", f"{url}: {reason}", f"start the server, or correct HEADRACE_{setting.upper()}.")


async def _nats(url: str, settings: Settings) -> list[Finding]:
    async with _nats_client(url, settings.nats) as client:
        version = client.connected_server_version
        try:
            await client.jetstream(timeout=3).account_info()
        except Exception as error:
            return [
                Finding(
                    "nats",
                    "failed",
                    f"{version} answers, but JetStream does not ({type(error).__name__})",
                    "start nats-server with `jetstream {}` in its configuration, as deploy/nats.conf has it.",
                )
            ]
        found = judge_nats((version.major, version.minor), client.max_payload, settings.block.max_bytes)
    return [
        found,
        Finding(
            "nats fsync",
            "note",
            "a client cannot see `sync_interval`; unless it is `always`, a power cut loses accepted documents. "
            "`up` and deploy/nats.conf set it; look at the configuration of any other server.",
        ),
    ]


def judge_nats(version: tuple[int, int], max_payload: int, block_bytes: int) -> Finding:
    detail = f"{version[0]}.{version[1]} with JetStream"
    if version < _LEAST_NATS:
        return Finding("nats", "failed", detail, "Headrace needs nats-server 2.10 or newer.")
    if max_payload < block_bytes + _HEADER_BYTES:
        return Finding(
            "nats",
            "failed",
            f"{detail}; max_payload is {max_payload} bytes",
            f"set max_payload to {block_bytes + _HEADER_BYTES} or more there, or HEADRACE_BLOCK__MAX_BYTES lower.",
        )
    return Finding("nats", "ok", detail)


@contextlib.asynccontextmanager
async def _nats_client(url: str, limits: NatsSettings) -> AsyncIterator[Any]:
    import nats

    from headrace.messaging.connection import inbox_prefix
    from headrace.tls import client_context

    async def silent(_error: Exception) -> None:
        """nats-py would write its own traceback."""

    client = await nats.connect(
        servers := url.split(","),
        inbox_prefix=inbox_prefix(servers[0]),
        connect_timeout=3,
        allow_reconnect=False,
        # With 0 it would try for ever.
        max_reconnect_attempts=1,
        reconnect_time_wait=0,
        error_cb=silent,
        tls=client_context(limits.tls_ca, limits.tls_certificate, limits.tls_key),
    )
    try:
        yield client
    finally:
        await client.close()


async def _mongo(url: str, _settings: Settings) -> list[Finding]:
    from pymongo import AsyncMongoClient

    async with AsyncMongoClient[Any](url, serverSelectionTimeoutMS=2000) as client:
        hello = await client.admin.command("hello")
        about = await client.admin.command("buildInfo")
    return [judge_mongo(str(about.get("version", "?")), writable=bool(hello.get("isWritablePrimary")))]


def judge_mongo(version: str, *, writable: bool) -> Finding:
    if not writable:
        return Finding(
            "mongo", "failed", f"{version}, which is no writable primary", "name the replica set in HEADRACE_MONGO_URL."
        )
    return Finding("mongo", "ok", version)


async def _postgres(url: str, _settings: Settings) -> list[Finding]:
    import asyncpg

    connection = await asyncpg.connect(url, timeout=3)
    try:
        version = connection.get_server_version().major
        rows = await connection.fetch(_POSTGRES_FLAGS)
        before = datetime.now(UTC)
        there = await connection.fetchval("SELECT clock_timestamp()")
        after = datetime.now(UTC)
    finally:
        await connection.close()
    flags = {row["name"]: row["setting"] for row in rows}
    return [judge_postgres(version, flags), judge_clock(there - (before + (after - before) / 2))]


def judge_postgres(version: int, flags: dict[str, str]) -> Finding:
    if version < _LEAST_POSTGRES:
        return Finding("postgres", "failed", str(version), f"Headrace needs Postgres {_LEAST_POSTGRES} or newer.")
    off = [name for name, value in flags.items() if value == "off"]
    if off:
        return Finding(
            "postgres",
            "warning",
            f"{version}, with {' and '.join(off)} off: a crash of the machine loses what was stored",
            f"ALTER SYSTEM SET {off[0]} = on; SELECT pg_reload_conf();",
        )
    return Finding("postgres", "ok", str(version))


def judge_clock(skew: timedelta) -> Finding:
    seconds = skew.total_seconds()
    if abs(skew) > _MOST_SKEW:
        return Finding(
            "clock",
            "warning",
            f"Postgres is {abs(seconds):.1f} s {'ahead' if seconds > 0 else 'behind'}: times do not fit together",
            "let chrony or systemd-timesyncd set the clock of both machines.",
        )
    return Finding("clock", "ok", f"within {abs(seconds) * 1000:.0f} ms of Postgres")


async def _redis(url: str, _settings: Settings) -> list[Finding]:
    from redis.asyncio import Redis

    async with Redis.from_url(url, socket_connect_timeout=3, socket_timeout=3, decode_responses=True) as client:
        about = await client.info()
        try:
            held = {name: (await client.config_get(name)).get(name) for name in _REDIS_FLAGS}
        except Exception:
            # A hosted Redis may not tell; then its INFO is all there is.
            held = {"maxmemory": str(about.get("maxmemory", 0)), "maxmemory-policy": about.get("maxmemory_policy")}
    name = "valkey" if "valkey_version" in about else "redis"
    return [judge_redis(f"{name} {about.get('valkey_version') or about.get('redis_version')}", held)]


def judge_redis(detail: str, held: dict[str, Any]) -> Finding:
    policy = held.get("maxmemory-policy")
    if policy not in (None, "noeviction") and held.get("maxmemory") not in (None, "0"):
        return Finding(
            "redis",
            "warning",
            f"{detail}, which evicts keys ({policy}): counts would vanish until they are projected again",
            "set maxmemory-policy noeviction, or give Headrace a server of its own.",
        )
    if held.get("appendonly") == "no":
        return Finding(
            "redis",
            "ok",
            f"{detail}, appendonly off: after a restart the workers project the counts again from Postgres",
        )
    return Finding("redis", "ok", detail)


_EXAMINATIONS: Final[dict[str, Examine]] = {
    "nats_url": _nats,
    "mongo_url": _mongo,
    "postgres_url": _postgres,
    "redis_url": _redis,
}
