"""Thresholds: the grammar, and what a run must reach."""

from __future__ import annotations

import pytest

from producer.latency import Histogram
from producer.thresholds import Measured, parse_threshold, verdict


def measured(**numbers: float | None) -> Measured:
    histogram = Histogram()
    for milliseconds in range(1, 101):
        histogram.record(milliseconds / 1000)
    return Measured({"sent": 1000, "accepted": 990, "lost": 0, "rate": 500.0, **numbers}, {"accept": histogram})


@pytest.mark.parametrize(
    ("text", "passed"),
    [
        ("lost==0", True),
        ("lost != 0", False),
        ("accepted>=990", True),
        ("accepted > 990", False),
        ("rate>499.9", True),
        ("accept.p99<=99.1ms", True),
        ("accept.p99<99ms", False),
        ("accept.p50<50100us", True),
        ("accept.p99.9<0.2s", True),
        ("accept.p99<0.2", True),
        ("accept.max>=100ms", True),
        ("accept.min<2ms", True),
        ("accept.mean<60ms", True),
        ("accepted>=99%", True),
        ("accepted>99%", False),
    ],
)
def test_a_threshold_is_reached_or_missed(text: str, passed: bool) -> None:
    assert verdict(parse_threshold(text), measured()).passed is passed


@pytest.mark.parametrize("text", ["lost==0", "e2e.p99<1s", "stored>1%"])
def test_what_was_not_measured_is_missed(text: str) -> None:
    one = verdict(parse_threshold(text), measured(lost=None, stored=None))

    assert one.value is None
    assert not one.passed


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("", "write metric"),
        ("accept.p99", "write metric"),
        ("accept.p99<", "write metric"),
        ("accept.p99=5ms", "write metric"),
        ("lost==-1", "write metric"),
        ("speed>5", "no metric 'speed'"),
        ("accept<5ms", "needs a statistic"),
        ("accept.p101<5ms", "needs a statistic"),
        ("accept.median<5ms", "needs a statistic"),
        ("accept.p99<5parsec", "us, ms or s"),
        ("accept.p99<5%", "us, ms or s"),
        ("lost.p99==0", "no statistics"),
        ("lost==0ms", "no unit"),
        ("rate>5%", "no unit"),
        ("lost==0; rm -rf", "write metric"),
    ],
)
def test_what_is_no_threshold_is_refused_with_a_hint(text: str, hint: str) -> None:
    with pytest.raises(ValueError, match=hint):
        parse_threshold(text)
