"""What a stream still holds, read without a consumer (direct get, NATS ADR-31)."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import nats.errors
from nats.aio.msg import Msg

from headrace.document import parse_time, rfc3339
from headrace.errors import UnavailableError
from headrace.messaging.connection import Bus

_BATCH_MESSAGES: Final = 1000
_BATCH_BYTES: Final = 4 << 20
_SILENCE_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Retained:
    """A message as a stream holds it."""

    subject: str
    data: bytes
    headers: Mapping[str, str]

    @property
    def sequence(self) -> int:
        return int(self.headers["Nats-Sequence"])

    @property
    def stored_at(self) -> str:
        """Return when it was stored, as a consumer's delivery would tell it, RFC 3339."""
        return _stored_at(self.headers["Nats-Time-Stamp"])


async def retained(
    bus: Bus, stream: str, *, subject: str | None = None, first: int = 1, since: datetime | None = None
) -> AsyncGenerator[Retained, None]:
    """Yield each message, oldest first; what comes while it is read may be among them.

    Args:
        subject: only those under it.
        first: the sequence to begin at.
        since: the time to begin at, instead.

    Raises:
        UnavailableError: the stream is not there, or cannot be read to its end.
    """
    asked: dict[str, Any] = {"batch": _BATCH_MESSAGES, "max_bytes": _BATCH_BYTES}
    if subject is not None:
        asked["next_by_subj"] = subject
    arrived: asyncio.Queue[Msg] = asyncio.Queue()
    inbox = bus.client.new_inbox()
    subscription = await bus.client.subscribe(inbox, cb=arrived.put)
    try:
        start: dict[str, Any] = {"seq": first} if since is None else {"start_time": rfc3339(since)}
        while True:
            await bus.client.publish(
                f"$JS.API.DIRECT.GET.{stream}", json.dumps({**asked, **start}).encode(), reply=inbox
            )
            while True:
                async with asyncio.timeout(_SILENCE_SECONDS):
                    message = await arrived.get()
                headers = message.headers or {}
                if "Status" in headers:
                    break
                yield Retained(headers.get("Nats-Subject", ""), message.data, headers)
            after = _last(headers, stream)
            if after is None:
                return
            start = {"seq": after + 1}
    except (nats.errors.Error, TimeoutError) as error:
        raise _unreadable(stream, type(error).__name__) from None
    finally:
        with contextlib.suppress(nats.errors.Error):
            await subscription.unsubscribe()


async def next_retained(bus: Bus, stream: str, sequence: int) -> Retained | None:
    """Return the first message of a stream from a sequence on; None where there is none.

    Raises:
        UnavailableError: the stream is not there, or cannot be read.
    """
    request = json.dumps({"seq": sequence, "next_by_subj": ">"}).encode()
    try:
        message = await bus.client.request(f"$JS.API.DIRECT.GET.{stream}", request, timeout=_SILENCE_SECONDS)
    except (nats.errors.Error, TimeoutError) as error:
        raise _unreadable(stream, type(error).__name__) from None
    headers = message.headers or {}
    match headers.get("Status"):
        case None:
            return Retained(headers.get("Nats-Subject", ""), message.data, headers)
        case "404":
            return None
        case status:
            raise _unreadable(stream, status)


def _last(headers: Mapping[str, str], stream: str) -> int | None:
    """Return the sequence that a batch ended at, or None where it was the last."""
    match headers["Status"]:
        case "404":
            return None
        case "204":
            return int(headers["Nats-Last-Sequence"]) if headers.get("Nats-Num-Pending", "0") != "0" else None
    raise _unreadable(stream, headers.get("Description", headers["Status"]))


def _stored_at(text: str) -> str:
    """Return a time of the server's, that has nanoseconds, as nats-py's deliveries have it, to the last digit."""
    whole, _, fraction = text.removesuffix("Z").partition(".")
    seconds = int(parse_time(f"{whole}Z").timestamp())
    nanoseconds = seconds * 1_000_000_000 + int(fraction.ljust(9, "0") or 0)
    return rfc3339(datetime.fromtimestamp(nanoseconds / 1_000_000_000.0, UTC))


def _unreadable(stream: str, why: str) -> UnavailableError:
    return UnavailableError(f"The stream {stream} cannot be read to its end ({why}).", code="jetstream_unavailable")
