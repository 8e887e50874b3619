"""Revoked tokens, sessions and API keys: written by auth to a NATS key-value bucket, followed by every gateway."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Final

import nats.errors
import nats.js.errors
from nats.aio.msg import Msg
from nats.js.api import KeyValueConfig
from nats.js.kv import KeyValue

from headrace import telemetry
from headrace.errors import UnavailableError
from headrace.messaging.connection import Bus
from headrace.tasks import end
from headrace.tokens import Principal

log = telemetry.logger(__name__)

_RELOAD_SECONDS: Final = 60.0
_RETRY_SECONDS: Final = 0.5
# Short, since an answer that was lost with a connection must not hold up the reading after the reconnect.
_READ_SECONDS: Final = 1.0
# Shorter than the deadline of a mesh request, so the caller hears why.
_WRITE_SECONDS: Final = 2.0


class Revocations:
    """What is revoked, in memory.

    Attributes:
        loaded: set once the whole bucket has been read; a gateway is not ready before.
        on_revoked: called in the event loop with each new name, such as `jti.<id>`.
    """

    def __init__(self) -> None:
        self.loaded = asyncio.Event()
        self.on_revoked: list[Callable[[str], None]] = []
        # About in order of time; the bucket forgets an entry after its ttl, and so does this.
        self._until: dict[str, float] = {}

    def is_revoked(self, principal: Principal) -> bool:
        return any(key in self._until for key in principal.revocation_keys)

    def add(self, key: str, until: float, now: float) -> None:
        """Hold a name until a time in seconds since the epoch, and drop those whose time is over."""
        while self._until and next(iter(self._until.values())) < now:
            del self._until[next(iter(self._until))]
        if key in self._until or until < now:
            return
        self._until[key] = until
        for listener in self.on_revoked:
            listener(key)


async def open_revocations(bus: Bus, namespace: str, ttl_seconds: int, replicas: int) -> KeyValue:
    """Return the bucket, made if it is not there.

    Args:
        ttl_seconds: how long an entry stays; longer than any token that it may speak of.

    Raises:
        UnavailableError: JetStream did not answer.
    """
    stream = bus.client.jetstream(timeout=_WRITE_SECONDS)
    config = KeyValueConfig(bucket=_bucket(namespace), ttl=ttl_seconds, history=1, replicas=replicas)
    try:
        try:
            return await stream.create_key_value(config)
        except nats.js.errors.BadRequestError:
            # It is there with another ttl or other replicas.
            info = await stream.stream_info(f"KV_{config.bucket}")
            await stream.update_stream(info.config.evolve(max_age=ttl_seconds, num_replicas=replicas))
            return await stream.key_value(config.bucket)
    except (nats.errors.Error, TimeoutError) as error:
        raise _away(error) from None


async def revoke(bucket: KeyValue, key: str) -> None:
    """Tell every gateway; returns when the name is on disk. A repeat changes nothing.

    Raises:
        UnavailableError: the outcome is unknown; try again.
    """
    try:
        await bucket.put(key, b"")
    except (nats.errors.Error, TimeoutError) as error:
        raise _away(error) from None


@contextlib.asynccontextmanager
async def watch_revocations(bus: Bus, namespace: str) -> AsyncIterator[Revocations]:
    """Follow the bucket while the body runs, through reconnects and restarts of the server.

    Does not wait for the bucket: `loaded` says when it has been read. While NATS is away,
    what is known stays in force.
    """
    revocations = Revocations()
    subject = f"$KV.{_bucket(namespace)}."
    # Until the bucket has told its own.
    ttl_seconds = 86400.0

    # What is put into the bucket passes by as an ordinary message, so news need no consumer that could
    # die in silence. What was missed is read again after each reconnect.
    async def hear(message: Msg) -> None:
        now = time.time()
        revocations.add(message.subject.removeprefix(subject), now + ttl_seconds, now)

    async def keep_loaded() -> None:
        nonlocal ttl_seconds
        while True:
            missed.clear()
            try:
                ttl_seconds = await _load(bus, namespace, revocations)
                revocations.loaded.set()
                wait_seconds = _RELOAD_SECONDS
            except nats.js.errors.NotFoundError:
                # The auth service makes it; until that has once been alive, no token could be verified anyway.
                wait_seconds = _RETRY_SECONDS
            except (nats.errors.Error, TimeoutError) as error:
                log.warning("revocations_unread", error=type(error).__name__)
                wait_seconds = _RETRY_SECONDS
            # Not wait_for, which in Python 3.11 loses a cancellation that comes together with the event.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_seconds):
                    await missed.wait()

    missed = asyncio.Event()
    bus.on_reconnect.append(missed.set)
    subscription = await bus.client.subscribe(f"{subject}>", cb=hear)
    loader = asyncio.create_task(keep_loaded())
    try:
        yield revocations
    finally:
        bus.on_reconnect.remove(missed.set)
        await end(loader)
        with contextlib.suppress(nats.errors.Error):
            await subscription.unsubscribe()


async def _load(bus: Bus, namespace: str, revocations: Revocations) -> float:
    """Read the whole bucket and return its ttl in seconds."""
    bucket = await bus.client.jetstream(timeout=_READ_SECONDS).key_value(_bucket(namespace))
    status = await bucket.status()
    ttl_seconds = status.ttl or 0.0
    # The end is told by an entry that leaves none pending. nats-py's own mark, None, may come before the first entry
    # where the server sends faster than the callback is run, and a gateway would then trust what is revoked.
    more = status.values > 0
    watcher = await bucket.watchall()
    try:
        while more:
            entry = await watcher.updates(timeout=_READ_SECONDS)  # type: ignore[no-untyped-call]
            if entry is not None:
                revocations.add(entry.key, entry.created.timestamp() + ttl_seconds, time.time())
                more = entry.delta > 0
    finally:
        with contextlib.suppress(nats.errors.Error):
            await watcher.stop()  # type: ignore[no-untyped-call]
    return ttl_seconds


def _bucket(namespace: str) -> str:
    return f"{namespace}revocations"


def _away(error: BaseException) -> UnavailableError:
    return UnavailableError(
        f"The list of revocations cannot be reached ({type(error).__name__}).",
        code="nats_unavailable",
        retry_after_seconds=2,
    )
