"""Answers larger than one message of the bus: the first part is the reply, and names where the rest is asked for."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from headrace.document import new_id
from headrace.errors import UnavailableError

# Holds the subject of the rest and the size of the whole.
REST_HEADER: Final = "Headrace-Rest"

_KEPT_SECONDS = 10.0
_KEPT_BYTES = 256 << 20
# Headers count against a message's limit too.
_HEADERS_BYTES = 16 << 10


class Parts:
    """What an instance of a service has still to give; use `serve_parts`."""

    def __init__(self, client: Client, subject: str) -> None:
        self._client = client
        self._subject = subject
        self._bodies: dict[str, bytes] = {}

    def first(self, body: bytes) -> tuple[bytes, dict[str, str]]:
        """Return what fits into one message, and the header that leads to the rest.

        Raises:
            UnavailableError: too much is waiting to be fetched already.
        """
        size = self._client.max_payload - _HEADERS_BYTES
        if len(body) <= size:
            return body, {}
        if len(body) + sum(map(len, self._bodies.values())) > _KEPT_BYTES:
            raise UnavailableError("Too many large answers are under way.", code="overloaded", retry_after_seconds=1)
        token = new_id()
        self._bodies[token] = body
        asyncio.get_running_loop().call_later(_KEPT_SECONDS, self._bodies.pop, token, None)
        return body[:size], {REST_HEADER: f"{self._subject}.{token} {len(body)}"}

    async def give(self, message: Msg) -> None:
        """Answer with the part that starts at the offset asked for; with nothing where it is no longer kept."""
        token = message.subject.rpartition(".")[2]
        body = self._bodies.get(token, b"")
        start = int(message.data) if message.data.isdigit() else len(body)
        end = start + self._client.max_payload - _HEADERS_BYTES
        if end >= len(body):
            self._bodies.pop(token, None)
        with contextlib.suppress(nats.errors.Error):
            await message.respond(body[start:end])


@contextlib.asynccontextmanager
async def serve_parts(client: Client, subject: str) -> AsyncIterator[Parts]:
    """Give parts on subjects below `subject` while the body runs."""
    parts = Parts(client, subject)
    subscription = await client.subscribe(f"{subject}.*", cb=parts.give)
    try:
        yield parts
    finally:
        with contextlib.suppress(nats.errors.Error):
            await subscription.unsubscribe()


async def whole(client: Client, reply: Msg, timeout_seconds: float) -> bytes:
    """Return the body that a reply is the first part of.

    Raises:
        TimeoutError, nats.errors.Error: the rest did not come.
    """
    rest = (reply.headers or {}).get(REST_HEADER)
    if rest is None:
        return reply.data
    subject, _, size = rest.partition(" ")
    body = bytearray(reply.data)
    async with asyncio.timeout(timeout_seconds):
        while len(body) < int(size):
            part = (await client.request(subject, b"%d" % len(body), timeout=timeout_seconds)).data
            if not part:
                raise TimeoutError
            body += part
    return bytes(body)
