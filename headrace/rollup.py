"""Live metrics as arithmetic: documents to rows, pure.

A row is one (metric, key, bucket). Rows of different blocks add up in Postgres, in any order, to what
one pass over all documents would give; that is what makes the counts exact under repetition and disorder.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Context, Decimal, Inexact, InvalidOperation, Overflow
from typing import Any, Final

from headrace.document import json_text, parse_time
from headrace.pipeline import Latest, Metric, Path, Pipeline

# The bucket of metrics that have none.
NO_BUCKET: Final = datetime(1970, 1, 1, tzinfo=UTC)

RowKey = tuple[str, str, datetime]

# More digits than any sum of doubles or 128-bit decimals has. What has still more is refused, never rounded: for
# Postgres to add up, or to refuse by itself.
_EXACT: Final = Context(prec=2000, traps=[Inexact, InvalidOperation, Overflow])


@dataclass(slots=True)
class Row:
    """What a set of documents adds to one (metric, key, bucket).

    Attributes:
        key: JSON array of the key's values, as text.
        value: exact sum, minimum or maximum; None where the metric only counts.
        at, data: event time and picked fields of the newest document, for Latest.
    """

    metric: str
    kind: str
    key: str
    bucket: datetime
    count: int = 0
    value: Decimal | None = None
    at: datetime | None = None
    data: str | None = None


_REMEMBERED: Final = 10_000

Getter = Callable[[Mapping[str, Any]], list[Any]]


class Aggregator:
    """Compiled once per pipeline; `rows` is called for every block."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._metrics = [_Compiled(metric) for metric in pipeline.metrics if not metric.by_query]

    def rows(self, documents: Iterable[tuple[Mapping[str, Any], datetime]]) -> dict[RowKey, Row]:
        """Return what these documents add, ordered so that concurrent transactions lock alike.

        Args:
            documents: the stored form in JSON types, and when each was accepted.
        """
        at_hand = list(documents)
        rows: dict[RowKey, Row] = {}
        for metric in self._metrics:
            metric.add(rows, at_hand)
        return dict(sorted(rows.items()))


class _Compiled:
    def __init__(self, metric: Metric) -> None:
        self.metric = metric
        self.name, self.kind = metric.name, metric.kind
        self.keys = [_getter(path) for path in metric.key_paths]
        self.value = _getter(metric.value_path) if metric.value_path else None
        self.time = _getter(metric.time_path) if metric.time_path else None
        self.every = metric.every_seconds
        self.texts: dict[tuple[str | None, ...], str] = {}
        self.buckets: dict[datetime, datetime] = {}

    def add(self, rows: dict[RowKey, Row], documents: Sequence[tuple[Mapping[str, Any], datetime]]) -> None:
        for document, received_at in documents:
            value = None
            if self.value is not None:
                found = self.value(document)[0]
                if found is not None:
                    value = Decimal(str(found))
                    # As text a decimal can be NaN, which would spoil the total for good.
                    if not value.is_finite():
                        raise ValueError(f"{self.name} cannot count {value}")
                elif self.kind != "trend":
                    continue
            at = received_at
            if self.time is not None:
                text = self.time(document)[0]
                if text is None:
                    continue
                at = moment(text)
            bucket = NO_BUCKET if self.every is None else self._bucket(at, self.every)
            for key in self._keys_of(document):
                place = (self.name, key, bucket)
                row = rows.get(place)
                if row is None:
                    row = rows[place] = Row(self.name, self.kind, key, bucket)
                row.count += 1
                if value is not None:
                    row.value = value if row.value is None else _merged(self.kind, row.value, value)
                if isinstance(self.metric, Latest):
                    data = json_text(_picked(document, self.metric.of)).decode()
                    if row.at is None or row.data is None or (at, data) > (row.at, row.data):
                        row.at, row.data = at, data

    def _keys_of(self, document: Mapping[str, Any]) -> list[str]:
        match self.keys:
            case []:
                return ["[]"]
            case [only]:
                return [self._text((value,)) for value in only(document)]
        values = [getter(document) for getter in self.keys]
        return [self._text(combination) for combination in itertools.product(*values)]

    # The same few keys and times come again and again. Bounded, since user ids may not.

    def _text(self, values: tuple[Any, ...]) -> str:
        # As text first: True, 1 and 1.0 would be one key to a dict, and a list none at all.
        key = tuple(value if value is None else _scalar(value) for value in values)
        text = self.texts.get(key)
        if text is None:
            if len(self.texts) >= _REMEMBERED:
                self.texts.clear()
            text = self.texts[key] = json_text(key).decode()
        return text

    def _bucket(self, at: datetime, every_seconds: int) -> datetime:
        bucket = self.buckets.get(at)
        if bucket is None:
            if len(self.buckets) >= _REMEMBERED:
                self.buckets.clear()
            bucket = self.buckets[at] = _floor(at, every_seconds)
        return bucket


def merged(one: Row, other: Row) -> Row:
    """Return what two disjoint sets of documents add together to the same place."""
    found = Row(one.metric, one.kind, one.key, one.bucket, one.count + other.count, one.value, one.at, one.data)
    if other.value is not None:
        found.value = other.value if one.value is None else _merged(one.kind, one.value, other.value)
    if other.at is not None and (one.at is None or (other.at, other.data or "") > (one.at, one.data or "")):
        found.at, found.data = other.at, other.data
    return found


def _merged(kind: str, one: Decimal, other: Decimal) -> Decimal:
    if kind == "minimum":
        return min(one, other)
    if kind == "maximum":
        return max(one, other)
    return _EXACT.add(one, other)


def _getter(path: Path) -> Getter:
    """Return a function from a document to the values at a path: one, or each element where it ends in []."""
    parts = path.removesuffix("[]").split(".")
    if len(parts) == 1 and not path.endswith("[]"):
        name = parts[0]
        return lambda document: [document.get(name)]

    def walk(document: Mapping[str, Any]) -> list[Any]:
        value: Any = document
        for part in parts:
            value = value.get(part) if isinstance(value, dict) else None
        if path.endswith("[]"):
            return list(value or ())
        return [value]

    return walk


def _picked(document: Mapping[str, Any], paths: Sequence[Path]) -> Mapping[str, Any]:
    return {path: _getter(path)(document)[0] for path in paths} if paths else document


def _scalar(value: Any) -> str:
    if isinstance(value, str):
        return value
    return json_text(value).decode()


def moment(value: Any) -> datetime:
    """Return a stored time: RFC 3339 text, or a number of seconds since 1970."""
    if isinstance(value, int | float):
        return datetime.fromtimestamp(value, UTC)
    time = parse_time(value)
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _floor(at: datetime, every_seconds: int) -> datetime:
    seconds = int(at.timestamp() // every_seconds) * every_seconds
    bucket = datetime.fromtimestamp(seconds, UTC)
    if bucket.year == 1:
        raise ValueError("Postgres' client takes the first moment of the year 1 for -infinity")
    return bucket
