"""The mesh: services meet as NATS micro services, by request and reply with a deadline.

An endpoint `token` of service `auth` listens on `<namespace>svc.auth.token` in a queue group, so more
instances share the load. Errors of our tree travel as problems and are raised again at the caller.
`Everyone` reaches every process instead of one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import msgspec
import nats.errors
import nats.micro
from nats.aio.msg import Msg
from nats.micro.request import Request as MicroRequest

from headrace import __version__, telemetry
from headrace.document import new_id
from headrace.errors import HeadraceError, RequestError, UnavailableError, error_of, problem_of
from headrace.messaging.connection import Bus
from headrace.messaging.parts import REST_HEADER, Parts, serve_parts, whole

log = telemetry.logger(__name__)

STATUS_HEADER = "Headrace-Status"
PROBLEM_HEADER = "Headrace-Problem"
REQUEST_ID_HEADER = "X-Request-Id"
# Of who answers when everyone is asked.
INSTANCE_HEADER = "Headrace-Instance"


@dataclass(frozen=True, slots=True)
class Request:
    """What a handler gets."""

    payload: bytes
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Reply:
    """What a handler returns: a body, and the HTTP status and headers the gateway should answer with."""

    body: bytes
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


Handler = Callable[[Request], Awaitable[Reply]]
StatusSource = Callable[[], Awaitable[Mapping[str, object]]]


async def _nothing() -> Mapping[str, object]:
    return {}


@contextlib.asynccontextmanager
async def serve(
    bus: Bus,
    namespace: str,
    name: str,
    handlers: Mapping[str, Handler],
    *,
    status: StatusSource = _nothing,
) -> AsyncIterator[None]:
    """Be an instance of the service `name` while the body runs.

    Args:
        handlers: endpoint name to handler. Requests run side by side, so a slow one holds up no other.
        status: what this instance adds to `/v1/mesh`, such as its consumers and their lag.
    """
    instance = new_id()
    since = time.time()
    counts = {"requests": 0, "errors": 0}

    async with (
        serve_parts(bus.client, f"{namespace}svc.parts.{name}.{instance}") as parts,
        asyncio.TaskGroup() as tasks,
    ):

        def endpoint(label: str, handler: Handler) -> Callable[[MicroRequest], Awaitable[None]]:
            async def handle(request: MicroRequest) -> None:
                tasks.create_task(_answer(request, name, label, handler, counts, parts))

            return handle

        async def tell_status(message: Msg) -> None:
            about = {"name": name, "id": instance, "version": __version__, "pid": os.getpid(), "since": since, **counts}
            tasks.create_task(_respond(message, msgspec.json.encode({**about, **await status()}), instance, parts))

        async def tell_metrics(message: Msg) -> None:
            body = msgspec.json.encode({"service": name, "instance": instance[-12:]})
            tasks.create_task(_respond(message, body + b"\n" + telemetry.snapshot(), instance, parts))

        service = await nats.micro.add_service(
            bus.client, name=f"headrace-{name}", version=__version__, description=f"Headrace {name}"
        )
        group = service.add_group(name=f"{namespace}svc.{name}")
        for label, handler in handlers.items():
            await group.add_endpoint(name=label.replace(".", "-"), subject=label, handler=endpoint(label, handler))
        everyone = [
            await bus.client.subscribe(_everyone(namespace, "status"), cb=tell_status),
            await bus.client.subscribe(_everyone(namespace, "metrics"), cb=tell_metrics),
        ]
        # Who has our word that we serve may ask through another connection at once.
        with contextlib.suppress(nats.errors.Error):
            await bus.client.flush()
        try:
            yield
        finally:
            # Deaf first, then the requests that run are answered: the task group waits for them.
            with contextlib.suppress(nats.errors.Error, asyncio.CancelledError):
                for subscription in everyone:
                    await subscription.unsubscribe()
                await service.stop()


async def ask(
    bus: Bus,
    namespace: str,
    service: str,
    endpoint: str,
    payload: bytes = b"",
    *,
    headers: Mapping[str, str] | None = None,
    timeout_seconds: float = 5.0,
) -> Reply:
    """Ask one instance of a service.

    Raises:
        HeadraceError: what the handler raised.
        UnavailableError: no instance is alive, or none answered in time.
    """
    if not bus.connected:
        raise _bus_away()
    try:
        message = await bus.client.request(
            f"{namespace}svc.{service}.{endpoint}",
            payload,
            timeout=timeout_seconds,
            headers=dict(headers or {}) or None,
        )
        body = await whole(bus.client, message, timeout_seconds)
    except nats.errors.NoRespondersError:
        raise UnavailableError(
            f"No instance of the {service} service is alive.", code=f"{service}_unavailable", retry_after_seconds=2
        ) from None
    except (TimeoutError, nats.errors.Error):
        raise UnavailableError(
            f"The {service} service did not answer within {timeout_seconds:g} s.",
            code=f"{service}_unavailable",
            retry_after_seconds=2,
        ) from None
    answered = message.headers or {}
    if PROBLEM_HEADER in answered:
        raise error_of(msgspec.json.decode(message.data))
    status = int(answered.get(STATUS_HEADER, "200"))
    rest = {key: value for key, value in answered.items() if key not in (STATUS_HEADER, REST_HEADER)}
    return Reply(body, status, rest)


class Everyone:
    """Asks every live process the same, `status` or `metrics`, and remembers who answered."""

    def __init__(self, bus: Bus, namespace: str, what: str) -> None:
        self._bus = bus
        self._subject = _everyone(namespace, what)
        self._known: set[str] = set()

    async def ask(self, *, window_seconds: float = 0.3, patience_seconds: float = 1.0) -> list[bytes]:
        """Return what every live process answers within the window.

        Nobody knows how many there are. But who answered the last time is waited for longer, up to `patience_seconds`:
        a process that is busy for a moment must not look like one that is gone.

        Raises:
            UnavailableError: the bus is away.
        """
        client = self._bus.client
        answers: list[Msg] = []
        instances: set[str] = set()
        complete = asyncio.Event()
        inbox = client.new_inbox()

        async def collect(message: Msg) -> None:
            if message.data:  # empty: the server's own word that nobody is there
                answers.append(message)
                instances.add((message.headers or {}).get(INSTANCE_HEADER, ""))
            if self._known <= instances:
                complete.set()

        try:
            subscription = await client.subscribe(inbox, cb=collect)
            try:
                await client.publish(self._subject, b"", reply=inbox)
                await asyncio.sleep(window_seconds)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(patience_seconds - window_seconds if self._known else 0):
                        await complete.wait()
            finally:
                await subscription.unsubscribe()
            self._known = instances
            bodies = await asyncio.gather(
                *(whole(client, answer, patience_seconds) for answer in answers), return_exceptions=True
            )
        except nats.errors.Error:
            raise _bus_away() from None
        # One that died meanwhile is one that did not answer.
        return [body for body in bodies if isinstance(body, bytes)]


def _bus_away() -> UnavailableError:
    return UnavailableError("The message bus is away.", code="nats_unavailable", retry_after_seconds=2)


def _everyone(namespace: str, what: str) -> str:
    return f"{namespace}svc.all.{what}"


async def _answer(
    request: MicroRequest, service: str, endpoint: str, handler: Handler, counts: dict[str, int], parts: Parts
) -> None:
    counts["requests"] += 1
    code = "ok"
    try:
        reply = await handler(Request(request.data, request.headers or {}))
        body, rest = parts.first(reply.body)
        headers = {STATUS_HEADER: str(reply.status), **reply.headers, **rest}
    except Exception as error:
        if not isinstance(error, HeadraceError):
            log.exception("handler_failed", service=service, endpoint=endpoint)
            error = HeadraceError("The service failed; the failure is in its log.")
        if not isinstance(error, RequestError):
            counts["errors"] += 1
        code = error.code
        headers = {PROBLEM_HEADER: "1"}
        body = msgspec.json.encode(problem_of(error))
    try:
        await request.respond(body, headers=headers)
    except nats.errors.Error as error:
        # Who asked meets his deadline.
        log.warning("answer_lost", service=service, endpoint=endpoint, error=type(error).__name__)
    telemetry.mesh_requests.labels(endpoint, code).inc()


async def _respond(message: Msg, body: bytes, instance: str, parts: Parts) -> None:
    with contextlib.suppress(nats.errors.Error, UnavailableError):
        first, rest = parts.first(body)
        message.headers = {INSTANCE_HEADER: instance, **rest}
        await message.respond(first)
