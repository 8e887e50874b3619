"""The stores over TLS, as their URLs say it: the right authority carries, another one ends the attempt."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
from pymongo import AsyncMongoClient
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from auth.database import open_database
from headrace.errors import UnavailableError
from tests.certificates import Certificates, make_certificates
from tests.servers import Servers

# What a Postgres client sends before TLS: length and code of an SSLRequest (PostgreSQL's protocol, 54.7).
_SSL_REQUEST = bytes((0, 0, 0, 8, 4, 210, 22, 47))


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("tls"))


@contextlib.asynccontextmanager
async def behind_tls(url: str, certificates: Certificates, *, asks_first: bool = False) -> AsyncIterator[str]:
    """End TLS before a server that has none; yields the URL of it there.

    Args:
        asks_first: the client asks for TLS in the clear, as Postgres' do.
    """
    parts = urlsplit(url)
    assert parts.hostname
    assert parts.port
    context = certificates.server_context()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            if asks_first:
                assert await reader.readexactly(8) == _SSL_REQUEST
                writer.write(b"S")
                await writer.start_tls(context)
            far_reader, far_writer = await asyncio.open_connection(parts.hostname, parts.port)
            await asyncio.gather(carry(reader, far_writer), carry(far_reader, writer))
        writer.close()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        with contextlib.suppress(OSError, RuntimeError):
            writer.close()

    server = await asyncio.start_server(relay, "127.0.0.1", 0, ssl=None if asks_first else context)
    port = server.sockets[0].getsockname()[1]
    try:
        yield url.replace(f"{parts.hostname}:{parts.port}", f"127.0.0.1:{port}")
    finally:
        server.close()


async def test_postgres_is_reached_by_its_authority_alone(servers: Servers, certificates: Certificates) -> None:
    async with behind_tls(servers.postgres_url, certificates, asks_first=True) as url:
        tls = f"{url}?sslmode=verify-full&sslrootcert={certificates.ca}"
        connection = await asyncpg.connect(tls)
        assert await connection.fetchval("SELECT 1") == 1
        await connection.close()
        async with open_database(tls) as database, database.transaction():
            pass
        wrong = f"{url}?sslmode=verify-full&sslrootcert={certificates.stranger}"
        async with open_database(wrong) as database:
            with pytest.raises(UnavailableError):
                async with database.transaction(lock=True):
                    pass


async def test_redis_is_reached_by_its_authority_alone(servers: Servers, certificates: Certificates) -> None:
    async with behind_tls(servers.redis_url, certificates) as url:
        tls = url.replace("redis://", "rediss://")
        client: Redis
        async with Redis.from_url(f"{tls}?ssl_ca_certs={certificates.ca}") as client:
            assert await client.ping()
        async with Redis.from_url(f"{tls}?ssl_ca_certs={certificates.stranger}") as client:
            with pytest.raises(RedisConnectionError, match="CERTIFICATE_VERIFY_FAILED"):
                await client.ping()


async def test_mongodb_is_reached_by_its_authority_alone(servers: Servers, certificates: Certificates) -> None:
    async with behind_tls(servers.mongo_url, certificates) as url:
        client: AsyncMongoClient[dict[str, Any]]
        async with AsyncMongoClient(f"{url}&tls=true&tlsCAFile={certificates.ca}") as client:
            assert (await client.admin.command("ping"))["ok"] == 1
        wrong = f"{url}&tls=true&tlsCAFile={certificates.stranger}&serverSelectionTimeoutMS=500"
        async with AsyncMongoClient(wrong) as client:
            with pytest.raises(Exception, match=r"(?i)certificate verify failed"):
                await client.admin.command("ping")
