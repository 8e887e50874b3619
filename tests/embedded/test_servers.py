"""Each embedded server through its real client: what it keeps, whom it lets in, how it comes back."""

from __future__ import annotations

import asyncio
import dataclasses
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import asyncpg
import nats
import nats.errors
import pytest
import redis.exceptions
from nats.js.api import StorageType, StreamConfig
from pymongo import AsyncMongoClient
from pymongo.errors import OperationFailure
from redis.asyncio import Redis

from embedded.servers import SERVERS, prepare
from embedded.state import LOOPBACK, free_port, open_state
from embedded.supervisor import supervise
from headrace.settings import Settings, StreamSettings
from tests.servers import Servers, running

NAMES = tuple(SERVERS.values())


async def write_to_nats(url: str) -> None:
    client = await nats.connect(url, allow_reconnect=False)
    js = client.jetstream()
    await js.add_stream(StreamConfig(name="KEPT", subjects=["kept"], storage=StorageType.FILE))
    await js.publish("kept", b"kept")
    await client.close()


async def read_from_nats(url: str) -> str:
    client = await nats.connect(url)
    message = await client.jetstream().get_last_msg("KEPT", "kept")
    await client.close()
    return (message.data or b"").decode()


async def write_to_mongo(url: str) -> None:
    client: AsyncMongoClient[Any]
    async with AsyncMongoClient(url) as client:
        kept: Any = client["headrace"]["kept"]
        await kept.insert_one({"_id": "kept"})


async def read_from_mongo(url: str) -> str:
    client: AsyncMongoClient[Any]
    async with AsyncMongoClient(url) as client:
        kept: Any = client["headrace"]["kept"]
        return str((await kept.find_one({}))["_id"])


async def write_to_postgres(url: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute("CREATE TABLE kept AS SELECT 'kept' AS word")
    await connection.close()


async def read_from_postgres(url: str) -> str:
    connection = await asyncpg.connect(url)
    try:
        return str(await connection.fetchval("SELECT word FROM kept"))
    finally:
        await connection.close()


async def write_to_valkey(url: str) -> None:
    async with Redis.from_url(url, decode_responses=True) as client:
        await client.set("kept", "kept")
        # What is older than the last sync is promised, no more.
        await client.waitaof(1, 0, 5000)


async def read_from_valkey(url: str) -> str:
    async with Redis.from_url(url, decode_responses=True) as client:
        return str(await client.get("kept"))


USES: dict[str, tuple[Callable[[str], Awaitable[None]], Callable[[str], Awaitable[str]]]] = {
    "nats": (write_to_nats, read_from_nats),
    "mongo": (write_to_mongo, read_from_mongo),
    "postgres": (write_to_postgres, read_from_postgres),
    "valkey": (write_to_valkey, read_from_valkey),
}


def urls_of(servers: Servers) -> dict[str, str]:
    return {name: str(getattr(servers, setting)) for setting, name in SERVERS.items()}


@pytest.mark.parametrize("name", NAMES)
async def test_a_killed_server_comes_back_with_its_data_at_the_same_url(own_servers: Servers, name: str) -> None:
    url = urls_of(own_servers)[name]
    write, read = USES[name]
    await write(url)

    await own_servers.kill(name)

    assert await read(url) == "kept"


async def test_data_and_urls_outlive_a_restart_of_everything(data_directory: Path) -> None:
    async with running(data_directory) as servers:
        before = urls_of(servers)
        for name, (write, _) in USES.items():
            await write(before[name])

    async with running(data_directory) as servers:
        assert urls_of(servers) == before
        for name, (_, read) in USES.items():
            assert await read(before[name]) == "kept"


async def test_a_server_whose_port_was_taken_meanwhile_moves(data_directory: Path) -> None:
    async with running(data_directory, ["redis_url"]) as servers:
        before = servers.redis_url
    squatter = await asyncio.start_server(lambda _reader, writer: writer.close(), LOOPBACK, urlsplit(before).port)
    async with squatter, running(data_directory, ["redis_url"]) as servers:
        assert urlsplit(servers.redis_url).port != urlsplit(before).port
        async with Redis.from_url(servers.redis_url) as client:
            assert await client.ping()


async def test_nats_syncs_every_message_before_it_acknowledges(data_directory: Path) -> None:
    with open_state(data_directory) as state:
        server = (await prepare(state, StreamSettings(), ["nats_url"]))["nats_url"]
        monitor = free_port()
        # Our configuration as it is, and a port where the server tells what it made of it.
        watched = dataclasses.replace(server.program, argv=(*server.program.argv, "-m", str(monitor)))
        async with supervise(state.folder("logs")) as supervisor:
            await supervisor.start(watched)
            async with aiohttp.ClientSession() as http, http.get(f"http://{LOOPBACK}:{monitor}/jsz") as response:
                config = (await response.json(content_type=None))["config"]

    assert config["sync_always"] is True
    assert config["store_dir"].startswith(str(data_directory))
    assert config["max_storage"] >= 5 << 30


async def test_postgres_keeps_its_durable_defaults(servers: Servers) -> None:
    connection = await asyncpg.connect(servers.postgres_url)
    found = {
        name: await connection.fetchval(f"SHOW {name}")
        for name in ("fsync", "synchronous_commit", "full_page_writes", "data_checksums")
    }
    await connection.close()

    assert set(found.values()) == {"on"}


async def test_valkey_persists_and_never_evicts(servers: Servers) -> None:
    async with Redis.from_url(servers.redis_url, decode_responses=True) as client:
        found = {**await client.config_get("append*"), **await client.config_get("maxmemory-policy")}

    assert found["appendonly"] == "yes"
    assert found["appendfsync"] == "everysec"
    assert found["maxmemory-policy"] == "noeviction"


async def test_mongo_says_what_it_is_and_syncs_its_journal(servers: Servers) -> None:
    client: AsyncMongoClient[dict[str, object]]
    async with AsyncMongoClient(servers.mongo_url) as client:
        concern = client.write_concern.document

    assert concern == {"w": "majority", "j": True}


@pytest.mark.parametrize("name", NAMES)
def test_a_server_listens_on_loopback_only(servers: Servers, name: str) -> None:
    port = urlsplit(urls_of(servers)[name]).port
    listening = [
        line.split()[1]
        for table in ("/proc/net/tcp", "/proc/net/tcp6")
        for line in Path(table).read_text().splitlines()[1:]
        if line.split()[3] == "0A" and int(line.split()[1].rpartition(":")[2], 16) == port
    ]

    assert [address.partition(":")[0] for address in listening] == ["0100007F"]


REFUSALS: dict[str, type[Exception]] = {
    "nats": nats.errors.Error,
    "mongo": OperationFailure,
    "postgres": asyncpg.InvalidPasswordError,
    "valkey": redis.exceptions.AuthenticationError,
}


@pytest.mark.parametrize("name", NAMES)
async def test_a_server_refuses_who_has_the_wrong_password(servers: Servers, name: str) -> None:
    url = urls_of(servers)[name]
    guessed = url.replace(urlsplit(url).password or "", "0" * 32)

    with pytest.raises(REFUSALS[name]):
        await USES[name][0](guessed)


async def test_mongo_refuses_who_has_no_password(servers: Servers) -> None:
    naked = f"mongodb://{LOOPBACK}:{urlsplit(servers.mongo_url).port}"

    with pytest.raises(OperationFailure, match="requires authentication"):
        await write_to_mongo(naked)


async def test_secrets_are_readable_by_us_only(servers: Servers) -> None:
    passwords = {urlsplit(url).password or "" for url in urls_of(servers).values()}
    holding = [
        path
        for path in servers.directory.rglob("*")
        if path.is_file()
        and path.stat().st_size < 1 << 20
        and any(word.encode() in path.read_bytes() for word in passwords)
    ]

    assert len(passwords) == 4
    assert {path.name for path in holding} == {"state.json", "nats.conf", "valkey.conf"}
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in holding)


@pytest.mark.parametrize("turn", ["first", "second"])
async def test_each_test_has_an_empty_database_of_its_own(settings: Settings, servers: Servers, turn: str) -> None:
    url = settings.postgres_url.get_secret_value()
    connection = await asyncpg.connect(url)
    try:
        name = await connection.fetchval("SELECT current_database()")
        tables = await connection.fetch(
            "SELECT schemaname, tablename FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
        )
        # The second would find them, were what the first one leaves not removed.
        await connection.execute(f"CREATE TABLE {turn} (one text); CREATE SCHEMA facts; CREATE TABLE facts.{turn} ()")
    finally:
        await connection.close()

    assert url.endswith(f"/{name}")
    assert url != servers.postgres_url
    assert tables == []
