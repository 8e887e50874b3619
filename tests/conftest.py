"""Fixtures for all tests: one set of servers for the run, and for each test a part of them that is its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import hypothesis
import nats
import pytest
from pydantic import SecretStr
from pymongo import AsyncMongoClient
from redis.asyncio import Redis

from headrace.settings import JobSettings, Settings, StreamSettings
from tests.servers import MADE, Servers, in_own_task, reachable_directory, running, seed

# How long an example takes says how busy the machine is.
hypothesis.settings.register_profile("untimed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("untimed")

# The server sets aside what its streams may grow to, and many tests share it.
SMALL_STREAMS = StreamSettings(raw_max_bytes=64 << 20, clean_max_bytes=64 << 20, dead_max_bytes=32 << 20)

_DISK_BYTES: Final = 256 << 20

# A shell's background jobs ignore it, as does all that they start; some tests press Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)

# What a test has left connected would go on working in the next one's database, or keep it from being emptied.
_EMPTY: Final = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid();
DO $$
DECLARE name text;
BEGIN
    FOR name IN SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema' LOOP
        EXECUTE format('DROP SCHEMA %I CASCADE', name);
    END LOOP;
END $$;
CREATE SCHEMA public;
"""

# Their files take longest, and many have few tests: begun last, each would be waited for alone.
_LONGEST: Final = ("system", "faults", "embedded", "workers")


def pytest_configure(config: pytest.Config) -> None:
    """Make the folder of what is made once for all processes of the run."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        kept = contextlib.ExitStack()
        os.environ[MADE] = str(kept.enter_context(reachable_directory()))
        config.add_cleanup(kept.close)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the folders that take longest begin; the order within them stays."""
    tests = Path(__file__).parent

    def place(item: pytest.Item) -> int:
        folder = item.path.relative_to(tests).parts[0]
        return _LONGEST.index(folder) if folder in _LONGEST else len(_LONGEST)

    items.sort(key=place)


@pytest.hookimpl(trylast=True)
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Say at once what has failed: a run that is ended from outside never comes to its summary."""
    if report.failed and "PYTEST_XDIST_WORKER" not in os.environ:
        print(f"\nFAILED {report.nodeid} ({report.when})\n{report.longreprtext[-2000:]}", flush=True)


@pytest.fixture
def data_directory() -> Iterator[Path]:
    """A temporary directory in which servers can run."""
    with reachable_directory() as directory:
        yield directory


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A small disk, which nobody but the test can fill."""
    with reachable_directory() as directory:
        command = ["mount", "-t", "tmpfs", "-o", f"size={_DISK_BYTES},mode=711", "headrace-test", str(directory)]
        mounted = subprocess.run(command, check=False, capture_output=True, text=True)
        if mounted.returncode:
            pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
        try:
            yield directory
        finally:
            subprocess.run(["umount", "--lazy", str(directory)], check=True)


@pytest.fixture(scope="session")
async def servers() -> AsyncIterator[Servers]:
    """The embedded servers, shared by the whole run; a test that harms one uses `own_servers`."""
    with reachable_directory() as directory:
        await seed(directory)
        async with in_own_task(running(directory)) as servers:
            yield servers


@pytest.fixture(scope="module")
async def own_servers() -> AsyncIterator[Servers]:
    """Servers of this module's own, which its tests may kill and stop."""
    with reachable_directory() as directory:
        await seed(directory)
        async with in_own_task(running(directory)) as servers:
            yield servers


@pytest.fixture(scope="session")
def empty_databases() -> list[str]:
    """Postgres databases of earlier tests, emptied: to make one takes longer than many a test."""
    return []


@pytest.fixture
async def database(servers: Servers, empty_databases: list[str]) -> AsyncIterator[str]:
    """A database of Postgres of the test's own, with nothing in it."""
    if empty_databases:
        name = empty_databases.pop()
    else:
        name = f"t{secrets.token_hex(5)}"
        await _on_postgres(servers.postgres_url, f'CREATE DATABASE "{name}"')
    yield name
    await _on_postgres(_with_database(servers.postgres_url, name), _EMPTY)
    empty_databases.append(name)


@pytest.fixture
async def settings(servers: Servers, database: str) -> AsyncIterator[Settings]:
    """Settings of a Headrace of the test's own: namespace, Postgres and MongoDB databases; all removed afterwards."""
    name = f"t{secrets.token_hex(5)}"
    settings = Settings(
        nats_url=SecretStr(servers.nats_url),
        mongo_url=SecretStr(_with_database(servers.mongo_url, name)),
        postgres_url=SecretStr(_with_database(servers.postgres_url, database)),
        redis_url=SecretStr(servers.redis_url),
        namespace=name,
        streams=SMALL_STREAMS,
        # A test that is about jobs runs those that it means.
        jobs=JobSettings(enabled=False),
    )
    yield settings
    await asyncio.gather(_forget_streams(servers, name), _forget_documents(servers, name), _forget_keys(servers, name))


def _with_database(url: str, name: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


async def _on_postgres(url: str, statements: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statements)
    finally:
        await connection.close()


async def _forget_streams(servers: Servers, namespace: str) -> None:
    client = await nats.connect(servers.nats_url)
    try:
        js = client.jetstream()
        for stream in await js.streams_info():
            name = stream.config.name or ""
            if namespace in name.lower():
                await js.delete_stream(name)
    finally:
        await client.close()


async def _forget_documents(servers: Servers, database: str) -> None:
    client: AsyncMongoClient[dict[str, object]]
    async with AsyncMongoClient(servers.mongo_url) as client:
        await client.drop_database(database)


async def _forget_keys(servers: Servers, namespace: str) -> None:
    async with Redis.from_url(servers.redis_url) as client:
        async for key in client.scan_iter(match=f"*{namespace}*", count=1000):
            await client.delete(key)
