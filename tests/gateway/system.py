"""The door as tests use it: the real one on a real port and a real NATS, with stand-ins for auth and analytics."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import msgspec
from fastapi import FastAPI
from nats.js.errors import NotFoundError
from pydantic import SecretStr

from gateway.admission import Admission
from gateway.answers.common import ProblemDetails
from gateway.app import build
from gateway.authenticate import Authenticator
from gateway.door import Door
from gateway.edge import cross_origin
from gateway.ingest import Ingest
from gateway.plain import plain_posts
from gateway.receipts import open_receipts
from gateway.server import listen, serving
from headrace.errors import AccessError, HeadraceError
from headrace.messaging.commit import Committer
from headrace.messaging.connection import Bus, connect
from headrace.messaging.mesh import Handler, Reply, Request, serve
from headrace.messaging.publisher import open_publisher
from headrace.registry import Pipelines
from headrace.revocations import open_revocations, watch_revocations
from headrace.settings import GatewaySettings, Settings
from headrace.tokens import Principal
from headrace.topology import STREAMS, Topology, ensure
from tests.conftest import SMALL_STREAMS


@dataclass
class StandIn:
    """A service that answers what the test told it to, and remembers what it was asked.

    Attributes:
        answers: by endpoint, a reply, an error to raise, or what makes a reply of a request.
        asked: endpoint, payload and headers of every request, oldest first.
    """

    answers: dict[str, Reply | HeadraceError | Callable[[Request], Reply]] = field(default_factory=dict)
    asked: list[tuple[str, Any, Mapping[str, str]]] = field(default_factory=list)

    def handlers(self, endpoints: Iterable[str]) -> dict[str, Handler]:
        return {endpoint: self._handler(endpoint) for endpoint in endpoints}

    def says(self, endpoint: str, body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> bytes:
        """Answer from now on with this as JSON; returns the very bytes."""
        encoded = msgspec.json.encode(body)
        self.answers[endpoint] = Reply(encoded, status, headers or {})
        return encoded

    def last(self, endpoint: str) -> tuple[Any, Mapping[str, str]]:
        """Return payload and headers of the last request to an endpoint."""
        return next((payload, headers) for name, payload, headers in reversed(self.asked) if name == endpoint)

    def _handler(self, endpoint: str) -> Handler:
        async def handle(request: Request) -> Reply:
            with contextlib.suppress(msgspec.DecodeError):
                self.asked.append((endpoint, msgspec.json.decode(request.payload), request.headers))
            answer = self.answers[endpoint]
            if isinstance(answer, HeadraceError):
                raise answer
            return answer if isinstance(answer, Reply) else answer(request)

        return handle


AUTH = (
    *("register", "token", "refresh", "revoke", "me", "keys.create", "keys.list", "keys.delete"),
    *("password", "audit"),
    *("verify_key", "jwks"),
)
ANALYTICS = (
    *(
        "metrics",
        "metric",
        "analysis",
        "metric.key",
        "document",
        "documents",
        "documents.rows",
        "ledger",
        "dead.list",
        "dead.groups",
        "dead.show",
        "dead.audit",
        "dead.replay",
        "health",
    ),
    *("jobs.list", "jobs.show", "jobs.runs", "jobs.run", "jobs.start", "jobs.pause", "jobs.resume"),
)


@dataclass
class Gateway:
    """A running door.

    Attributes:
        keys: the API keys that the stand-in for auth knows.
    """

    app: FastAPI
    door: Door
    url: str
    http: aiohttp.ClientSession
    auth: StandIn
    analytics: StandIn
    keys: dict[str, Principal]

    def key(self, *scopes: str, subject: str = "ada") -> str:
        """Return a new API key with these scopes."""
        key = f"hr_{secrets.token_hex(8)}_{secrets.token_urlsafe(32)}"
        self.keys[key] = Principal(subject, frozenset(scopes), key[3:19], "", 253402300799)
        return key

    async def ask(
        self, method: str, path: str, *, key: str | None = None, **options: Any
    ) -> tuple[int, bytes, Mapping[str, str]]:
        """Return status, body and headers."""
        headers = {**({"Authorization": f"Bearer {key}"} if key else {}), **options.pop("headers", {})}
        options.setdefault("allow_redirects", False)
        async with self.http.request(method, f"{self.url}{path}", headers=headers, **options) as response:
            return response.status, await response.read(), response.headers

    async def problem(
        self, method: str, path: str, *, key: str | None = None, **options: Any
    ) -> tuple[int, dict[str, Any], Mapping[str, str]]:
        """Return status, problem and headers of an answer that has to be a problem."""
        status, body, headers = await self.ask(method, path, key=key, **options)
        return status, checked_problem(status, body, headers), headers


def checked_problem(status: int, body: bytes, headers: Mapping[str, str]) -> dict[str, Any]:
    """Return the problem that an answer is, held against everything that a problem must be."""
    assert headers["Content-Type"] == "application/problem+json"
    problem: dict[str, Any] = msgspec.json.decode(body)
    ProblemDetails.model_validate(problem, strict=True)
    assert problem["status"] == status >= 400
    assert problem["request_id"] == headers["X-Request-Id"]
    assert problem["type"].endswith(problem["code"])
    assert problem["title"] != "Error"
    assert ("WWW-Authenticate" in headers) == (status == 401)
    assert ("Retry-After" in headers) == (status in (429, 503))
    assert "Traceback" not in problem["detail"]
    return problem


@contextlib.asynccontextmanager
async def opened(settings: Settings, pipelines: Pipelines) -> AsyncIterator[tuple[Bus, Door]]:
    """Open a door's parts; what it made on the server is removed at the end."""
    topology, limits = Topology(settings.namespace), settings.gateway
    async with (
        connect(settings, "gateway") as bus,
        open_publisher(bus, settings.nats.publish_timeout_seconds) as publisher,
        open_receipts(bus, topology) as receipts,
    ):
        await ensure(bus, settings)
        await open_revocations(bus, settings.namespace, 60, 1)
        async with watch_revocations(bus, settings.namespace) as revocations:
            yield (
                bus,
                Door(
                    settings=settings,
                    bus=bus,
                    pipelines=pipelines,
                    authenticator=Authenticator(bus, settings.namespace, revocations, limits.token_cache_seconds),
                    admission=Admission(bus, settings),
                    committer=Committer(
                        publisher,
                        topology,
                        settings.block,
                        max_documents=limits.in_flight_documents,
                        max_bytes=limits.in_flight_bytes,
                    ),
                    receipts=receipts,
                ),
            )
        buckets = [f"KV_{settings.namespace}{bucket}" for bucket in ("revocations", "sessions")]
        for stream in [*map(topology.stream, STREAMS), *buckets]:
            with contextlib.suppress(NotFoundError):
                await bus.client.jetstream().delete_stream(stream)


@contextlib.asynccontextmanager
async def running(
    settings: Settings, pipelines: Pipelines, services: Collection[str] = ("auth", "analytics")
) -> AsyncIterator[Gateway]:
    """Run a door with stand-ins for these services."""
    auth, analytics = StandIn(), StandIn()
    keys: dict[str, Principal] = {}

    def verify(request: Request) -> Reply:
        key = msgspec.json.decode(request.payload)["key"]
        if key not in keys:
            raise AccessError("This is no API key of this Headrace.", code="invalid_key")
        return Reply(msgspec.json.encode(keys[key]))

    auth.answers["verify_key"] = verify
    auth.says("jwks", {"keys": []})
    analytics.says("health", {"mongo": "ok", "postgres": "ok", "redis": "ok"})
    async with opened(settings, pipelines) as (bus, door):
        listener = listen("127.0.0.1", 0)
        app = build(door)
        ingest = Ingest(door, app)
        whole = cross_origin(ingest, settings.gateway.cors_origins)
        async with (
            contextlib.AsyncExitStack() as stack,
            serve(bus, settings.namespace, "gateway", {}),
            serving(whole, listener, settings.gateway, plain_posts(ingest, settings.gateway)),
            aiohttp.ClientSession() as http,
        ):
            if "auth" in services:
                await stack.enter_async_context(serve(bus, settings.namespace, "auth", auth.handlers(AUTH)))
            if "analytics" in services:
                handlers = analytics.handlers(ANALYTICS)
                await stack.enter_async_context(serve(bus, settings.namespace, "analytics", handlers))
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            yield Gateway(app, door, url, http, auth, analytics, keys)


def gateway_settings(nats_url: str, namespace: str, **gateway: Any) -> Settings:
    """Return settings of a door that has NATS and nothing else."""
    return Settings(
        nats_url=SecretStr(nats_url), namespace=namespace, streams=SMALL_STREAMS, gateway=GatewaySettings(**gateway)
    )
