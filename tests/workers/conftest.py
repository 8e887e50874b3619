"""Fixtures of the workers' tests: a plant on the shared servers, and one on servers that may be harmed."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
from pydantic import SecretStr

from headrace.settings import JobSettings, Settings
from tests.conftest import SMALL_STREAMS
from tests.servers import Servers, in_own_task
from tests.workers.plant import Plant, open_plant, quick


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the workers of this process look more often: a stop waits for its last pulls, a repair for its turn."""
    monkeypatch.setattr("headrace.messaging.consumer._PULL_SECONDS", 0.3)
    monkeypatch.setattr("headrace.messaging.consumer._HEARTBEAT_SECONDS", 0.1)
    monkeypatch.setattr("workers.projection._CHECK_SECONDS", 0.2)
    monkeypatch.setattr("workers.service._START_SECONDS", 0.2)


@pytest.fixture
async def plant(settings: Settings) -> AsyncIterator[Plant]:
    async with in_own_task(open_plant(quick(settings))) as plant:
        yield plant


@pytest.fixture
async def harmed(own_servers: Servers) -> AsyncIterator[Plant]:
    """A plant on servers of this module's own; all of them serve again when the test is over."""
    name = f"t{secrets.token_hex(5)}"
    connection = await asyncpg.connect(own_servers.postgres_url)
    await connection.execute(f'CREATE DATABASE "{name}"')
    await connection.close()
    settings = Settings(
        nats_url=SecretStr(own_servers.nats_url),
        mongo_url=SecretStr(_with_database(own_servers.mongo_url, name)),
        postgres_url=SecretStr(_with_database(own_servers.postgres_url, name)),
        redis_url=SecretStr(own_servers.redis_url),
        namespace=name,
        streams=SMALL_STREAMS,
        jobs=JobSettings(enabled=False),
    )
    async with in_own_task(open_plant(quick(settings))) as plant:
        yield plant
    for server in own_servers.programs:
        if server not in own_servers.pids:
            await own_servers.start(server)


def _with_database(url: str, name: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))
