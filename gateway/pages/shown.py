"""Answers of the analytics service as tables and bars to look at. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final

import msgspec

from headrace.document import parse_time
from headrace.pipeline import Distinct, GroupBy, Latest, Metric, Pipeline, Trend

TOP_ROWS: Final = 10
# Of a trend; what is older is in the API.
SLOTS: Final = 120
_FEWEST_SLOTS: Final = 24
_CHART_HEIGHT: Final = 100
_LONGEST: Final = 80


@dataclass(frozen=True)
class Cell:
    text: str
    number: bool = False


@dataclass(frozen=True)
class Row:
    """A line of a table; `share` is how long its bar is, in percent of the longest, None where bars say nothing."""

    keys: tuple[str, ...]
    cells: tuple[Cell, ...]
    share: float | None = None


@dataclass(frozen=True)
class Table:
    title: str
    about: str
    heads: tuple[str, ...]
    value_heads: tuple[str, ...]
    rows: tuple[Row, ...]
    total: int


@dataclass(frozen=True)
class Bar:
    """A bar of a chart, in units of the chart, and what it says."""

    x: float
    y: float
    height: float
    label: str


@dataclass(frozen=True)
class Chart:
    """Bars of one width, 1, in a box of `slots` by 100."""

    title: str
    about: str
    bars: tuple[Bar, ...]
    slots: int
    first: str
    last: str
    greatest: str
    total: int


@dataclass(frozen=True)
class Figure:
    """A metric that is one number."""

    title: str
    about: str
    text: str


Shown = Table | Chart | Figure


def shown(metric: Metric, answer: Mapping[str, Any]) -> Shown:
    """Return a metric's answer as what a page shows of it."""
    title, about = words(metric.name), _about(metric)
    if isinstance(metric, Trend):
        return _chart(metric, title, about, answer["data"], answer["count"])
    if not metric.key_paths and not isinstance(metric, Latest):
        return Figure(title, about, number(answer.get("value")))
    heads = tuple(words(path.removesuffix("[]").rpartition(".")[2]) for path in metric.key_paths)
    found = list(_flat(answer["data"], len(metric.key_paths)))[:TOP_ROWS]
    if isinstance(metric, Latest):
        # The key stands before the row, and its time under `at`.
        said = {*metric.key_paths, metric.at} - {"at"}
        columns = list(dict.fromkeys(name for _, value in found for name in value if name not in said))
        rows = tuple(
            Row(keys, tuple(Cell(when(value["at"])) if name == "at" else cell(value.get(name)) for name in columns))
            for keys, value in found
        )
        return Table(title, about, heads, tuple(map(words, columns)), rows, answer["count"])
    adds = metric.kind in ("count", "sum", "group_by")
    longest = max((value for _, value in found), default=0)
    comparable = adds and longest > 0 and all(value >= 0 for _, value in found)
    rows = tuple(
        Row(keys, (Cell(number(value), number=True),), float(value / longest * 100) if comparable else None)
        for keys, value in found
    )
    return Table(title, about, heads, (_value_head(metric),), rows, answer["count"])


def documents_table(pipeline: Pipeline, items: Sequence[Mapping[str, Any]], columns: int = 4) -> Table:
    """Return stored documents with their first few plain fields; each row's first key is the id."""
    fields = [field for field in pipeline.fields if field.sql_type != "jsonb"][:columns]
    rows = tuple(
        Row(
            (item["id"], when(item["received_at"])), tuple(cell(_at(item["document"], field.parts)) for field in fields)
        )
        for item in items
    )
    heads = tuple(words(field.parts[-1]) for field in fields)
    return Table("Latest documents", "", ("Document", "Received"), heads, rows, len(items))


def words(name: str) -> str:
    """Return a name in words, `revenue_by_day` as `Revenue by day`."""
    spaced = name.replace("_", " ").strip()
    return spaced[:1].upper() + spaced[1:]


def number(value: Any) -> str:
    """Return a number with its thousands apart; a sum's digits are all there."""
    match value:
        case None:
            return "–"
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case Decimal():
            return f"{value:,f}" if -12 < value.adjusted() < 30 else str(value)
        case float():
            return f"{value:,.6g}"
    return str(value)


def cell(value: Any) -> Cell:
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        # As it stands in the document: it may be a number of something, which has no thousands.
        return Cell(str(value).removesuffix(".0"), number=True)
    if value is None or isinstance(value, bool):
        return Cell(number(value))
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return Cell(text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…")


def when(text: str) -> str:
    """Return a time to the second, in UTC."""
    return f"{parse_time(text):%Y-%m-%d %H:%M:%S}"


def _at(document: Any, parts: Sequence[str]) -> Any:
    for part in parts:
        document = document.get(part) if isinstance(document, Mapping) else None
    return document


def _flat(data: Mapping[str, Any], depth: int, before: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in data.items():
        keys = (*before, key if len(key) <= _LONGEST else f"{key[: _LONGEST - 1]}…")
        if depth > 1:
            yield from _flat(value, depth - 1, keys)
        else:
            yield keys, value


def _chart(metric: Trend, title: str, about: str, points: Sequence[Mapping[str, Any]], total: int) -> Chart:
    """Return a trend's last buckets, each in its place in time, whatever keys it has added up."""
    if not points:
        return Chart(title, about, (), 1, "", "", "", total)
    sums: dict[datetime, Decimal] = {}
    for point in points:
        at = parse_time(point["at"])
        sums[at] = sums.get(at, Decimal(0)) + Decimal(str(point["sum" if metric.of else "count"]))
    step = timedelta(seconds=metric.every_seconds)
    last = max(sums)
    placed = {round((last - at) / step): (at, value) for at, value in sums.items()}
    seen = {ago: found for ago, found in placed.items() if ago < SLOTS}
    slots = max(*seen, _FEWEST_SLOTS - 1) + 1
    top = max(Decimal(0), *(value for _, value in seen.values()))
    bottom = min(Decimal(0), *(value for _, value in seen.values()))
    scale = _CHART_HEIGHT / float(top - bottom or 1)
    form = "%Y-%m-%d" if metric.every_seconds % 86400 == 0 else "%Y-%m-%d %H:%M"
    bars = []
    for ago, (at, value) in sorted(seen.items(), reverse=True):
        height = abs(float(value)) * scale
        y = float(top - max(value, Decimal(0))) * scale
        bars.append(Bar(slots - 1 - ago, round(y, 3), round(height, 3), f"{at:{form}}: {number(value)}"))
    earliest = last - step * (slots - 1)
    return Chart(title, about, tuple(bars), slots, f"{earliest:{form}}", f"{last:{form}}", number(top), total)


def _about(metric: Metric) -> str:
    """Return what is counted, in words."""
    per = " and ".join(path.removesuffix("[]").replace(".", " ").replace("_", " ") for path in metric.key_paths)
    each = f" per {per}" if per else ""
    of = (metric.of if isinstance(metric, Distinct) else metric.value_path or "").replace(".", " ").replace("_", " ")
    match metric:
        case Trend():
            what = f"Sum of {of}" if metric.of else "Documents"
            return f"{what}{each}, {_every(metric.every_seconds)}; times in UTC."
        case GroupBy():
            return f"Newest versions{each}."
        case Latest():
            return f"The newest{each}, by its own time."
        case Distinct():
            return f"How many different {of}, of the newest versions."
    told = {"count": "Documents", "sum": f"Sum of {of}", "minimum": f"Least {of}", "maximum": f"Greatest {of}"}
    return f"{told[metric.kind]}{each}."


def _every(seconds: int) -> str:
    for size, unit in ((86400, "day"), (3600, "hour"), (60, "minute"), (1, "second")):
        if seconds % size == 0:
            many = seconds // size
            return f"a bar for each {unit}" if many == 1 else f"a bar for {many} {unit}s"
    raise AssertionError(seconds)


def _value_head(metric: Metric) -> str:
    told = {"count": "Documents", "group_by": "Documents", "sum": "Sum", "minimum": "Least", "maximum": "Greatest"}
    return told[metric.kind]
