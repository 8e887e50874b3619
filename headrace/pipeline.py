"""What a pipeline author writes: a schema in, a pure transform, a schema out, and what to count.

    searches = Pipeline(
        name="searches",
        accepts=HotelSearch,
        yields=PricedSearch,
        transform=cheapest_offer,
        metrics=[Count("users", by="user_id"), Trend("per_minute", every="1m")],
    )

Nothing here does I/O. Paths name fields of `yields`: `total`, `min_offer.price`,
`advertisers[]` (each element of a list counts by itself).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, get_args

from pydantic import BaseModel

from headrace import precedence
from headrace.fields import Field, fields_of
from headrace.views import ErrorShape as ErrorShape
from headrace.views import Intake as Intake
from headrace.views import Listing as Listing
from headrace.views import Lookup as Lookup
from headrace.views import Question as Question
from headrace.views import Report as Report
from headrace.views import Route, check_route
from headrace.views import View as View

Path = str
Keys = Path | tuple[Path, ...] | None

# The collection of what `headrace analyse` computes, beside those of the pipelines.
PROCESSED = "processed"

_NAME = re.compile(r"^[a-z][a-z0-9_]{0,39}$")
_MODULE = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*$")
_EVERY = re.compile(r"^([1-9][0-9]{0,3})([smhd])$")
# As Postgres calls them.
_NUMBERS = frozenset({"bigint", "double precision", "numeric"})
_TIMES = frozenset({"timestamptz", "date", "bigint", "double precision"})
_LISTS = frozenset({"jsonb"})
_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True, kw_only=True)
class Metric:
    """Something counted live. `kind` is its name in answers, `by` the fields that make its key."""

    kind: ClassVar[str]
    # Answered by a query over the newest versions, so for entities; else counted as documents come.
    by_query: ClassVar[bool] = False
    name: str = field(kw_only=False)
    by: Keys = None

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"metric {self.name!r}: a name is a lower-case letter, then letters, digits or _")

    @property
    def key_paths(self) -> tuple[Path, ...]:
        return (self.by,) if isinstance(self.by, str) else (self.by or ())

    @property
    def value_path(self) -> Path | None:
        """Return the path of the value it works on, or None where it only counts."""
        return None

    @property
    def every_seconds(self) -> int | None:
        """Return the width of its time buckets, or None where it has none."""
        return None

    @property
    def time_path(self) -> Path | None:
        """Return the path of the event's own time, or None for the time of acceptance."""
        return None


@dataclass(frozen=True, kw_only=True)
class Count(Metric):
    """How many documents, in all or per key."""

    kind = "count"


@dataclass(frozen=True, kw_only=True)
class _Valued(Metric):
    of: Path

    @property
    def value_path(self) -> Path:
        return self.of


@dataclass(frozen=True, kw_only=True)
class Sum(_Valued):
    """Exact decimal sum of a number."""

    kind = "sum"


@dataclass(frozen=True, kw_only=True)
class Minimum(_Valued):
    """Least value of a number; documents where it is null do not take part."""

    kind = "minimum"


@dataclass(frozen=True, kw_only=True)
class Maximum(_Valued):
    """Greatest value of a number."""

    kind = "maximum"


@dataclass(frozen=True, kw_only=True)
class Latest(Metric):
    """The newest document per key, by the event's own time `at`, not by arrival; `of` picks its fields."""

    kind = "latest"
    at: Path
    of: tuple[Path, ...] = ()

    @property
    def time_path(self) -> Path:
        return self.at


@dataclass(frozen=True, kw_only=True)
class Trend(Metric):
    """Documents per bucket of time (`every` = 30s, 1m, 1h, 1d), and the sum of `of` where it is given."""

    kind = "trend"
    every: str
    of: Path | None = None
    at: Path | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not _EVERY.fullmatch(self.every):
            raise ValueError(f"metric {self.name!r}: every={self.every!r} is not like 30s, 1m, 1h or 1d")

    @property
    def value_path(self) -> Path | None:
        return self.of

    @property
    def every_seconds(self) -> int:
        match = _EVERY.fullmatch(self.every)
        assert match
        return int(match[1]) * _UNIT_SECONDS[match[2]]

    @property
    def time_path(self) -> Path | None:
        return self.at


@dataclass(frozen=True, kw_only=True)
class GroupBy(Metric):
    """Entities per value of a field, counted by query over the newest versions; entity pipelines only."""

    kind = "group_by"
    by_query = True


@dataclass(frozen=True, kw_only=True)
class Distinct(Metric):
    """How many different values a field has, null aside, by query over the newest versions; entity pipelines only."""

    kind = "distinct"
    by_query = True
    of: Path

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.by is not None:
            raise ValueError(f"metric {self.name!r}: Distinct has no `by`")


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """A kind of document.

    Args:
        name: its name in URLs, subjects, tables and collections.
        accepts: schema of what clients send; also the door's validation and the OpenAPI.
        yields: schema of what is stored; by default the same.
        transform: pure function from `accepts` to `yields`; a ValueError that it raises refuses the document.
        metrics: what is counted.
        key: fields of `accepts` that make a document the same as an earlier one when a client gives no id.
        entity: keep the newest version by `key`, instead of every document.
        newest_by: fields of `yields` that say which version of an entity is the newest, the first first, null least;
            of a field with `?` behind it only whether it is there. Where they are equal, or none are named, the
            time of acceptance says it, then the id.
        views: routes of its own, see `headrace.views`.
        example: a valid document, shown in the documentation and sent by the load tester.
        version: of the schema, whole numbers from 1.
        analysis: module that `headrace analyse` imports (headrace/analysis.py), by its dotted name; it may need
            libraries that nothing else needs, so nothing else imports it.

    Raises:
        ValueError: a name is malformed, a path does not exist or is of a type its metric cannot use, the example is
            not valid, or the transform makes something else than `yields` of it.
    """

    name: str
    accepts: type[BaseModel]
    example: Mapping[str, Any]
    yields: type[BaseModel] = None  # type: ignore[assignment]  # replaced by `accepts` below
    transform: Callable[[Any], BaseModel] | None = None
    metrics: Sequence[Metric] = ()
    key: tuple[Path, ...] = ()
    entity: bool = False
    newest_by: tuple[Path, ...] = ()
    views: Sequence[Route] = ()
    version: int = 1
    description: str = ""
    analysis: str | None = None
    fields: tuple[Field, ...] = field(init=False)

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"pipeline {self.name!r}: a name is a lower-case letter, then letters, digits or _")
        if self.name == PROCESSED:
            raise ValueError(f"pipeline {self.name!r}: the results of analyses have this name; choose another")
        if self.analysis is not None and not _MODULE.fullmatch(self.analysis):
            raise ValueError(f"pipeline {self.name!r}: analysis={self.analysis!r} is no dotted name of a module")
        if self.yields is None:
            object.__setattr__(self, "yields", self.accepts)
        if self.transform is None and self.yields is not self.accepts:
            raise ValueError(f"pipeline {self.name!r}: yields differs from accepts, so it needs a transform")
        object.__setattr__(self, "fields", fields_of(self.yields))
        self._check()

    def _check(self) -> None:
        names = [metric.name for metric in self.metrics]
        if len(set(names)) != len(names):
            raise ValueError(f"pipeline {self.name!r}: two metrics have one name")
        if self.entity and not self.key:
            raise ValueError(f"pipeline {self.name!r}: an entity needs a key")
        known = {f.path: f.sql_type for f in self.fields}
        if hidden := sorted(path for path in known if path.startswith("_")):
            raise ValueError(f"pipeline {self.name!r}: a field must not start with _, as {hidden[0]!r} does")
        if self.newest_by and not self.entity:
            raise ValueError(f"pipeline {self.name!r}: newest_by goes with entities")
        try:
            precedence.check(self.newest_by, known)
        except ValueError as error:
            raise ValueError(f"pipeline {self.name!r}: {error}") from None
        for metric in self.metrics:
            if metric.by_query != self.entity:
                raise ValueError(
                    f"pipeline {self.name!r}: metric {metric.name!r}: GroupBy and Distinct go with entities, and only"
                    " they do"
                )
            paths = [*metric.key_paths, metric.value_path, metric.time_path]
            if isinstance(metric, Latest):
                paths += metric.of
            if isinstance(metric, Distinct):
                paths.append(metric.of)
            for path in paths:
                if path is not None and path.removesuffix("[]") not in known:
                    raise ValueError(
                        f"pipeline {self.name!r}: metric {metric.name!r}: {path!r} is no field of "
                        f"{self.yields.__name__}; it has {', '.join(sorted(known))}"
                    )
            self._check_types(metric, known)
        for view in self.views:
            try:
                check_route(view, {metric.name: metric for metric in self.metrics}, known)
            except ValueError as error:
                raise ValueError(f"pipeline {self.name!r}: view {view.path!r}: {error}") from error
        document = self.accepts.model_validate(dict(self.example))
        for path in self.key:
            _check_key(self.name, self.accepts, path)
            if self.entity and path not in known:
                raise ValueError(f"pipeline {self.name!r}: the key of an entity, {path!r}, must be a field of `yields`")
        if not isinstance(stored := self.apply(document), self.yields):
            raise ValueError(
                f"pipeline {self.name!r}: transform returns {type(stored).__name__}, not {self.yields.__name__}"
            )

    def _check_types(self, metric: Metric, known: Mapping[Path, str]) -> None:
        """Refuse what would fail on every document."""
        needs = [(path, _LISTS, "a list") for path in metric.key_paths if path.endswith("[]")]
        if metric.value_path:
            needs.append((metric.value_path, _NUMBERS, "a number"))
        if metric.time_path:
            needs.append((metric.time_path, _TIMES, "a time, or a number of seconds since 1970"))
        if isinstance(metric, GroupBy) and needs:
            raise ValueError(
                f"pipeline {self.name!r}: metric {metric.name!r}: GroupBy takes whole fields, not {needs[0][0]!r}"
            )
        for path, types, what in needs:
            if known[path.removesuffix("[]")] not in types or (path.endswith("[]") and types is not _LISTS):
                raise ValueError(f"pipeline {self.name!r}: metric {metric.name!r}: {path!r} is not {what}")

    def apply(self, document: BaseModel) -> BaseModel:
        """Return the stored form of a valid document."""
        return document if self.transform is None else self.transform(document)

    def metric(self, name: str) -> Metric | None:
        return next((metric for metric in self.metrics if metric.name == name), None)


def _check_key(pipeline: str, model: type[BaseModel], path: Path) -> None:
    annotation: Any = model
    for part in path.split("."):
        known = annotation.model_fields if isinstance(annotation, type) and issubclass(annotation, BaseModel) else {}
        if part not in known:
            raise ValueError(f"pipeline {pipeline!r}: key: {path!r} is no field of {model.__name__}")
        annotation = known[part].annotation
        if type(None) in get_args(annotation):
            # All documents without a value would be one.
            raise ValueError(f"pipeline {pipeline!r}: key: {path!r} may be null")
