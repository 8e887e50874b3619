"""The four servers by the setting that each one stands for."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Final

from embedded import mongo, nats, postgres, valkey
from embedded.program import Server
from embedded.state import State
from headrace import telemetry
from headrace.settings import StreamSettings

log = telemetry.logger(__name__)

# Setting to the server's own name, which its folder, its log and its process go by.
SERVERS: Final[Mapping[str, str]] = MappingProxyType(
    {"nats_url": "nats", "mongo_url": "mongo", "postgres_url": "postgres", "redis_url": "valkey"}
)
# Room for key-value buckets and consumers besides the streams.
_SPARE_BYTES: Final = 1 << 30


async def prepare(
    state: State, streams: StreamSettings, wanted: Collection[str], namespace: str = ""
) -> dict[str, Server]:
    """Make ready the servers that stand for the settings `wanted`; return them by setting, none running yet.

    Raises:
        EmbeddedError: one is not installed or cannot be made ready.
    """
    streams_bytes = streams.raw_max_bytes + streams.clean_max_bytes + streams.dead_max_bytes + _SPARE_BYTES
    makers = {
        "nats_url": lambda: nats.prepare(state, max_file_store_bytes=streams_bytes, namespace=namespace),
        "mongo_url": lambda: mongo.prepare(state),
        "postgres_url": lambda: postgres.prepare(state),
        "redis_url": lambda: valkey.prepare(state),
    }
    free_bytes = shutil.disk_usage(state.directory).free
    if "nats_url" in wanted and free_bytes < streams_bytes:
        log.warning("disk_small", free_bytes=free_bytes, streams_may_take_bytes=streams_bytes)
    chosen = [setting for setting in SERVERS if setting in wanted]
    servers = await asyncio.gather(*(makers[setting]() for setting in chosen))
    return dict(zip(chosen, servers, strict=True))
