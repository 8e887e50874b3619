"""What a pipeline's author is told when the file is loaded, rather than when a document comes."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest
from pydantic import BaseModel

from headrace.pipeline import Count, GroupBy, Latest, Maximum, Metric, Minimum, Pipeline, Sum, Trend, View


class Offer(BaseModel):
    price: int = 1


class Thing(BaseModel):
    name: str
    size: int = 1
    weight: float = 0.5
    cost: Decimal = Decimal(1)
    at: datetime = datetime.fromisoformat("2026-01-01T00:00:00Z")
    fast: bool = True
    tags: list[str] = []
    offer: Offer = Offer()
    group: str | None = None
    rest: Offer | None = None


class Stored(BaseModel):
    label: str


class Hidden(BaseModel):
    model_config = {"alias_generator": lambda name: f"_{name}", "populate_by_name": True}
    name: str = "a"


EXAMPLE = {"name": "a"}


def thing(**changes: Any) -> Pipeline:
    return Pipeline(**{"name": "things", "accepts": Thing, "example": EXAMPLE, **changes})


def label(thing: Thing) -> Stored:
    return Stored(label=thing.name)


def refuse(_thing: Thing) -> Stored:
    raise ValueError("never")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: thing(name=""), r"a name is a lower-case letter"),
        (lambda: thing(name="Things"), r"a name is a lower-case letter"),
        (lambda: thing(name="a-b"), r"a name is a lower-case letter"),
        (lambda: thing(name="a.b"), r"a name is a lower-case letter"),
        (lambda: thing(name="1a"), r"a name is a lower-case letter"),
        (lambda: thing(name="a" * 41), r"a name is a lower-case letter"),
        (lambda: thing(name="a\n"), r"a name is a lower-case letter"),
        (lambda: thing(name="processed"), r"the results of analyses have this name"),
        (lambda: thing(analysis="a module"), r"analysis='a module' is no dotted name"),
        (lambda: thing(yields=Stored), r"it needs a transform"),
        (lambda: thing(yields=Stored, transform=lambda one: one), r"transform returns Thing, not Stored"),
        (lambda: thing(transform=label), r"transform returns Stored, not Thing"),
        (lambda: thing(yields=Stored, transform=refuse), r"never"),
        (lambda: thing(example={}), r"name\n  Field required"),
        (lambda: thing(metrics=[Count("a"), Count("a")]), r"two metrics have one name"),
        (lambda: thing(metrics=[Count("A")]), r"metric 'A': a name is"),
        (lambda: thing(metrics=[Count("a", by="nope")]), r"metric 'a': 'nope' is no field of Thing; it has at, cost"),
        (lambda: thing(metrics=[Count("a", by=("name", "nope"))]), r"'nope' is no field"),
        (lambda: thing(metrics=[Count("a", by="offer")]), r"'offer' is no field"),
        (lambda: thing(metrics=[Sum("a", of="nope")]), r"'nope' is no field"),
        (lambda: thing(metrics=[Latest("a", at="nope")]), r"'nope' is no field"),
        (lambda: thing(metrics=[Latest("a", at="at", of=("nope",))]), r"'nope' is no field"),
        (lambda: thing(metrics=[Trend("a", every="1m", at="nope")]), r"'nope' is no field"),
        (lambda: thing(metrics=[Sum("a", of="name")]), r"'name' is not a number"),
        (lambda: thing(metrics=[Minimum("a", of="fast")]), r"'fast' is not a number"),
        (lambda: thing(metrics=[Maximum("a", of="tags[]")]), r"'tags\[\]' is not a number"),
        (lambda: thing(metrics=[Sum("a", of="size[]")]), r"'size\[\]' is not a number"),
        (lambda: thing(metrics=[Trend("a", every="1m", of="at")]), r"'at' is not a number"),
        (lambda: thing(metrics=[Latest("a", at="name")]), r"'name' is not a time"),
        (lambda: thing(metrics=[Trend("a", every="1m", at="fast")]), r"'fast' is not a time"),
        (lambda: thing(metrics=[Count("a", by="name[]")]), r"'name\[\]' is not a list"),
        (lambda: thing(metrics=[Trend("a", every="1x")]), r"every='1x' is not like 30s"),
        (lambda: thing(metrics=[Trend("a", every="0m")]), r"every='0m' is not like 30s"),
        (lambda: thing(metrics=[Trend("a", every="")]), r"every='' is not like 30s"),
        (lambda: thing(metrics=[GroupBy("a", by="name")]), r"GroupBy and Distinct go with entities"),
        (lambda: thing(entity=True), r"an entity needs a key"),
        (lambda: thing(entity=True, key=("name",), metrics=[Count("a")]), r"GroupBy and Distinct go with entities"),
        (lambda: thing(key=("nope",)), r"key: 'nope' is no field of Thing"),
        (lambda: thing(key=("group",)), r"key: 'group' may be null"),
        (lambda: thing(key=("rest.price",)), r"key: 'rest.price' may be null"),
        (lambda: thing(key=("name.x",)), r"key: 'name.x' is no field of Thing"),
        (lambda: thing(key=("offer.nope",)), r"key: 'offer.nope' is no field of Thing"),
        (lambda: thing(entity=True, key=("name",), yields=Stored, transform=label), r"'name', must be a field of `y"),
        (lambda: thing(views=[View(path="/a", metric="a", shape=dict)]), r"view '/a': there is no metric 'a'"),
        (lambda: thing(accepts=Hidden, example={}), r"a field must not start with _, as '_name' does"),
    ],
)
def test_a_mistake_is_named(make: Callable[[], Pipeline], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "metric",
    [
        Count("a"),
        Count("a", by="name"),
        Count("a", by="tags[]"),
        Count("a", by=("offer.price", "tags[]", "fast")),
        Sum("a", of="cost", by="name"),
        Minimum("a", of="offer.price"),
        Maximum("a", of="weight"),
        Latest("a", at="at", of=("name", "tags")),
        Latest("a", at="size"),
        Trend("a", every="30s"),
        Trend("a", every="9999d", of="size", at="weight", by="name"),
    ],
)
def test_a_metric_over_fields_that_are_there_is_taken(metric: Metric) -> None:
    found = thing(metrics=[metric])

    assert found.metric("a") is metric
    assert found.metric("b") is None


def test_without_yields_what_is_accepted_is_stored() -> None:
    pipeline = thing()

    assert pipeline.yields is Thing
    assert pipeline.apply(Thing(name="b")) == Thing(name="b")


def test_a_transform_makes_the_stored_form() -> None:
    pipeline = thing(yields=Stored, transform=label)

    assert pipeline.apply(Thing(name="b")) == Stored(label="b")
    assert [field.path for field in pipeline.fields] == ["label"]


@pytest.mark.parametrize(("every", "seconds"), [("30s", 30), ("1m", 60), ("2h", 7200), ("1d", 86400)])
def test_a_bucket_s_width_is_read_from_its_text(every: str, seconds: int) -> None:
    assert Trend("a", every=every).every_seconds == seconds
