"""Arrivals of the open model."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer.schedule import Rate, parse_rate, schedule


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("1000", Rate(1000, 1000)),
        ("0.5", Rate(0.5, 0.5)),
        ("100..1000", Rate(100, 1000)),
        ("0..10.5", Rate(0, 10.5)),
        (" 5 .. 7 ", Rate(5, 7)),
    ],
)
def test_a_rate_is_a_number_or_a_ramp(text: str, rate: Rate) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize("text", ["", "fast", "0", "10..", "..10", "-5", "10..0", "nan", "inf", "1e999", "1...5x"])
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no rate"):
        parse_rate(text)


def test_arrivals_at_a_constant_rate_are_evenly_spaced() -> None:
    plan = schedule(Rate(4, 4), requests=None, duration_seconds=2)

    assert [plan.due(number) for number in range(plan.requests)] == [0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75]


def test_a_ramp_sends_as_many_as_its_mean_rate_and_ever_faster() -> None:
    plan = schedule(Rate(10, 30), requests=None, duration_seconds=5)
    dues = [plan.due(number) for number in range(plan.requests)]
    gaps = [later - earlier for earlier, later in pairwise(dues)]

    assert plan.requests == 100
    assert dues[-1] < 5
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[0] == pytest.approx(1 / 10, rel=0.02)
    assert gaps[-1] == pytest.approx(1 / 30, rel=0.02)


def test_a_run_ends_with_whichever_limit_comes_first() -> None:
    assert schedule(Rate(10, 10), requests=5, duration_seconds=100).requests == 5
    assert schedule(Rate(10, 10), requests=5000, duration_seconds=1).requests == 10
    assert schedule(Rate(10, 10), requests=50, duration_seconds=None).duration_seconds == 5
    with pytest.raises(ValueError, match="duration"):
        schedule(Rate(10, 10), requests=None, duration_seconds=None)


@given(start=st.floats(0, 1e4), end=st.floats(1, 1e4), duration=st.floats(0.1, 1000))
def test_every_arrival_is_due_within_the_run_and_in_order(start: float, end: float, duration: float) -> None:
    plan = schedule(Rate(start, end), requests=None, duration_seconds=duration)
    numbers = sorted({0, plan.requests // 3, plan.requests // 2, plan.requests - 1})
    dues = [plan.due(number) for number in numbers]

    assert dues == sorted(dues)
    assert dues[0] == 0
    assert dues[-1] <= duration * (1 + 1e-9)
