"""When a stage has nothing left: its consumer's backlog, sampled."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from bench.peer.messages import DURABLE, STREAM
from bench.stack import BenchError
from headrace.topology import STAGES

_SAMPLE_SECONDS: Final = 0.05
_PATIENCE_SECONDS: Final = 600.0
_START_SECONDS: Final = 30.0


@dataclass(frozen=True)
class Stage:
    """A consumer; `feeds` says that others of the list get from it what they work on."""

    name: str
    stream: str
    feeds: bool = False


OURS: Final = (
    Stage("refine", STAGES["refine"].stream, feeds=True),
    *(Stage(name, STAGES[name].stream) for name in ("facts", "documents")),
)
THEIRS: Final = (Stage(DURABLE, STREAM),)


async def at_work(js: JetStreamContext, stages: Sequence[Stage]) -> None:
    """Return when somebody pulls from each stage.

    Raises:
        BenchError: nobody does.
    """
    deadline = time.monotonic() + _START_SECONDS
    for stage in stages:
        while not await _is_pulled(js, stage):
            if time.monotonic() > deadline:
                raise BenchError(f"nobody pulls from stage {stage.name}")
            await asyncio.sleep(_SAMPLE_SECONDS)


async def settled(js: JetStreamContext, stages: Sequence[Stage]) -> dict[str, float]:
    """Return when each stage had settled all there is, in `time.monotonic()`; nothing is sent any more.

    Raises:
        BenchError: it took ten minutes.
    """
    times: dict[str, float] = {}
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while len(times) < len(stages):
        for stage in stages:
            if stage.name not in times:
                if await _is_idle(js, stage):
                    times[stage.name] = time.monotonic()
                elif stage.feeds:
                    # Those after it may look idle only since nothing has come yet.
                    break
        if time.monotonic() > deadline:
            late = [stage.name for stage in stages if stage.name not in times]
            raise BenchError(f"not settled after {_PATIENCE_SECONDS:g} s: {', '.join(late)}")
        await asyncio.sleep(_SAMPLE_SECONDS)
    return times


async def _is_idle(js: JetStreamContext, stage: Stage) -> bool:
    info = await js.consumer_info(stage.stream, stage.name)
    return not info.num_pending and not info.num_ack_pending


async def _is_pulled(js: JetStreamContext, stage: Stage) -> bool:
    try:
        return bool((await js.consumer_info(stage.stream, stage.name)).num_waiting)
    except NotFoundError:
        return False
