"""Fixtures of the storage tests: each store on the shared servers."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from urllib.parse import urlsplit, urlunsplit

import pytest
from pymongo import AsyncMongoClient
from redis.asyncio import Redis

from headrace.settings import Settings
from headrace.storage.mongo import Documents, open_documents
from headrace.storage.postgres import Facts, open_facts
from headrace.storage.redis import Projection, open_projection
from tests.servers import Servers
from tests.storage.contract import MEMBERS, THINGS, TICKETS


@pytest.fixture
async def documents(servers: Servers) -> AsyncIterator[Documents]:
    """A database of the test's own; only tests that need Postgres wait for it to make one."""
    name = f"t{secrets.token_hex(5)}"
    url = urlunsplit(urlsplit(servers.mongo_url)._replace(path=f"/{name}"))
    async with open_documents(url, 10) as documents:
        for pipeline in (THINGS, MEMBERS, TICKETS):
            await documents.prepare(pipeline)
        yield documents
    client: AsyncMongoClient[dict[str, object]]
    async with AsyncMongoClient(url) as client:
        await client.drop_database(name)


@pytest.fixture
async def facts(settings: Settings) -> AsyncIterator[Facts]:
    async with open_facts(settings.postgres_url.get_secret_value(), 10) as facts:
        await facts.prepare([THINGS, MEMBERS, TICKETS])
        yield facts


@pytest.fixture
async def redis(servers: Servers) -> AsyncIterator[Redis]:
    async with Redis.from_url(servers.redis_url) as redis:
        yield redis


@pytest.fixture
async def projection(servers: Servers, redis: Redis, namespace: str) -> AsyncIterator[Projection]:
    async with open_projection(servers.redis_url, namespace, 10) as projection:
        yield projection
    async for key in redis.scan_iter(match=f"*{namespace}*", count=1000):
        await redis.delete(key)


@pytest.fixture
def namespace() -> str:
    return f"t{secrets.token_hex(5)}"
