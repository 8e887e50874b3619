"""A process that says whether the pipelines' files would start: they load, and break no schema that is registered."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Iterable

from headrace.errors import HeadraceError, UnavailableError
from headrace.messaging.connection import BusLostError, connect
from headrace.messaging.schemas import SchemaChangeError, check
from headrace.pipeline import Pipeline
from headrace.registry import load_pipelines
from headrace.settings import Settings

# A registry that does not answer keeps nobody from starting; the start itself will wait for it.
_WAIT_SECONDS = 10


def main() -> int:
    """Return 0, or 1 with the reason in one line on stderr."""
    settings = Settings()
    try:
        asyncio.run(_check(settings, load_pipelines(settings.pipelines).values()))
    except HeadraceError as error:
        sys.stderr.write(" ".join(str(error).split()) + "\n")
        return 1
    return 0


async def _check(settings: Settings, pipelines: Iterable[Pipeline]) -> None:
    refused: SchemaChangeError | None = None
    with contextlib.suppress(UnavailableError, TimeoutError, BusLostError, OSError):
        async with asyncio.timeout(_WAIT_SECONDS), connect(settings, "headrace-check") as bus:
            # Kept, since what leaves a connection leaves it in a group.
            try:
                await check(bus, settings, pipelines)
            except SchemaChangeError as error:
                refused = error
    if refused:
        raise refused


if __name__ == "__main__":
    sys.exit(main())
