"""Routes of a pipeline's own are checked when its file is loaded; which error is answered in which shape."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field

from headrace.errors import DocumentError, HeadraceError, RequestError, UnavailableError
from headrace.pipeline import (
    Count,
    ErrorShape,
    Intake,
    Latest,
    Listing,
    Lookup,
    Pipeline,
    Report,
    Trend,
    View,
)
from headrace.views import Route, answered


class Position(BaseModel):
    order: str
    at: float
    place: dict[str, float] = {}


class Days(BaseModel):
    days: int = Field(30, ge=1, le=366)


class OneOrder(BaseModel):
    order: str
    kind: Literal["a", "b"] = "a"


class Listed(BaseModel):
    order: list[str]


class Optional(BaseModel):
    order: str = "x"


def pipeline(*views: Route) -> Pipeline:
    return Pipeline(
        name="positions",
        accepts=Position,
        example={"order": "1", "at": 1.0},
        metrics=[Count("orders", by="order"), Latest("last", by="order", at="at"), Trend("days", every="1d")],
        views=views,
    )


def anything(*_: Any) -> Any:
    return {}


@pytest.mark.parametrize(
    "view",
    [
        View(path="/orders", metric="orders", shape=anything),
        View(path="/orders/", metric="orders", shape=anything),
        Report(path="/v1/a.b/~c", metrics=("orders", "days"), shape=anything, asks=Days),
        Lookup(path="/last/{order}", metric="last", key=("order",), shape=anything),
        Lookup(path="/last", metric="last", key=("order",), shape=anything, asks=OneOrder),
        Listing(path="/track/{order}", where=("order",), sort="at"),
        Listing(path="/all", sort="-received_at", present=("at",), fields=("order",), per_page=10),
        Intake(path="/positions/", shape=anything, status=200, text=True),
    ],
    ids=lambda view: view.path,
)
def test_a_route_that_can_answer_is_taken(view: Route) -> None:
    assert pipeline(view).views == (view,)


@pytest.mark.parametrize(
    ("view", "said"),
    [
        *(
            (View(path=path, metric="orders", shape=anything), "is not like")
            for path in ("", "orders", "/", "/or ders", "/{Order}", "/a?b", "//a", "/a{order}", "/{order")
        ),
        (View(path="/a", metric="ordres", shape=anything), "there is no metric 'ordres'"),
        (Report(path="/a", metrics=("orders", "x"), shape=anything), "there is no metric 'x'"),
        (Report(path="/a", metrics=(), shape=anything), "needs a metric"),
        (Report(path="/{order}/{order}", metrics=("orders",), shape=anything), "twice"),
        (
            Report(path="/a/{order}", metrics=("orders",), shape=anything, asks=Days),
            "no parameter 'order'; there are days",
        ),
        (Report(path="/a/{order}", metrics=("orders",), shape=anything, asks=Optional), "has no default"),
        (Report(path="/a", metrics=("orders",), shape=anything, asks=Listed), "'order' is not one plain value"),
        (Lookup(path="/a", metric="days", key=(), shape=anything), "no keys to look up"),
        (Lookup(path="/{order}", metric="last", key=(), shape=anything), "name as many parameters"),
        (Lookup(path="/{order}", metric="last", key=("other",), shape=anything), "no parameter 'other'"),
        (Listing(path="/a", where=("order",)), "no parameter 'order'; there are none"),
        (Listing(path="/a", sort="-time"), "no field 'time'"),
        (Listing(path="/a", sort="place"), "has no order"),
        (Listing(path="/a", present=("lat",)), "no field 'lat'"),
        (Listing(path="/a", fields=("lat",)), "no field 'lat'"),
        (Listing(path="/a", limit=1001), "from 1 to 1000"),
        (Listing(path="/a", per_page=101), "from 1 to 100, its limit"),
        (Listing(path="/a", cache_seconds=-1), "not negative"),
        (Intake(path="/a/{order}", shape=anything), "no parameters"),
        (Intake(path="/a", shape=anything, status=400), "does not say"),
        (Intake(path="/a", shape=lambda receipt: receipt["number"]), "KeyError"),
        (Listing(path="/a", errors=[ErrorShape(on="5XX", status=500, shape=anything)]), "not '5XX'"),
        (Listing(path="/a", errors=[ErrorShape(on="5xx", status=200, shape=anything)]), "not that of an error"),
        (Listing(path="/a", errors=[ErrorShape(on="5xx", status=500, shape=lambda e: e.errors[1])]), "IndexError"),
    ],
)
def test_a_route_that_cannot_answer_keeps_its_file_from_loading(view: Route, said: str) -> None:
    with pytest.raises(ValueError, match="pipeline 'positions': view ") as refused:
        pipeline(view)

    assert said in str(refused.value)


SHAPES = [
    ErrorShape(on="4xx", status=418, shape=lambda _: "class"),
    ErrorShape(on="422", status=422, shape=lambda error: [field.pointer for field in error.errors]),
    ErrorShape(on="malformed_json", status=400, shape=lambda error: error.detail),
]


@pytest.mark.parametrize(
    ("error", "answer"),
    [
        (RequestError("No JSON.", code="malformed_json"), (400, "No JSON.")),
        (DocumentError("It is wrong."), (422, [])),
        (RequestError("It is gone.", status=410), (418, "class")),
        (UnavailableError("Postgres is away."), None),
        (HeadraceError("A bug."), None),
    ],
)
def test_the_nearest_shape_answers_an_error(error: HeadraceError, answer: Any) -> None:
    assert answered(SHAPES, error) == answer
