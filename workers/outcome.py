"""What a stage concludes: values, so that one place acts on them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from headrace.document import Envelope
from headrace.errors import RequestError
from headrace.pipeline import Pipeline
from headrace.settings import RetrySettings
from headrace.topology import MAX_RAW_BYTES

# Of one clean line: as much as RAW takes, so that a dead letter of it fits, too.
MAX_LINE_BYTES: Final = MAX_RAW_BYTES

UNKNOWN_PIPELINE: Final = "unknown_pipeline"


@dataclass(slots=True)
class Item:
    """One document in a stage's hands, and the raw block it came in."""

    envelope: Envelope
    block: str


@dataclass(frozen=True, slots=True)
class Forward:
    """Goes on: a line of the clean block."""

    line: bytes


@dataclass(frozen=True, slots=True)
class Stored:
    """Is in the store, now or since earlier."""


@dataclass(frozen=True, slots=True)
class Refused:
    """Cannot go on; becomes a dead letter."""

    error: RequestError


Verdict = Forward | Stored | Refused


class Stage(Protocol):
    """A function on documents of one pipeline; doing it again changes nothing."""

    @property
    def name(self) -> str: ...

    @property
    def store(self) -> str | None:
        """Return the store it writes, or None."""
        ...

    async def apply(self, pipeline: Pipeline, items: Sequence[Item]) -> Sequence[Verdict]:
        """Return one verdict for each item.

        Raises:
            DocumentError: some item cannot be processed, and which one is not known.
            UnavailableError: a server is away; the same again will do, later.
        """
        ...


def backoff(attempt: int, retry: RetrySettings, *, spread: float) -> float:
    """Return the wait before the next attempt, in seconds.

    Full jitter: `spread` of the way to min(ceiling, base * 2 ** (attempt - 1)).

    Args:
        attempt: attempts so far, 1 after the first.
        spread: 0.0 <= spread < 1.0; the caller draws it, so this stays pure.

    Raises:
        ValueError: attempt is below 1.
    """
    if attempt < 1:
        raise ValueError(f"attempt is {attempt}; it counts from 1")
    return min(retry.ceiling_seconds, retry.base_seconds * 2.0 ** min(attempt - 1, 30)) * max(spread, 0.1)
