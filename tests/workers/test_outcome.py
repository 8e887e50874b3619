"""How long to wait before the next attempt."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.settings import RetrySettings
from workers.outcome import backoff

RETRY = RetrySettings(base_seconds=0.5, ceiling_seconds=30)


@pytest.mark.parametrize(
    ("attempt", "spread", "seconds"),
    [(1, 0.999, 0.4995), (1, 0.5, 0.25), (2, 0.5, 0.5), (4, 0.5, 2), (7, 0.5, 15), (10**9, 0.5, 15), (1, 0, 0.05)],
)
def test_the_wait_doubles_up_to_the_ceiling(attempt: int, spread: float, seconds: float) -> None:
    assert backoff(attempt, RETRY, spread=spread) == pytest.approx(seconds)


@given(st.integers(1, 10**6), st.floats(0, 1, exclude_max=True))
def test_a_wait_is_never_nothing_and_never_beyond_the_ceiling(attempt: int, spread: float) -> None:
    assert 0 < backoff(attempt, RETRY, spread=spread) <= RETRY.ceiling_seconds


@pytest.mark.parametrize("attempt", [0, -1])
def test_attempts_count_from_one(attempt: int) -> None:
    with pytest.raises(ValueError, match="it counts from 1"):
        backoff(attempt, RETRY, spread=0.5)
