"""What is measured: embedded servers in one fresh directory, our services as `headrace up` runs them, and the peers."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import aiohttp
import nats
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from bench.peer.messages import STREAM as PEER_STREAM
from bench.peer.security import SECRET_KEY, create_access_token
from embedded.program import Program
from embedded.servers import SERVERS, prepare
from embedded.state import LOOPBACK, State, free_port, open_state
from embedded.supervisor import Supervisor, supervise
from headrace.settings import StreamSettings
from headrace.topology import STREAMS

ROOT: Final = Path(__file__).parents[1]
PATH: Final = "/v1/documents/invoices"
_ADMIN: Final = "bench"

OURS: Final = "gateway"
OPEN: Final = "open_gateway"
NOTHING: Final = "nothing"
PEER: Final = "peer_gateway"
PEER_WORKER: Final = "peer_worker"
PEER_BATCH_WORKER: Final = "peer_batch_worker"


class BenchError(Exception):
    """Something did not run as it must; there is no figure."""


@dataclass
class Stack:
    """Use `open_stack`.

    Attributes:
        urls: the servers', by the setting that each stands for.
        ports: of whatever speaks HTTP, by name.
        failed: whether its logs are worth keeping.
    """

    state: State
    supervisor: Supervisor
    urls: Mapping[str, str]
    js: JetStreamContext
    ports: dict[str, int] = field(default_factory=dict)
    failed: bool = False
    _token: str = ""
    _started: dict[str, int] = field(default_factory=dict)

    @property
    def logs(self) -> Path:
        return self.state.folder("logs")

    async def start(self, *names: str) -> None:
        """Start what does not run yet, and return when it serves."""
        for name in names:
            if name not in self._started:
                await self.supervisor.start(self._program(name))
                self._started[name] = self.supervisor.pids[name]

    async def stop(self, *names: str) -> None:
        for name in names:
            if self._started.pop(name, None):
                await self.supervisor.stop(name)

    def pid(self, name: str) -> int:
        """Return a process's id.

        Raises:
            BenchError: it ended since it was started.
        """
        if self.supervisor.pids.get(name) != self._started[name]:
            raise BenchError(f"{name} ended while it was measured; see {self.logs / name}.log.")
        return self._started[name]

    def headers(self, name: str) -> dict[str, str]:
        """Return what a request to this server must carry."""
        if name == NOTHING:
            return {}
        token = create_access_token(_ADMIN) if name == PEER else self._token
        return {"Authorization": f"Bearer {token}"}

    async def empty(self) -> None:
        """Purge all streams: what one measurement leaves behind must not cost the next one."""
        for stream in (*STREAMS, PEER_STREAM):
            with contextlib.suppress(NotFoundError):
                await self.js.purge_stream(stream)

    def _program(self, name: str) -> Program:
        argv, environment, probe = self._command(name)
        # Not where a .env of the user's may lie.
        where = self.state.directory
        return Program(name=name, argv=argv, environment=environment, directory=where, probe=probe)

    def _command(self, name: str) -> tuple[tuple[str, ...], Mapping[str, str], Callable[[], Awaitable[None]]]:
        """Return what to run, its environment, and what passes once it serves."""
        python = (sys.executable, "-m")
        urls = {f"HEADRACE_{setting.upper()}": url for setting, url in self.urls.items()}
        environment = {**_inherited(), **urls}
        peer = {f"PEER_{setting.upper()}": url for setting, url in self.urls.items()}
        peer = {**_inherited(), **peer, "PEER_SECRET_KEY": SECRET_KEY}
        match name:
            case "auth":
                more = {
                    "HEADRACE_AUTH__BOOTSTRAP_ADMIN": _ADMIN,
                    "HEADRACE_AUTH__BOOTSTRAP_PASSWORD": self.state.secret("admin"),
                    # One token for the whole run.
                    "HEADRACE_AUTH__ACCESS_SECONDS": "86400",
                }
                return (*python, "cli.main", name), environment | more, _at_once
            case "workers" | "analytics":
                return (*python, "cli.main", name), environment, _at_once
            case "gateway" | "open_gateway":
                port = self.ports[name] = free_port()
                environment["HEADRACE_GATEWAY__PORT"] = str(port)
                if name == OPEN:
                    return (*python, "bench.open_gateway"), environment, lambda: _answers(port)
                return (*python, "cli.main", name), environment, self._log_in
            case "nothing" | "peer_gateway":
                port = self.ports[name] = free_port()
                module = "bench.nothing:app" if name == NOTHING else "bench.peer.gateway:app"
                options = ("--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning")
                argv = (*python, "uvicorn", module, "--host", LOOPBACK, "--port", str(port), *options)
                return argv, peer, lambda: _answers(port)
            case "peer_worker" | "peer_batch_worker":
                batches = ("--batch",) if name == PEER_BATCH_WORKER else ()
                return (*python, "bench.peer.worker", *batches), peer, _at_once
        raise BenchError(f"There is no process {name!r}.")

    async def _log_in(self) -> None:
        """Get a token as every client does; works once gateway and auth both serve."""
        form = {"username": _ADMIN, "password": self.state.secret("admin")}
        async with aiohttp.ClientSession(f"http://{LOOPBACK}:{self.ports[OURS]}") as session:
            async with session.post("/v1/auth/token", data=form) as response:
                answer = await response.json(content_type=None)
                if response.status != 200:
                    raise BenchError(f"/v1/auth/token answered {response.status}")
            self._token = answer["access_token"]


@contextlib.asynccontextmanager
async def open_stack() -> AsyncIterator[Stack]:
    """Run the four servers in a fresh directory; at the end nothing is left of it, unless something failed."""
    directory = _fresh_directory()
    failed = True
    try:
        async with _open_stack(directory) as stack:
            yield stack
            failed = stack.failed
    finally:
        if failed:
            print(f"The logs are in {directory / 'logs'}.", file=sys.stderr)
        else:
            shutil.rmtree(directory, ignore_errors=True)


@contextlib.asynccontextmanager
async def _open_stack(directory: Path) -> AsyncIterator[Stack]:
    with open_state(directory) as state:
        servers = await prepare(state, StreamSettings(), tuple(SERVERS))
        async with supervise(state.folder("logs")) as supervisor:
            await supervisor.start(*(server.program for server in servers.values()))
            urls = {setting: server.url for setting, server in servers.items()}
            client = await nats.connect(urls["nats_url"])
            try:
                yield Stack(state, supervisor, urls, client.jetstream())
            finally:
                await client.close()


def _fresh_directory() -> Path:
    directory = Path(tempfile.mkdtemp(prefix="headrace-bench-"))
    # The user that Postgres runs as must be able to pass through.
    directory.chmod(0o711)
    return directory


def _inherited() -> dict[str, str]:
    """Return our environment without settings of the product: the defaults are measured."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}
    # Two processes of one program must not differ by the order of their dicts and sets.
    return {**kept, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "0"}


async def _answers(port: int) -> None:
    async with aiohttp.ClientSession() as session, session.get(f"http://{LOOPBACK}:{port}/"):
        pass


async def _at_once() -> None:
    """For what has no door: `settle.at_work` waits for it."""
