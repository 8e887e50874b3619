"""Routes of a pipeline's own, declared in its file: GET answers made from what it stores and counts, and POST aliases.

    View      one metric, in a shape of its own
    Report    several metrics at once, with parameters and the time
    Lookup    one key of a metric
    Listing   stored documents: filtered, sorted, paged
    Intake    takes a document, as POST /v1/documents/{pipeline} does, with an answer of its own

A route's parameters are the fields of its `asks`, a pydantic model: those that its path names in braces come from
there, the others from the query string. A shape is pure: it gets plain values and returns what is sent as JSON.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Final, Protocol

import msgspec
from pydantic import BaseModel, ConfigDict, StringConstraints, create_model
from pydantic import Field as ModelField

from headrace.errors import FieldError, HeadraceError

# Of one page of documents; what is beyond these is for GET /v1/documents with its cursor.
MOST_DOCUMENTS: Final = 1000
MOST_PAGES: Final = 1_000_000

_PATH: Final = re.compile(r"(/([A-Za-z0-9._~-]+|\{[a-z][a-z0-9_]*\}))+/?")
_NAMES: Final = re.compile(r"\{([a-z][a-z0-9_]*)\}")
_ON: Final = re.compile(r"[45](xx|[0-9]{2})|[a-z][a-z0-9_]*")
_PathText = Annotated[str, StringConstraints(min_length=1, max_length=512)]


class Parameters(BaseModel):
    """Base of `asks` where a route declares none: it has the path's parameters, as text."""

    model_config = ConfigDict(frozen=True)


@dataclass(frozen=True)
class Question:
    """What was asked.

    Attributes:
        parameters: the route's `asks`, checked.
        now: when it was asked, UTC.
    """

    parameters: Any
    now: datetime


@dataclass(frozen=True, kw_only=True)
class ErrorShape:
    """How a route answers an error, instead of with a problem (RFC 9457).

    Attributes:
        on: which: a code (`malformed_json`), a status (`422`), or a class of them (`5xx`); the first is the nearest.
        status: what is answered.
        shape: from the error to the body; its `detail` never holds internals, nor what a client sent.
    """

    on: str
    status: int
    shape: Callable[[HeadraceError], Any]


@dataclass(frozen=True, kw_only=True)
class Route:
    """What all of them have."""

    method: ClassVar[str] = "GET"
    path: str
    summary: str = ""
    errors: Sequence[ErrorShape] = ()

    @property
    def path_names(self) -> tuple[str, ...]:
        """Return the parameters that the path names, in order."""
        return tuple(_NAMES.findall(self.path))


@dataclass(frozen=True, kw_only=True)
class Answering(Route):
    """A GET route.

    Attributes:
        asks: model of its parameters.
        cache_seconds: how long an answer is kept; it is dropped as soon as the pipeline stores anything new.
        parameters: `asks`, or what follows from the path, with those of the kind of route.
    """

    asks: type[BaseModel] | None = None
    cache_seconds: float = 0.0
    parameters: type[BaseModel] = field(init=False)

    def __post_init__(self) -> None:
        of_path: Any = dict.fromkeys(self.path_names, (_PathText, ...))
        base: type[BaseModel] = self.asks or create_model("Parameters", __base__=Parameters, **of_path)
        own = self._own_parameters()
        if own:
            base = create_model(base.__name__, __base__=base, **own)
        object.__setattr__(self, "parameters", base)

    def _own_parameters(self) -> dict[str, Any]:
        return {}


@dataclass(frozen=True, kw_only=True)
class View(Answering):
    """One metric's answer, {metric, kind, count, data}, in a shape that older clients know."""

    metric: str
    shape: Callable[[dict[str, Any]], Any]


@dataclass(frozen=True, kw_only=True)
class Report(Answering):
    """The answers of several metrics, by name."""

    metrics: tuple[str, ...]
    shape: Callable[[dict[str, dict[str, Any]], Question], Any]


@dataclass(frozen=True, kw_only=True)
class Lookup(Answering):
    """What stands at one key of a metric, or None.

    Attributes:
        key: the parameters that make the key, in the order of the metric's `by`.
    """

    metric: str
    key: tuple[str, ...]
    shape: Callable[[Any, Question], Any]


def _as_they_are(documents: list[dict[str, Any]], _question: Question) -> Any:
    return documents


@dataclass(frozen=True, kw_only=True)
class Listing(Answering):
    """Stored documents, of an entity its newest versions; each with its `_id` as text.

    Attributes:
        where: fields that must have the value of the parameter of the same name.
        present: fields that must not be null.
        sort: a field, or `received_at`, with `-` before it the greatest first; ties are in order of `_id`.
        fields: what is picked of each document; by default all.
        limit: documents in one answer at most.
        per_page: where it is given there are parameters `page`, from 1, and `per_page`, this by default.
    """

    where: tuple[str, ...] = ()
    present: tuple[str, ...] = ()
    sort: str = "-received_at"
    fields: tuple[str, ...] = ()
    limit: int = 100
    per_page: int | None = None
    shape: Callable[[list[dict[str, Any]], Question], Any] = _as_they_are

    @property
    def order(self) -> tuple[str, bool]:
        """Return the field of the order, and whether the greatest comes first."""
        return self.sort.removeprefix("-"), self.sort.startswith("-")

    def _own_parameters(self) -> dict[str, Any]:
        if self.per_page is None:
            return {}
        return {
            "page": (int, ModelField(1, ge=1, le=MOST_PAGES, description="from 1")),
            "per_page": (int, ModelField(self.per_page, ge=1, le=self.limit, description="documents on a page")),
        }


@dataclass(frozen=True, kw_only=True)
class Intake(Route):
    """Takes one document, as POST /v1/documents/{pipeline} does: same token, rules and durability.

    Attributes:
        status: of its answer, once the document is on disk.
        shape: from the receipt, {id, status, links}, to the answer.
        text: whether the body may also be a JSON string that holds the document as JSON.
    """

    method: ClassVar[str] = "POST"
    status: int = 202
    shape: Callable[[dict[str, Any]], Any]
    text: bool = False


class Counted(Protocol):
    """What is to be known of a metric here."""

    kind: ClassVar[str]

    @property
    def key_paths(self) -> tuple[str, ...]: ...

    @property
    def every_seconds(self) -> int | None: ...


RECEIPT: Final = {
    "id": "019aae5e-7c1b-7d23-9c3f-6a52f4a6a001",
    "status": "accepted",
    "links": {"self": "/v1/documents"},
}


def answered(errors: Sequence[ErrorShape], error: HeadraceError) -> tuple[int, Any] | None:
    """Return status and body by which a route answers an error, or None where a problem is the answer."""
    for on in (error.code, str(error.status), f"{error.status // 100}xx"):
        for one in errors:
            if one.on == on:
                return one.status, one.shape(error)
    return None


def check_route(route: Route, metrics: Mapping[str, Counted], fields: Mapping[str, str]) -> None:
    """Refuse a route that could not answer.

    Args:
        fields: SQL type by path, of the stored form.

    Raises:
        ValueError: with what is wrong, for the pipeline's author.
    """
    if not _PATH.fullmatch(route.path):
        raise ValueError("the path is not like /name, /some/name or /name/{parameter}")
    if len(set(route.path_names)) != len(route.path_names):
        raise ValueError("the path names a parameter twice")
    for one in route.errors:
        _check_error(one)
    match route:
        case View():
            _check_metrics([route.metric], metrics)
        case Report():
            if not route.metrics:
                raise ValueError("it needs a metric at least; documents are for a Listing")
            _check_metrics(route.metrics, metrics)
        case Lookup():
            _check_lookup(route, metrics)
        case Listing():
            _check_listing(route, fields)
        case Intake():
            _check_intake(route)
    if isinstance(route, Answering):
        _check_parameters(route)


def _check_metrics(names: Sequence[str], metrics: Mapping[str, Counted]) -> None:
    for name in names:
        if name not in metrics:
            raise ValueError(f"there is no metric {name!r}")


def _check_lookup(route: Lookup, metrics: Mapping[str, Counted]) -> None:
    _check_metrics([route.metric], metrics)
    metric = metrics[route.metric]
    if metric.kind in ("group_by", "distinct", "trend") or not metric.key_paths:
        raise ValueError(f"metric {route.metric!r} has no keys to look up; Count, Sum, Minimum, Maximum, Latest have")
    if len(route.key) != len(metric.key_paths):
        raise ValueError(f"metric {route.metric!r} has the key {', '.join(metric.key_paths)}; name as many parameters")
    _check_known(route, route.key)


def _check_listing(route: Listing, fields: Mapping[str, str]) -> None:
    by, _ = route.order
    for path in (*route.where, *route.present, *route.fields, *(() if by == "received_at" else (by,))):
        if path not in fields:
            raise ValueError(f"there is no field {path!r}; there are {', '.join(sorted(fields))}")
    if fields.get(by) == "jsonb":
        raise ValueError(f"{by!r} is a list or an object, which has no order")
    if not 1 <= route.limit <= MOST_DOCUMENTS:
        raise ValueError(f"limit is from 1 to {MOST_DOCUMENTS}")
    if route.per_page is not None and not 1 <= route.per_page <= route.limit:
        raise ValueError(f"per_page is from 1 to {route.limit}, its limit")
    _check_known(route, route.where)


def _check_intake(route: Intake) -> None:
    if route.path_names:
        raise ValueError("the path of an Intake has no parameters; the document says it all")
    if not 200 <= route.status < 300:
        raise ValueError(f"status {route.status} does not say that the document was taken")
    _encodes(route.shape, dict(RECEIPT))


def _check_error(one: ErrorShape) -> None:
    if not _ON.fullmatch(one.on):
        raise ValueError(f"an error is named by its code, a status or 4xx or 5xx, not {one.on!r}")
    if not 400 <= one.status < 600:
        raise ValueError(f"status {one.status} is not that of an error")
    _encodes(one.shape, HeadraceError("As an example.", errors=[FieldError("/field", "missing", "Add it.")]))


def _check_parameters(route: Answering) -> None:
    if route.cache_seconds < 0:
        raise ValueError("cache_seconds is not negative")
    _check_known(route, route.path_names)
    optional = [name for name in route.path_names if not route.parameters.model_fields[name].is_required()]
    if optional:
        raise ValueError(f"{optional[0]!r} is part of the path, so it has no default")
    schema = route.parameters.model_json_schema()
    for name, about in schema.get("properties", {}).items():
        if "$ref" in str(about) or about.get("type") in ("object", "array"):
            raise ValueError(f"parameter {name!r} is not one plain value; for a choice of some use Literal")


def _check_known(route: Answering, names: Sequence[str]) -> None:
    for name in names:
        if name not in route.parameters.model_fields:
            known = ", ".join(route.parameters.model_fields) or "none"
            raise ValueError(f"there is no parameter {name!r}; there are {known}")


def _encodes(shape: Callable[[Any], Any], given: Any) -> None:
    try:
        msgspec.json.encode(shape(given))
    except Exception as error:
        raise ValueError(f"a shape fails with {type(error).__name__}: {error}") from error


def moment_now() -> datetime:
    return datetime.now(UTC)
