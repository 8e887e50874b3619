"""How often and when a chunk is sent again that could not be accepted now."""

from __future__ import annotations

import random
from typing import Final

MOST_ATTEMPTS: Final = 10
_FIRST_SECONDS: Final = 0.25
_MOST_SECONDS: Final = 30.0
_MOST_ASKED_SECONDS: Final = 120.0


def wait_seconds(attempt: int, asked_seconds: float | None = None) -> float:
    """Return how long to wait after an attempt that failed, 1 the first: what was asked for, else a growing time."""
    if asked_seconds is not None:
        return min(asked_seconds, _MOST_ASKED_SECONDS) + random.random() * _FIRST_SECONDS
    return min(_FIRST_SECONDS * 2.0**attempt, _MOST_SECONDS) * random.random()
