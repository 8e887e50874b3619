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
        # What several metrics read of a document is read once.
        self._keys = {paths: _Keys(paths) for paths in dict.fromkeys(metric.key_paths for metric in self._metrics)}
        self._values = {metric.value_path: _getter(metric.value_path) for metric in self._metrics if metric.value_path}

    def rows(self, documents: Iterable[tuple[Mapping[str, Any], datetime]]) -> dict[RowKey, Row]:
        """Return what these documents add, ordered so that concurrent transactions lock alike.

        Args:
            documents: the stored form in JSON types, and when each was accepted.
        """
        at_hand = list(documents)
        keys = {paths: [of(document) for document, _ in at_hand] for paths, of in self._keys.items()}
        numbers = {path: [_number(of(document)[0]) for document, _ in at_hand] for path, of in self._values.items()}
        nothing: list[None] = [None] * len(at_hand)
        rows: dict[RowKey, Row] = {}
        for metric in self._metrics:
            values = numbers[metric.value_path] if metric.value_path else nothing
            metric.add(rows, at_hand, keys[metric.key_paths], values)
        return dict(sorted(rows.items()))


class _Keys:
    """The keys of a document, as text; several where a path ends in []."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._getters = [_getter(path) for path in paths]
        self._texts: dict[tuple[str | None, ...], str] = {}

    def __call__(self, document: Mapping[str, Any]) -> list[str]:
        match self._getters:
            case []:
                return ["[]"]
            case [only]:
                return [self._text((value,)) for value in only(document)]
        values = [getter(document) for getter in self._getters]
        return [self._text(combination) for combination in itertools.product(*values)]

    def _text(self, values: tuple[Any, ...]) -> str:
        # As text first: True, 1 and 1.0 would be one key to a dict, and a list none at all.
        key = tuple([value if value is None or type(value) is str else _scalar(value) for value in values])
        text = self._texts.get(key)
        if text is None:
            # The same few come again and again. Bounded, since user ids may not.
            if len(self._texts) >= _REMEMBERED:
                self._texts.clear()
            text = self._texts[key] = json_text(key).decode()
        return text


class _Compiled:
    def __init__(self, metric: Metric) -> None:
        self.metric = metric
        self.name, self.kind = metric.name, metric.kind
        self.key_paths: tuple[Path, ...] = tuple(metric.key_paths)
        self.value_path = metric.value_path
        self._time = _getter(metric.time_path) if metric.time_path else None
        self._every = metric.every_seconds
        # By what a document says: text is found several times as fast as a time with its zone.
        self._moments: dict[Any, tuple[datetime, datetime]] = {}

    def add(
        self,
        rows: dict[RowKey, Row],
        documents: Sequence[tuple[Mapping[str, Any], datetime]],
        keys: Sequence[Sequence[str]],
        values: Sequence[Decimal | None],
    ) -> None:
        """Add documents to the rows, with the keys and values that are each one's."""
        needs_value = self.value_path is not None and self.kind != "trend"
        latest = self.metric if isinstance(self.metric, Latest) else None
        for (document, received_at), their_keys, value in zip(documents, keys, values, strict=True):
            if value is None and needs_value:
                continue
            said = received_at if self._time is None else self._time(document)[0]
            if said is None:
                continue
            at, bucket = self._moment(said)
            for key in their_keys:
                place = (self.name, key, bucket)
                row = rows.get(place)
                if row is None:
                    row = rows[place] = Row(self.name, self.kind, key, bucket)
                row.count += 1
                if value is not None:
                    row.value = value if row.value is None else _merged(self.kind, row.value, value)
                if latest is not None:
                    data = json_text(_picked(document, latest.of)).decode()
                    if row.at is None or row.data is None or (at, data) > (row.at, row.data):
                        row.at, row.data = at, data

    def _moment(self, said: Any) -> tuple[datetime, datetime]:
        """Return a time and the bucket that it falls into."""
        if self._time is None and self._every is None:
            return said, NO_BUCKET
        found = self._moments.get(said)
        if found is None:
            if len(self._moments) >= _REMEMBERED:
                self._moments.clear()
            at = said if isinstance(said, datetime) else moment(said)
            bucket = NO_BUCKET if self._every is None else _floor(at, self._every)
            found = self._moments[said] = (at, bucket)
        return found


def _number(found: Any) -> Decimal | None:
    if found is None:
        return None
    value = Decimal(str(found))
    # As text a decimal can be NaN, which would spoil the total for good.
    if not value.is_finite():
        raise ValueError(f"cannot count {value}")
    return value


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
