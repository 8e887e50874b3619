"""Answers kept for a while; those of a pipeline are dropped as soon as something new is stored for it.

Requests that ask for the same at the same time share one computation, so many dashboards cost the
stores as much as one.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar


class Encoded(Protocol):
    """What can be kept: its size is that of its body."""

    @property
    def body(self) -> bytes: ...


Answer = TypeVar("Answer", bound=Encoded)

_MOST_ENTRIES = 128
_MOST_BYTES = 64 << 20


@dataclass(slots=True)
class _Entry(Generic[Answer]):
    generation: int
    made_at: float
    task: asyncio.Future[Answer]


class Cache(Generic[Answer]):
    """Args:
    seconds: how long an answer may be given without asking the stores, unless the question says.
    clock: seconds that never go back.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._entries: OrderedDict[tuple[str, Hashable], _Entry[Answer]] = OrderedDict()
        self._generations: Counter[str] = Counter()

    def drop(self, pipeline: str) -> None:
        """Forget a pipeline's answers, those too that are being computed now."""
        self._generations[pipeline] += 1

    def drop_all(self) -> None:
        """Forget every answer, as where news may have been missed."""
        for pipeline in {pipeline for pipeline, _ in self._entries}:
            self.drop(pipeline)

    async def get(
        self,
        pipeline: str,
        question: Hashable,
        make: Callable[[], Awaitable[Answer]],
        *,
        seconds: float | None = None,
    ) -> Answer:
        """Return the answer to a question, by asking `make` where none is known that still holds.

        Raises:
            what `make` raises; a failure is not kept.
        """
        entry = self._entries.get((pipeline, question))
        if entry is None or not self._holds(pipeline, entry, self._seconds if seconds is None else seconds):
            task = asyncio.ensure_future(make())
            # Whoever asked may be gone by the time it fails.
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
            entry = _Entry(self._generations[pipeline], self._clock(), task)
            self._entries[pipeline, question] = entry
        self._entries.move_to_end((pipeline, question))
        try:
            # Others wait for it too, so it outlives the one that asked first.
            return await asyncio.shield(entry.task)
        finally:
            self._shrink()

    def _holds(self, pipeline: str, entry: _Entry[Answer], seconds: float) -> bool:
        if entry.generation != self._generations[pipeline]:
            return False
        if not entry.task.done():
            return True
        failed = entry.task.cancelled() or entry.task.exception() is not None
        return not failed and self._clock() - entry.made_at < seconds

    def _shrink(self) -> None:
        while len(self._entries) > _MOST_ENTRIES or (len(self._entries) > 1 and self._bytes() > _MOST_BYTES):
            self._entries.popitem(last=False)

    def _bytes(self) -> int:
        return sum(
            len(entry.task.result().body)
            for entry in self._entries.values()
            if entry.task.done() and not entry.task.cancelled() and entry.task.exception() is None
        )
