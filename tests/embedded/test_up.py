"""`headrace up` as a user runs it: the real command with the real servers and services."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import stat
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from redis.asyncio import Redis

from embedded.state import LOOPBACK, free_port
from tests.embedded.processes import alive, descendants
from tests.servers import in_own_task, reachable_directory, running, until

READY_SECONDS = 60
NAMES = {"nats", "mongo", "postgres", "valkey", "auth", "workers", "analytics", "gateway"}


@dataclass(frozen=True)
class Up:
    """A `headrace up` that is ready."""

    process: asyncio.subprocess.Process
    directory: Path
    said: dict[str, Any]

    async def ask(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {self.said['token']}"}
        async with (
            aiohttp.ClientSession(self.said["url"], headers=headers) as session,
            session.request(method, path, json=body) as response,
        ):
            return response.status, await response.json(content_type=None)

    async def ready(self) -> None:
        """Return when the gateway says so."""
        async with asyncio.timeout(READY_SECONDS):
            while True:
                with contextlib.suppress(aiohttp.ClientError, ValueError):
                    if (await self.ask("GET", "/readyz"))[0] == 200:
                        return
                await asyncio.sleep(0.05)


def environment(**more: str) -> dict[str, str]:
    """Return ours without what would change which servers are used."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}
    return {**kept, **more}


async def launch(directory: Path, *arguments: str, **more: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cli.main", "up", "--data-dir", str(directory), *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment(**more),
    )


@contextlib.asynccontextmanager
async def up(directory: Path, *arguments: str, **more: str) -> AsyncIterator[Up]:
    """Run `headrace up --json` and wait for its line."""
    process = await launch(directory, "--json", *(arguments or ("--port", str(free_port()))), **more)
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        async with asyncio.timeout(READY_SECONDS):
            line = await process.stdout.readline()
            if not line:
                pytest.fail(f"not ready: {(await process.stderr.read()).decode()}")
        yield Up(process, directory, msgspec.json.decode(line))
    finally:
        if process.returncode is None:
            process.terminate()
        # Read to the end, or a full pipe would keep it from ending.
        await process.communicate()


@pytest.fixture(scope="module")
def module_directory() -> Iterator[Path]:
    with reachable_directory() as directory:
        yield directory


@pytest.fixture(scope="module")
async def running_up(module_directory: Path) -> AsyncIterator[Up]:
    async with in_own_task(up(module_directory)) as found:
        yield found


async def test_it_says_where_everything_is(running_up: Up) -> None:
    said = running_up.said

    assert said["ready"] is True
    assert set(said["processes"]) == NAMES
    assert all(alive(pid) for pid in said["processes"].values())
    servers = {"nats_url", "mqtt_url", "mongo_url", "postgres_url", "redis_url"}
    assert set(said) == {"ready", "url", "token", "processes", *servers}
    async with Redis.from_url(said["redis_url"]) as client:
        assert await client.ping()


async def test_its_token_may_do_everything(running_up: Up) -> None:
    status, me = await running_up.ask("GET", "/v1/auth/me")

    assert status == 200
    assert {"documents:write", "documents:read", "analytics:read", "dead:read", "dead:write", "admin"} <= set(
        me["scopes"]
    )


async def test_other_commands_find_it_in_a_file_that_only_we_may_read(running_up: Up) -> None:
    path = running_up.directory / "up.json"

    assert msgspec.json.decode(path.read_bytes()) == running_up.said
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_a_second_one_on_the_same_data_is_refused(running_up: Up) -> None:
    second = await launch(running_up.directory, "--json")
    output, talk = await second.communicate()

    assert second.returncode == 1
    assert output == b""
    assert f"process {running_up.process.pid}" in talk.decode()
    assert (running_up.directory / "up.json").exists()


async def test_a_taken_port_that_was_asked_for_is_an_error(running_up: Up, data_directory: Path) -> None:
    port = running_up.said["url"].rpartition(":")[2]
    process = await launch(data_directory, "--port", port)
    _, talk = await process.communicate()

    assert process.returncode == 1
    assert f"Port {port} is taken" in talk.decode()


async def test_when_everything_is_killed_everything_comes_back(running_up: Up) -> None:
    def pids() -> dict[str, int]:
        found: dict[str, int] = msgspec.json.decode((running_up.directory / "up.json").read_bytes())["processes"]
        return found

    before = pids()
    for pid in before.values():
        os.kill(pid, signal.SIGKILL)
    await until(lambda: set(pids()) == NAMES and not set(pids().values()) & set(before.values()))
    await running_up.ready()

    assert (await running_up.ask("GET", "/v1/auth/me"))[0] == 200


async def test_after_sigterm_nothing_is_left_and_the_next_start_is_the_same(data_directory: Path) -> None:
    port = str(free_port())
    async with up(data_directory, "--port", port) as first:
        family = descendants(first.process.pid)
        first.process.terminate()
        await first.process.communicate()

        assert first.process.returncode == 0
        assert not any(alive(pid) for pid in family)
        assert not (data_directory / "up.json").exists()

    async with up(data_directory, "--port", port) as second:
        family = descendants(second.process.pid)
        forgotten = {"processes"}
        assert {k: v for k, v in second.said.items() if k not in forgotten} == {
            k: v for k, v in first.said.items() if k not in forgotten
        }
        second.process.kill()
        await second.process.communicate()

    await until(lambda: not any(alive(pid) for pid in family))


async def test_a_second_signal_ends_it_at_once(data_directory: Path) -> None:
    async with up(data_directory) as found:
        family = descendants(found.process.pid)
        # A stopped process hears no SIGTERM; only killing ends it.
        os.kill(found.said["processes"]["workers"], signal.SIGSTOP)
        found.process.send_signal(signal.SIGINT)
        assert found.process.stderr is not None
        async with asyncio.timeout(READY_SECONDS):
            while b"once more to kill" not in await found.process.stderr.readline():
                pass
        found.process.send_signal(signal.SIGINT)
        await found.process.communicate()

    assert not any(alive(pid) for pid in family)


@dataclass(frozen=True)
class Told:
    """A `headrace up` without options, as a person starts it, on a Redis of one's own."""

    lines: list[str]
    talk: list[str]
    directory: Path
    redis_url: str


@pytest.fixture(scope="module")
async def told() -> AsyncIterator[Told]:
    with reachable_directory() as directory:
        async with in_own_task(_told(directory)) as found:
            yield found


@contextlib.asynccontextmanager
async def _told(directory: Path) -> AsyncIterator[Told]:
    async with running(directory / "own", ["redis_url"]) as own, contextlib.AsyncExitStack() as squatter:
        # Somebody, perhaps another test, holds the usual port.
        with contextlib.suppress(OSError):
            server = await asyncio.start_server(lambda _reader, writer: writer.close(), LOOPBACK, 8080)
            await squatter.enter_async_context(server)
        process = await launch(directory / "up", HEADRACE_REDIS_URL=own.redis_url)
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            async with asyncio.timeout(READY_SECONDS):
                lines, talk = [], []
                while line := (await process.stdout.readline()).decode():
                    lines.append(line.rstrip())
                    if "/v1/analytics/" in line:
                        break
                if not lines:
                    pytest.fail(f"not ready: {(await process.stderr.read()).decode()}")
                while "Starting auth" not in (line := (await process.stderr.readline()).decode()):
                    talk.append(line)
            yield Told(lines, talk, directory / "up", own.redis_url)
        finally:
            if process.returncode is None:
                process.terminate()
            await process.communicate()
        # It was not ours to stop.
        async with Redis.from_url(own.redis_url) as client:
            assert await client.ping()


async def test_without_a_port_it_moves_away_from_a_taken_one(told: Told) -> None:
    (url,) = [line.split()[1] for line in told.lines if line.split()[:1] == ["url"]]

    assert not url.endswith(":8080")
    assert any("Port 8080 is taken" in line for line in told.talk)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
async def test_the_curl_lines_work_when_pasted(told: Told) -> None:
    answers = []
    for line in told.lines:
        if line.startswith("curl"):
            shell = await asyncio.create_subprocess_shell(line, stdout=asyncio.subprocess.PIPE)
            answers.append(msgspec.json.decode((await shell.communicate())[0]))
    sent, listed, counted = answers

    assert sent["status"] == "accepted"
    assert "items" in listed
    assert "code" not in counted


def test_a_server_of_ones_own_is_used(told: Told) -> None:
    up_file = msgspec.json.decode((told.directory / "up.json").read_bytes())

    assert up_file["redis_url"] == told.redis_url
    assert set(up_file["processes"]) == NAMES - {"valkey"}
