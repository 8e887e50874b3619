"""The embedded servers as tests use them: one set for the whole run, and sets of one's own for faults."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from embedded.program import Program
from embedded.servers import SERVERS, prepare
from embedded.state import open_state, write_private
from embedded.supervisor import Patience, Supervisor, supervise
from headrace.settings import StreamSettings

# Ends what will never hold; a slow machine may take long for what does.
DEADLINE_SECONDS = 60
T = TypeVar("T")
# The environment variable that names the folder of what a run makes once.
MADE: Final = "TESTS_MADE_ONCE"


@dataclass(frozen=True)
class Servers:
    """Running servers.

    Attributes:
        directory: the data directory.
        nats_roles: what else NATS can be reached by: its URL by role, and `mqtt`.
        pids: of the processes that run now, by name: nats, mongo, postgres, valkey; a live view.
    """

    nats_url: str
    mongo_url: str
    postgres_url: str
    redis_url: str
    nats_roles: Mapping[str, str]
    directory: Path
    pids: Mapping[str, int]
    programs: Mapping[str, Program]
    supervisor: Supervisor

    async def kill(self, name: str) -> None:
        """Kill a server with SIGKILL and return when its successor serves."""
        killed = self.pids[name]
        os.kill(killed, signal.SIGKILL)
        await until(lambda: self.pids.get(name, killed) != killed)
        await self.serves(name)

    async def stop(self, name: str) -> None:
        """Stop a server, until `start`."""
        await self.supervisor.stop(name)

    async def start(self, name: str) -> None:
        """Start a server that was stopped, on the same port with the same data."""
        await self.supervisor.start(self.programs[name])

    async def serves(self, name: str) -> None:
        """Return when the server answers its protocol."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            while True:
                with contextlib.suppress(Exception):
                    return await self.programs[name].probe()
                await asyncio.sleep(0.02)


async def until(holds: Callable[[], bool]) -> None:
    """Return as soon as the condition holds.

    Raises:
        TimeoutError: it did not in time.
    """
    async with asyncio.timeout(DEADLINE_SECONDS):
        # What is awaited happens in another process, which sets no event of ours.
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def running(
    directory: Path,
    wanted: Collection[str] = tuple(SERVERS),
    *,
    namespace: str = "",
    patience: Patience | None = None,
) -> AsyncIterator[Servers]:
    """Run servers of one's own, by the settings they stand for; the URL of one that is not wanted is empty."""
    with open_state(directory) as state:
        servers = await prepare(state, StreamSettings(), wanted, namespace)
        async with supervise(state.folder("logs"), patience=patience) as supervisor:
            await supervisor.start(*(server.program for server in servers.values()))
            urls = {setting: servers[setting].url if setting in servers else "" for setting in SERVERS}
            programs = {server.program.name: server.program for server in servers.values()}
            roles = servers["nats_url"].others if "nats_url" in servers else {}
            yield Servers(
                **urls,
                nats_roles=roles,
                directory=directory,
                pids=supervisor.pids,
                programs=programs,
                supervisor=supervisor,
            )


@contextlib.asynccontextmanager
async def in_own_task(context: contextlib.AbstractAsyncContextManager[T]) -> AsyncIterator[T]:
    """Open and close a context in one task, as task groups want it: the two halves of a fixture are two tasks."""
    opened: asyncio.Future[T] = asyncio.get_running_loop().create_future()
    over = asyncio.Event()

    async def hold() -> None:
        async with context as value:
            opened.set_result(value)
            await over.wait()

    task = asyncio.create_task(hold())
    # A context that fails to open ends the task, which says why.
    task.add_done_callback(lambda _: opened.cancel())
    await asyncio.wait({opened})
    if opened.cancelled():
        await task
    try:
        yield opened.result()
    finally:
        over.set()
        await task


async def seed(directory: Path) -> None:
    """Put the stores' data into an empty data directory, as its first start would make it.

    That takes seconds of the processor, so it is made once for all processes of a run. That a first start makes it is
    for the tests in tests/embedded.
    """
    made = Path(os.environ[MADE]) / "data"
    with (made.parent / "lock").open("w") as lock:
        await asyncio.to_thread(fcntl.flock, lock, fcntl.LOCK_EX)
        if not made.exists():
            fresh = made.with_name("fresh")
            with open_state(fresh) as state:
                await prepare(state, StreamSettings(), ("mongo_url", "postgres_url"), "")
            fresh.rename(made)
    await asyncio.to_thread(_copy, made, directory)


def _copy(made: Path, directory: Path) -> None:
    directory.mkdir(exist_ok=True)
    state_file = "state.json"
    remembered = json.loads((made / state_file).read_bytes())
    # Its ports are those of nobody, and its id is that of one directory.
    write_private(directory / state_file, json.dumps({**remembered, "id": secrets.token_hex(8), "ports": {}}).encode())
    # With its owners: Postgres runs as a user of its own, who may have a home elsewhere.
    folders = [folder for name in ("mongo", "postgres") if (folder := made / name).exists()]
    subprocess.run(["cp", "-a", *folders, directory], check=True)


@contextlib.contextmanager
def reachable_directory() -> Iterator[Path]:
    """Make a temporary directory that the Postgres user can pass through, unlike pytest's own."""
    directory = Path(tempfile.mkdtemp(prefix="headrace-test-"))
    directory.chmod(0o711)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
