"""What the faults happen to: the embedded servers, every service as `headrace up` runs it, a proxy on every link."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp
import asyncpg
import nats
import redis.asyncio
from nats.js import JetStreamContext

from embedded.program import Program
from embedded.state import LOOPBACK, free_port
from embedded.supervisor import Patience, Supervisor
from headrace.topology import STAGES
from tests.faults.checker import Usage
from tests.faults.observe import Stores
from tests.faults.payload import PIPELINE
from tests.faults.proxy import FAIR, Proxy, open_proxy
from tests.servers import Servers, running

ROOT: Final = Path(__file__).parents[2]
PIPELINES: Final = Path(__file__).parent / "pipelines"
SERVERS: Final = ("nats", "mongo", "postgres", "valkey")
_SETTING: Final = {"nats": "nats_url", "mongo": "mongo_url", "postgres": "postgres_url", "valkey": "redis_url"}
# Who speaks with which server.
LINKS: Final = {
    "auth": ("nats", "postgres"),
    "gateway": ("nats",),
    "workers": ("nats", "mongo", "postgres", "valkey"),
    "analytics": ("nats", "mongo", "postgres", "valkey"),
}
_ADMIN: Final = "faults"
# Children may die as often as they are killed, and come back at once.
PATIENT: Final = Patience(crashes=10_000, longest_wait_seconds=0.2)
_POLL_SECONDS: Final = 0.1
# A count rests for some times as long as it took, and in a run of faults one may have met a store that stood still.
_COUNTED_SECONDS: Final = 300.0
# Quick to find out and to come back, so that many faults fit into a minute; else as shipped.
QUICK: Final[Mapping[str, str]] = {
    "HEADRACE_WORKERS__ACK_WAIT_SECONDS": "4",
    "HEADRACE_WORKERS__STORE_TIMEOUT_SECONDS": "4",
    "HEADRACE_RETRY__CEILING_SECONDS": "2",
    "HEADRACE_NATS__PING_SECONDS": "2",
    "HEADRACE_NATS__PUBLISH_TIMEOUT_SECONDS": "3",
    "HEADRACE_BLOCK__MAX_DOCUMENTS": "100",
}


@dataclass
class Stack:
    """Use `open_stack`.

    Attributes:
        proxies: by `process-server`.
        failpoints: the file that says where to die.
    """

    servers: Servers
    url: str
    token: str
    supervisor: Supervisor
    programs: Mapping[str, Program]
    proxies: Mapping[str, Proxy]
    failpoints: Path
    js: JetStreamContext
    session: aiohttp.ClientSession
    usages: list[Usage] = field(default_factory=list)

    @property
    def pids(self) -> Mapping[str, int]:
        return self.supervisor.pids

    @property
    def stores(self) -> Stores:
        return Stores(self.servers.mongo_url, self.servers.postgres_url, self.servers.redis_url)

    def signal(self, name: str, number: signal.Signals) -> bool:
        """Send a signal to a process; return whether it runs."""
        pid = self.pids.get(name)
        if pid is None:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
            return True
        return False

    def heal(self) -> None:
        """Let the weather be fair everywhere, nobody stand still, and nobody die any more."""
        self.failpoints.write_text("")
        for proxy in self.proxies.values():
            if proxy.weather != FAIR:
                proxy.turn(FAIR)
        for name in self.programs:
            self.signal(name, signal.SIGCONT)

    def arm(self, *points: str) -> None:
        """Let processes die at these points, as `process:point=kill@N`."""
        fresh = self.failpoints.with_suffix(".fresh")
        fresh.write_text("".join(f"{point}\n" for point in points))
        fresh.replace(self.failpoints)

    def armed(self) -> list[str]:
        """Return the points at which nobody has died yet."""
        return self.failpoints.read_text().split()

    async def backlog(self) -> dict[str, int]:
        """Return how many blocks each stage has before it or in its hands."""
        lags = {}
        for stage in STAGES.values():
            info = await self.js.consumer_info(stage.stream, stage.name)
            lags[stage.name] = (info.num_pending or 0) + (info.num_ack_pending or 0)
        return lags

    async def redelivered(self) -> dict[str, int]:
        """Return how many deliveries of each stage were not the first, as far as the consumers still know."""
        again = {}
        for stage in STAGES.values():
            info = await self.js.consumer_info(stage.stream, stage.name)
            delivered = info.delivered
            again[stage.name] = (delivered.consumer_seq - delivered.stream_seq) if delivered else 0
        return again

    async def log_in(self) -> str:
        """Return a token of a new session."""
        return await _token(self.session, self.url)

    async def ready(self) -> bool:
        async with self.session.get(f"{self.url}/readyz") as answer:
            return answer.status == 200 and (await answer.json())["status"] == "ready"

    async def books(self) -> dict[str, Any]:
        return dict((await self._ledger())["pipelines"][PIPELINE])

    async def books_of_now(self, limit_seconds: float = _COUNTED_SECONDS) -> dict[str, Any]:
        """Return the books of a count that began after this call."""
        asked_at = ""
        async with asyncio.timeout(limit_seconds):
            while True:
                ledger = await self._ledger()
                asked_at = asked_at or ledger["asked_at"]
                if ledger["at"] >= asked_at:
                    return dict(ledger["pipelines"][PIPELINE])
                await asyncio.sleep(_POLL_SECONDS)

    async def balanced(self, limit_seconds: float = _COUNTED_SECONDS) -> bool:
        """Return whether the product's own books are closed now."""
        books = await self.books_of_now(limit_seconds)
        return bool(books["balanced"]) and books["in_flight"] == 0

    async def _ledger(self) -> dict[str, Any]:
        async with self.session.get(f"{self.url}/v1/ledger") as answer:
            answer.raise_for_status()
            return dict(await answer.json())

    async def caught_up(self, limit_seconds: float) -> float | None:
        """Return the seconds until everything was ready, drained and balanced; None if it never was."""
        began = time.monotonic()
        quiet = 0
        while time.monotonic() - began < limit_seconds:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(5):
                    idle = not any((await self.backlog()).values())
                    books = await self.books()
                    projected = await self._projected()
                    quiet = quiet + 1 if idle and books["balanced"] and projected and await self.ready() else 0
                    # Two looks in a row: the first may have begun before the last block came.
                    if quiet == 2:
                        return time.monotonic() - began
            await asyncio.sleep(_POLL_SECONDS)
        return None

    async def _projected(self) -> bool:
        """Return whether Postgres says that this run of Redis holds everything."""
        connection = await asyncpg.connect(self.stores.postgres_url)
        try:
            row = await connection.fetchrow("SELECT run_id, dirty, clean FROM projection")
        finally:
            await connection.close()
        async with redis.asyncio.from_url(self.stores.redis_url) as client:
            run = (await client.info("server"))["run_id"]
        return row is not None and row["run_id"].startswith(run) and bool(row["dirty"] == row["clean"])

    def look(self) -> None:
        """Note what our own processes hold now."""
        for name, pid in self.pids.items():
            if name in SERVERS:
                continue
            with contextlib.suppress(OSError, ValueError, StopIteration):
                status = Path(f"/proc/{pid}/status").read_text().splitlines()
                rss = next(line for line in status if line.startswith("VmRSS")).split()[1]
                descriptors = len(os.listdir(f"/proc/{pid}/fd"))
                self.usages.append(Usage(name, pid, int(rss) << 10, descriptors))


@contextlib.asynccontextmanager
async def open_stack(
    directory: Path,
    *,
    workers: Mapping[str, tuple[str, ...]],
    environment: Mapping[str, str] = QUICK,
    nats_url: str = "",
    proxied: bool = True,
) -> AsyncIterator[Stack]:
    """Run everything; at the end nothing is left running.

    Args:
        workers: the workers' processes by name, and the stages of each; none means all.
        nats_url: of a cluster that runs elsewhere, instead of a server of our own.
        proxied: whether links can be disturbed; what they carry is then work of this process, too.
    """
    wanted = [setting for setting in _SETTING.values() if not (nats_url and setting == "nats_url")]
    async with contextlib.AsyncExitStack() as opened:
        servers = await opened.enter_async_context(running(directory, wanted, patience=PATIENT))
        urls = {
            "nats": nats_url or servers.nats_url,
            "mongo": servers.mongo_url,
            "postgres": servers.postgres_url,
            "valkey": servers.redis_url,
        }
        processes: dict[str, tuple[str, ...]] = {"auth": ("auth",), "analytics": ("analytics",)}
        processes |= {name: ("workers", *stages) for name, stages in workers.items()} | {"gateway": ("gateway",)}
        proxies = {
            f"{name}-{server}": await opened.enter_async_context(open_proxy(urls[server]))
            for name, (service, *_) in processes.items()
            for server in LINKS[service]
            # A cluster tells its clients where else it is, past any proxy.
            if proxied and not (nats_url and server == "nats")
        }
        port = free_port()
        url = f"http://{LOOPBACK}:{port}"
        failpoints = directory / "failpoints"
        failpoints.write_text("")
        session = await opened.enter_async_context(aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)))
        programs = dict(servers.programs)
        for name, (service, *stages) in processes.items():
            through = {s: proxies[k].url if (k := f"{name}-{s}") in proxies else urls[s] for s in urls}
            programs[name] = Program(
                name=name,
                argv=(sys.executable, "-P", "-m", "cli.main", service, *stages),
                environment={
                    **_inherited(),
                    **environment,
                    **{f"HEADRACE_{_SETTING[server].upper()}": link for server, link in through.items()},
                    "HEADRACE_PIPELINES": str(PIPELINES),
                    "HEADRACE_GATEWAY__PORT": str(port),
                    "HEADRACE_FAILPOINTS": str(failpoints),
                    "HEADRACE_AUTH__BOOTSTRAP_ADMIN": _ADMIN,
                    "HEADRACE_AUTH__BOOTSTRAP_PASSWORD": "correct horse battery staple",
                    # One token for the whole run.
                    "HEADRACE_AUTH__ACCESS_SECONDS": "86400",
                },
                directory=directory,
                probe=_probe(session, url) if name == "gateway" else _nothing,
            )
        client = await nats.connect(
            urls["nats"].split(","), max_reconnect_attempts=-1, error_cb=_quiet, ping_interval=1
        )
        opened.push_async_callback(client.close)
        *behind, gateway = (programs[name] for name in processes)
        await servers.supervisor.start(*behind)
        await servers.supervisor.start(gateway)
        token = await _token(session, url)
        session.headers["Authorization"] = f"Bearer {token}"
        js = client.jetstream(timeout=5)
        stack = Stack(servers, url, token, servers.supervisor, programs, proxies, failpoints, js, session)
        assert await stack.caught_up(60) is not None, "it was never ready"
        try:
            yield stack
        finally:
            stack.heal()
            # While the ways between them are open.
            await servers.supervisor.stop("gateway")
            await servers.supervisor.stop(*(name for name in processes if name != "gateway"))


def _inherited() -> dict[str, str]:
    """Return our environment without settings of the product."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}
    return {**kept, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


def _probe(session: aiohttp.ClientSession, url: str) -> Callable[[], Awaitable[None]]:
    async def ready() -> None:
        async with session.get(f"{url}/readyz") as answer:
            if answer.status != 200:
                raise RuntimeError(await answer.text())

    return ready


async def _token(session: aiohttp.ClientSession, url: str) -> str:
    form = {"username": _ADMIN, "password": "correct horse battery staple"}
    deadline = time.monotonic() + 30
    while True:
        async with session.post(f"{url}/v1/auth/token", data=form) as answer:
            if answer.status == 200:
                return str((await answer.json())["access_token"])
            assert time.monotonic() < deadline, await answer.text()
        await asyncio.sleep(0.2)


async def _nothing() -> None:
    """For what has no door."""


async def _quiet(_error: Exception) -> None:
    """What the tests' own connection meets while NATS is away is no news."""
