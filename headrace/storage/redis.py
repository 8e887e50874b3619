"""Redis or Valkey: a projection of the rollups. Absolute values with a version guard; nothing increments here."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, cast

import msgspec
import redis.asyncio
import redis.exceptions
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from headrace.document import new_id
from headrace.errors import UnavailableError

# A repeat or a late write changes nothing: a field is written only when its version is newer.
_PROJECT = """
local changed = 0
for i = 1, #ARGV, 3 do
  local old = redis.call('HGET', KEYS[1], ARGV[i])
  if not old or tonumber(string.match(old, '^%d+')) < tonumber(ARGV[i + 1]) then
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1] .. ' ' .. ARGV[i + 2])
    changed = changed + 1
  end
end
return changed
"""
# A hash without fields is no key at all, and cannot be renamed.
_REPLACE = """
if redis.call('EXISTS', KEYS[2]) == 1 then return redis.call('RENAME', KEYS[2], KEYS[1]) end
return redis.call('DEL', KEYS[1])
"""
_FIELDS_PER_CALL = 1000


class _Value(msgspec.Struct, array_like=True):
    count: int
    value: str | None
    at: str | None
    data: msgspec.Raw


_decode = msgspec.json.Decoder(_Value).decode


@dataclass(frozen=True, slots=True)
class Projected:
    """One (metric, key, bucket) with its value after a commit.

    Attributes:
        bucket: seconds since 1970; 0 where the metric has no buckets.
        data: JSON text.
    """

    metric: str
    key: str
    bucket: int
    count: int
    value: Decimal | None
    at: datetime | None
    data: str | None
    version: int


class Projection:
    """Use `open_projection`."""

    def __init__(self, client: redis.asyncio.Redis, namespace: str) -> None:
        self._client = client
        self._namespace = namespace

    async def project(self, pipeline: str, rows: Sequence[Projected]) -> None:
        """Write rows where they are newer than what is there.

        Raises:
            UnavailableError: Redis is away.
        """
        by_metric: dict[str, list[Projected]] = {}
        for row in rows:
            by_metric.setdefault(row.metric, []).append(row)
        async with _translated(), self._client.pipeline(transaction=False) as batch:
            for metric, of_metric in by_metric.items():
                for start in range(0, len(of_metric), _FIELDS_PER_CALL):
                    arguments: list[str | bytes | int] = []
                    for row in of_metric[start : start + _FIELDS_PER_CALL]:
                        arguments += (f"{row.bucket}{row.key}", row.version, _encoded(row))
                    batch.eval(_PROJECT, 1, self._key(pipeline, metric), *arguments)
            await batch.execute()

    async def read(self, pipeline: str, metric: str) -> list[Projected]:
        """Return every row of a metric.

        Raises:
            UnavailableError: Redis is away.
        """
        async with _translated():
            found = cast(dict[bytes, bytes], await self._client.hgetall(self._key(pipeline, metric)))
        return [_decoded(metric, field, text) for field, text in found.items()]

    async def row(self, pipeline: str, metric: str, key: str) -> Projected | None:
        """Return the row of a key, of a metric without buckets.

        Raises:
            UnavailableError: Redis is away.
        """
        field = f"0{key}".encode()
        async with _translated():
            found = cast(bytes | None, await self._client.hget(self._key(pipeline, metric), field))
        return None if found is None else _decoded(metric, field, found)

    async def size(self, pipeline: str, metric: str) -> int:
        """Return how many rows a metric has."""
        async with _translated():
            return int(await self._client.hlen(self._key(pipeline, metric)))

    async def clear(self, pipeline: str, metrics: Sequence[str]) -> None:
        async with _translated():
            if metrics:
                await self._client.delete(*(self._key(pipeline, metric) for metric in metrics))

    def shadow(self) -> Projection:
        """Return a projection beside this one, that nobody reads; `replace_by` makes it this one."""
        # No pipeline's name has a colon, so that no key of a pipeline is like these.
        return Projection(self._client, f"{self._namespace}shadow:")

    async def replace_by(self, shadow: Projection, pipeline: str, metrics: Sequence[str]) -> None:
        """Put a shadow's rows of a pipeline in the place of this one's, each metric at one moment.

        Raises:
            UnavailableError: Redis is away; it was done or not.
        """
        for metric in metrics:
            live, other = self._key(pipeline, metric), shadow._key(pipeline, metric)
            async with _translated():
                await self._client.eval(_REPLACE, 2, live, other)

    async def run_id(self) -> str:
        """Return an id of this run of the server and of its data; another may have lost its last writes, or all."""
        mark = f"headrace:{self._namespace}:mark"
        async with _translated():
            run = (await self._client.info("server"))["run_id"]
            await self._client.set(mark, new_id(), nx=True)
            marked = cast(bytes, await self._client.get(mark) or b"")
        return f"{run} {marked.decode()}"

    async def ping(self) -> None:
        async with _translated():
            await self._client.ping()

    def _key(self, pipeline: str, metric: str) -> str:
        return f"headrace:{self._namespace}{pipeline}:{metric}"


@contextlib.asynccontextmanager
async def open_projection(url: str, namespace: str, timeout_seconds: float) -> AsyncIterator[Projection]:
    client = redis.asyncio.from_url(
        url,
        socket_timeout=timeout_seconds,
        socket_connect_timeout=min(timeout_seconds, 3),
        # redis-py tries ten times by default; we decide ourselves.
        retry=Retry(NoBackoff(), 0),
        health_check_interval=15,
    )
    try:
        yield Projection(client, namespace)
    finally:
        await client.aclose()


@contextlib.asynccontextmanager
async def _translated() -> AsyncIterator[None]:
    try:
        yield
    except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError, OSError, TimeoutError) as error:
        raise UnavailableError(
            f"Redis is away ({type(error).__name__}).", code="redis_unavailable", retry_after_seconds=2
        ) from error
    except RuntimeError as error:
        # What uvloop raises where a connection was reset since it was last used.
        raise UnavailableError(
            "Redis is away (its connection is closed).", code="redis_unavailable", retry_after_seconds=2
        ) from error
    except redis.exceptions.ResponseError as error:
        # Loading its data, out of memory, read-only: they heal with time or a hand on Redis, never by dropping work.
        raise UnavailableError(f"Redis refuses: {error}.", code="redis_unavailable", retry_after_seconds=5) from error


def _encoded(row: Projected) -> bytes:
    return msgspec.json.encode(
        _Value(
            row.count,
            None if row.value is None else str(row.value),
            None if row.at is None else row.at.isoformat(),
            msgspec.Raw(b"null" if row.data is None else row.data.encode()),
        )
    )


def _decoded(metric: str, field: bytes, text: bytes) -> Projected:
    version, _, body = text.partition(b" ")
    bucket, bracket, key = field.decode().partition("[")
    value = _decode(body)
    return Projected(
        metric,
        bracket + key,
        int(bucket),
        value.count,
        None if value.value is None else Decimal(value.value),
        None if value.at is None else datetime.fromisoformat(value.at),
        None if bytes(value.data) == b"null" else bytes(value.data).decode(),
        int(version),
    )


def as_json(value: Decimal) -> Any:
    """Return an exact decimal as the JSON number nearest to it, whole numbers as integers."""
    return int(value) if value == value.to_integral_value() else float(value)
