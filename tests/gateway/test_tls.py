"""HTTPS by the gateway itself: everything that it answers over HTTP, the plain posts included."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import ssl
import warnings
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import msgspec
import pytest

from gateway.server import listen, serving
from headrace.document import envelopes
from headrace.errors import HeadraceError
from headrace.registry import Pipelines
from headrace.settings import GatewaySettings
from headrace.topology import RAW, Topology
from tests.certificates import Certificates, make_certificates
from tests.gateway.system import gateway_settings, running
from tests.servers import Servers

PATH = "/v1/documents/invoices"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("tls"))


async def test_documents_come_in_over_tls_and_only_over_tls(
    servers: Servers, pipelines: Pipelines, certificates: Certificates
) -> None:
    settings = gateway_settings(
        servers.nats_url,
        f"g{secrets.token_hex(5)}",
        tls_certificate=certificates.certificate,
        tls_key=certificates.key,
    )
    async with running(settings, pipelines) as gateway:
        url = gateway.url.replace("http:", "https:")
        key = gateway.key("documents:write", "documents:read")
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        body = msgspec.json.encode(dict(pipelines["invoices"].example))
        connector = aiohttp.TCPConnector(ssl=certificates.client_context())
        async with aiohttp.ClientSession(connector=connector) as https:
            ids = []
            # The first is verified; the others are answered by the connection itself; the last are many at once.
            for _ in range(3):
                async with https.post(f"{url}{PATH}", data=body, headers=headers) as answer:
                    assert answer.status == 202
                    assert answer.headers["Strict-Transport-Security"] == "max-age=31536000"
                    assert answer.headers["X-Content-Type-Options"] == "nosniff"
                    ids.append((await answer.json())["id"])
            answers = await asyncio.gather(*(https.post(f"{url}{PATH}", data=body, headers=headers) for _ in range(20)))
            ids += [(await answer.json())["id"] for answer in answers]
            async with https.post(f"{url}{PATH}", data=b"[%b]" % b",".join([body] * 5000), headers=headers) as bulk:
                assert (await bulk.json())["accepted"] == 5000
            async with https.get(f"{url}/v1/pipelines", headers=headers) as answer:
                assert answer.status == 200
                assert answer.headers["Strict-Transport-Security"]
        stream = Topology(settings.namespace).stream(RAW)
        js = gateway.door.bus.client.jetstream()
        stored = set()
        for sequence in range(1, (await js.stream_info(stream)).state.last_seq + 1):
            stored |= {one.id for one in envelopes((await js.get_msg(stream, sequence)).data or b"")}
        assert set(ids) <= stored

        # In the clear there is no answer, and who trusts another authority does not go on.
        with pytest.raises(aiohttp.ClientError):
            await gateway.http.get(f"{gateway.url}/healthz")
        strange = ssl.create_default_context(cafile=certificates.stranger)
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await gateway.http.get(f"{url}/healthz", ssl=strange)
        old = certificates.client_context()
        with warnings.catch_warnings(action="ignore"):
            old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises(aiohttp.ClientConnectorError):
            await gateway.http.get(f"{url}/healthz", ssl=old)


async def nothing(_scope: object, _receive: object, _send: object) -> None: ...


@contextlib.asynccontextmanager
async def mute_client(certificates: Certificates, *, header_seconds: float) -> AsyncIterator[asyncio.StreamReader]:
    """Serve somebody who begins a TLS record and says no more; at the end the server ends before the client."""
    settings = GatewaySettings(
        tls_certificate=certificates.certificate, tls_key=certificates.key, header_seconds=header_seconds
    )
    with listen("127.0.0.1", 0) as listener:
        async with serving(nothing, listener, settings):
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            writer.write(b"\x16\x03\x01")
            yield reader
    writer.close()


async def test_who_never_ends_the_handshake_is_dropped(certificates: Certificates) -> None:
    async with asyncio.timeout(20), mute_client(certificates, header_seconds=0.2) as reader:
        assert await reader.read() == b""


async def test_who_never_ends_the_handshake_does_not_hold_up_the_end(certificates: Certificates) -> None:
    async with asyncio.timeout(20), mute_client(certificates, header_seconds=60):
        pass


@pytest.mark.parametrize("wrong", ["missing", "not PEM", "another's key"])
async def test_a_certificate_that_is_of_no_use_is_said_in_one_sentence(
    certificates: Certificates, tmp_path: Path, wrong: str
) -> None:
    strange = tmp_path / "strange.pem"
    if wrong == "not PEM":
        strange.write_text("hello")
    certificate = certificates.certificate if wrong == "another's key" else strange
    key = make_certificates(tmp_path).key if wrong == "another's key" else None
    settings = GatewaySettings(tls_certificate=certificate, tls_key=key)

    with listen("127.0.0.1", 0) as listener, pytest.raises(HeadraceError, match="Name PEM files"):
        async with serving(nothing, listener, settings):
            pass
