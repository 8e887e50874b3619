"""One door for all tests of the gateway, and pipelines made for them; a test that needs another runs its own."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator

import pytest

from headrace.registry import Pipelines, load_pipelines
from tests.gateway.system import Gateway, gateway_settings, running
from tests.servers import Servers


@pytest.fixture(scope="session")
def pipelines() -> Pipelines:
    return load_pipelines()


@pytest.fixture
def namespace() -> str:
    return f"g{secrets.token_hex(5)}"


@pytest.fixture(scope="session")
async def gateway(servers: Servers, pipelines: Pipelines) -> AsyncIterator[Gateway]:
    async with running(gateway_settings(servers.nats_url, f"g{secrets.token_hex(5)}"), pipelines) as gateway:
        yield gateway
