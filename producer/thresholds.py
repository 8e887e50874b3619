"""Thresholds: what a run must reach to pass, as text: `accept.p99<50ms`, `lost==0`, `refused<=1%`, `rate>1000`. Pure.

threshold = metric operator number unit?
metric    = latency "." statistic | count | rate
latency   = accept | service | e2e | behind | refuse | fail
statistic = min | mean | max | p0 … p100, as in p99.9
count     = sent | accepted | stored | refused | failed | unknown | dead | in_flight | lost | duplicated
rate      = rate (documents accepted a second) | requests_rate (requests a second)
operator  = < | <= | > | >= | == | !=
unit      = us | ms | s (latencies; s is the default) | % (counts, of the documents sent)
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from producer.latency import Histogram
from producer.tally import LATENCIES

COUNTS: Final = (
    "sent",
    "accepted",
    "stored",
    "refused",
    "failed",
    "unknown",
    "dead",
    "in_flight",
    "lost",
    "duplicated",
)
RATES: Final = ("rate", "requests_rate", "stored_rate")

_EXPRESSION = re.compile(
    r"^\s*([a-z0-9_]+)(?:\.([a-z0-9.]+))?\s*(<=|>=|==|!=|<|>)\s*([0-9]+(?:\.[0-9]+)?)\s*([a-z%]*)\s*$"
)
_COMPARE: Final[Mapping[str, Callable[[float, float], bool]]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}
_SECONDS: Final = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "": 1.0}


class Threshold(msgspec.Struct, frozen=True):
    """One parsed threshold; `limit` is in seconds for latencies and a fraction for percentages."""

    text: str
    metric: str
    statistic: str
    compare: str
    limit: float
    percent: bool


class Verdict(msgspec.Struct, frozen=True):
    """A threshold and whether the run reached it; `value` is None where the run did not measure it, which fails."""

    text: str
    value: float | None
    passed: bool


class Measured(msgspec.Struct, frozen=True):
    """What thresholds look at; a count or rate that is not known is None."""

    numbers: Mapping[str, float | None]
    latencies: Mapping[str, Histogram]


def parse_threshold(text: str) -> Threshold:
    """Return the threshold a text stands for.

    Raises:
        ValueError: it is none; the message says what is wrong and what would be right.
    """
    match = _EXPRESSION.match(text)
    if not match:
        raise ValueError(f"threshold {text!r}: write metric, operator and number, such as accept.p99<50ms or lost==0")
    metric, statistic, compare, number, unit = match.groups()
    if metric in LATENCIES:
        if not statistic or not _is_statistic(statistic):
            raise ValueError(
                f"threshold {text!r}: {metric} needs a statistic: {metric}.p99, .p99.9, .mean, .min or .max"
            )
        if unit not in _SECONDS:
            raise ValueError(f"threshold {text!r}: a latency is in us, ms or s, not {unit!r}")
        limit = float(number) * _SECONDS[unit]
    elif metric in COUNTS or metric in RATES:
        if statistic:
            raise ValueError(f"threshold {text!r}: {metric} has no statistics")
        if unit not in ("", "%") or (unit and metric in RATES):
            raise ValueError(f"threshold {text!r}: {metric} takes no unit {unit!r}")
        limit = float(number) / (100 if unit else 1)
    else:
        known = ", ".join((*COUNTS, *RATES, *LATENCIES))
        raise ValueError(f"threshold {text!r}: there is no metric {metric!r}; there are {known}")
    return Threshold(text.strip(), metric, statistic or "", compare, limit, unit == "%")


def _is_statistic(name: str) -> bool:
    if name in ("min", "mean", "max"):
        return True
    try:
        return name[0] == "p" and 0 <= float(name[1:]) <= 100
    except ValueError:
        return False


def verdict(threshold: Threshold, measured: Measured) -> Verdict:
    """Return whether the run reached the threshold."""
    value = _value(threshold, measured)
    # A latency is compared in whole microseconds, as it was recorded: 50 ms is not below 50 ms by a rounding error.
    digits = 6 if threshold.metric in LATENCIES else 12
    passed = value is not None and _COMPARE[threshold.compare](round(value, digits), round(threshold.limit, digits))
    return Verdict(threshold.text, value, passed)


def _value(threshold: Threshold, measured: Measured) -> float | None:
    if threshold.metric not in LATENCIES:
        number = measured.numbers.get(threshold.metric)
        sent = measured.numbers.get("sent")
        if not threshold.percent or number is None:
            return number
        return number / sent if sent else None
    histogram = measured.latencies.get(threshold.metric)
    if histogram is None or not histogram.count:
        return None
    match threshold.statistic:
        case "mean":
            return histogram.mean
        case "min":
            return histogram.lowest
        case "max":
            return histogram.highest
        case percentile:
            return histogram.at(float(percentile[1:]))
