"""Rows of a metric to the answer that users see. Pure.

`data` is {key: value}, in order; keys of several fields nest, {hotel: {advertiser: price}}. What stands
at a key: Count and GroupBy how many, Sum, Minimum and Maximum an exact number, Latest the fields with the
event's time as `at`. Values that are no text are keys in their JSON form, and null is the key "". A metric
that has no key puts its one number into `value` and leaves `data` empty. A Trend is a list in order of time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import msgspec

from headrace.document import rfc3339
from headrace.pipeline import Metric
from headrace.storage.redis import Projected

_DESCENDING: Final[dict[str, Callable[[Projected], Any]]] = {
    "count": lambda row: row.count,
    "greatest": lambda row: (row.value is not None, row.value or 0),
    "newest": lambda row: (row.at is not None, row.at or datetime.min.replace(tzinfo=UTC)),
    "last": lambda row: row.bucket,
}
_RANKINGS: Final = {
    "count": "count",
    "sum": "greatest",
    "minimum": "least",
    "maximum": "greatest",
    "latest": "newest",
    "trend": "last",
}


def ranking(metric: Metric) -> str:
    """Return which rows of a metric come first, as a name in `headrace.storage.postgres.RANKINGS`."""
    return _RANKINGS[metric.kind]


def ranked(metric: Metric, rows: Iterable[Projected]) -> list[Projected]:
    """Return rows in the order that Postgres gives them for `ranking(metric)`."""
    found = sorted(rows, key=lambda row: row.key[:-2])
    order = ranking(metric)
    if order == "least":
        found.sort(key=lambda row: (row.value is None, row.value or 0))
    else:
        found.sort(key=_DESCENDING[order], reverse=True)
    return found


def counted(metric: Metric, total: int, rows: Sequence[Projected]) -> dict[str, Any]:
    """Return the answer of a metric.

    Args:
        total: how many rows there are in all.
        rows: the first of them, ranked.
    """
    answer: dict[str, Any] = {"metric": metric.name, "kind": metric.kind, "count": total}
    if metric.kind == "trend":
        return {**answer, "data": _trend(metric, rows)}
    values = [(_key(row.key), value_of(metric, row)) for row in rows]
    if not metric.key_paths:
        nothing = 0 if metric.kind in ("count", "sum") else None
        return {**answer, "data": {}, "value": values[0][1] if values else nothing}
    data, merged = _nested(values, adds=metric.kind in ("count", "sum"))
    return {**answer, "count": total - merged, "data": data}


def grouped(metric: Metric, groups: Sequence[tuple[Sequence[Any], int]], limit: int) -> dict[str, Any]:
    """Return the answer of a GroupBy from (values, how many), most first."""
    answer: dict[str, Any] = {"metric": metric.name, "kind": metric.kind, "count": len(groups)}
    if not metric.key_paths:
        return {**answer, "data": {}, "value": groups[0][1]}
    data, merged = _nested([([_text(value) for value in values], n) for values, n in groups[:limit]], adds=True)
    return {**answer, "count": len(groups) - merged, "data": data}


def _trend(metric: Metric, rows: Sequence[Projected]) -> list[dict[str, Any]]:
    points = []
    for row in sorted(rows, key=lambda row: (row.bucket, row.key)):
        point: dict[str, Any] = {"at": rfc3339(datetime.fromtimestamp(row.bucket, UTC))}
        if metric.key_paths:
            key = _key(row.key)
            point["key"] = key[0] if len(key) == 1 else key
        point["count"] = row.count
        if metric.value_path is not None:
            point["sum"] = row.value or 0
        points.append(point)
    return points


def value_of(metric: Metric, row: Projected) -> Any:
    """Return what stands at a key of a metric."""
    if metric.kind == "count":
        return row.count
    if metric.kind == "latest":
        assert row.at is not None
        assert row.data is not None
        return {"at": rfc3339(row.at), **msgspec.json.decode(row.data)}
    return row.value


def _nested(values: Iterable[tuple[Sequence[str], Any]], *, adds: bool) -> tuple[dict[str, Any], int]:
    """Return nested dicts, and how many keys fell together since null and "" are both "no value"."""
    data: dict[str, Any] = {}
    merged = 0
    for key, value in values:
        place = data
        for part in key[:-1]:
            place = place.setdefault(part, {})
        if key[-1] not in place:
            place[key[-1]] = value
            continue
        merged += 1
        if adds:
            place[key[-1]] += value
    return data, merged


def _key(text: str) -> list[str]:
    parts: list[str | None] = msgspec.json.decode(text)
    return ["" if part is None else part for part in parts]


def _text(value: Any) -> str:
    """Return a column's value as a key, in the form that it has in the stored document."""
    match value:
        case None:
            return ""
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case datetime():
            return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
        case date():
            return value.isoformat()
        case int() | float() | Decimal() | UUID():
            return str(value)
    raise TypeError(f"{type(value).__name__} is no column's type")
