"""The life of a service's process: event loop, logs, signals, exit code."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import signal
from collections.abc import AsyncIterator, Awaitable, Callable

import uvloop
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from headrace import failpoints, telemetry
from headrace.errors import HeadraceError
from headrace.exposure import ExposedError, check
from headrace.messaging.connection import BusLostError
from headrace.reload import changed
from headrace.settings import Settings
from headrace.tasks import end

log = telemetry.logger(__name__)

# What a service raises when it cannot go on, for a reason that one line tells; anything else is a bug.
_EXPECTED = (HeadraceError, BusLostError)

# malloc.h
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8

Service = Callable[[Settings, asyncio.Event], Awaitable[None]]


def run_service(name: str, settings: Settings, service: Service) -> int:
    """Run a service until SIGTERM or SIGINT, which let it drain; return the process's exit code.

    0 after a clean stop, or where `settings.reload` asks for a restart; 1 when it cannot go on, or may not in
    production mode. A supervisor starts
    it again.
    """
    telemetry.configure_logs(settings.log, name)
    try:
        check(settings)
    except ExposedError as error:
        log.error("service_refused", reason=str(error))
        return 1
    failpoints.arm(name, settings.failpoints)

    _keep_heaps_small()
    # Each batch makes tens of thousands of objects that die with it by reference count. At the default thresholds the
    # cycle collector would walk them over and over, for a tenth of the time.
    gc.freeze()
    gc.set_threshold(50_000, 10, 10)

    async def main() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        async with _own_port(settings.metrics_port), _reloading(settings, stop):
            await service(settings, stop)

    try:
        uvloop.run(main())
    except BaseExceptionGroup as group:
        return _failed(name, group)
    except _EXPECTED as error:
        log.error("service_ended", reason=str(error))
        return 1
    return 0


def _keep_heaps_small() -> None:
    """Give back to the system what was needed once: of a burst of documents, or of the hash of a password."""
    with contextlib.suppress(OSError, AttributeError):  # glibc alone has it
        libc = ctypes.CDLL(None)
        # All threads share two heaps: drivers' threads with one each keep what they once needed for ever.
        libc.mallopt(_M_ARENA_MAX, 2)
        # What is large gets pages of its own, as at the start; else the first block that is freed raises this for good,
        # and all blocks after it leave holes in a heap.
        libc.mallopt(_M_MMAP_THRESHOLD, 128 * 1024)


@contextlib.asynccontextmanager
async def _reloading(settings: Settings, stop: asyncio.Event) -> AsyncIterator[None]:
    """Stop the service when its pipelines have changed, if the settings say so."""
    if not settings.reload:
        yield
        return

    async def watch() -> None:
        await changed(settings.pipelines)
        stop.set()

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        await end(watching)


@contextlib.asynccontextmanager
async def _own_port(port: int | None) -> AsyncIterator[None]:
    """Serve the process's own /healthz and /metrics on loopback; by its event loop, so a wedged one does not answer."""
    if port is None:
        yield
        return

    async def healthz(_request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def metrics(_request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(telemetry.REGISTRY), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.add_routes([web.get("/healthz", healthz), web.get("/metrics", metrics)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield
    finally:
        await runner.cleanup()


def _failed(name: str, group: BaseExceptionGroup[BaseException]) -> int:
    expected, bugs = group.split(_EXPECTED)
    for error in _leaves(expected):
        log.error("service_ended", reason=str(error))
    if bugs is not None:
        log.error("service_failed", exc_info=bugs)
    return 1


def _leaves(group: BaseExceptionGroup[BaseException] | None) -> list[BaseException]:
    if group is None:
        return []
    found: list[BaseException] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found
