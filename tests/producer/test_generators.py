"""Generators: the same documents for the same seed, good ones that pass and bad ones that do not."""

from __future__ import annotations

from itertools import islice
from typing import Any

import msgspec
import pytest

from headrace.errors import HeadraceError
from headrace.pipeline import Pipeline
from headrace.schema import validate
from pipelines.deliveries import deliveries
from pipelines.invoices import invoices
from pipelines.licenses import licenses
from pipelines.searches import searches
from pipelines.students import students
from producer.generators import bodies, documents

PIPELINES = [deliveries, invoices, licenses, searches, students]


def passes(pipeline: Pipeline, body: bytes) -> bool:
    try:
        pipeline.apply(validate(pipeline, body))
    except (HeadraceError, ValueError):
        return False
    return True


def some(pipeline: str, seed: int = 1, count: int = 500, **options: Any) -> list[dict[str, Any]]:
    return list(islice(documents(pipeline, seed, **options), count))


@pytest.mark.parametrize("pipeline", PIPELINES, ids=lambda pipeline: pipeline.name)
def test_every_made_up_document_is_valid(pipeline: Pipeline) -> None:
    assert all(passes(pipeline, body) for body in islice(bodies(pipeline.name, 3), 3000))


@pytest.mark.parametrize("pipeline", PIPELINES, ids=lambda pipeline: pipeline.name)
def test_every_spoiled_document_is_refused(pipeline: Pipeline) -> None:
    assert not any(passes(pipeline, body) for body in islice(bodies(pipeline.name, 3, bad_share=1.0), 3000))


@pytest.mark.parametrize("pipeline", PIPELINES, ids=lambda pipeline: pipeline.name)
def test_a_bad_share_spoils_that_part_and_leaves_the_rest_as_it_was(pipeline: Pipeline) -> None:
    good = some(pipeline.name, count=4000)
    mixed = some(pipeline.name, count=4000, bad_share=0.25)

    spoiled = sum(a != b for a, b in zip(good, mixed, strict=True))

    assert 850 < spoiled < 1150
    assert spoiled == sum(not passes(pipeline, msgspec.json.encode(document)) for document in mixed)


@pytest.mark.parametrize("pipeline", PIPELINES, ids=lambda pipeline: pipeline.name)
def test_a_seed_decides_everything(pipeline: Pipeline) -> None:
    assert some(pipeline.name, 1) == some(pipeline.name, 1)
    assert some(pipeline.name, 1) != some(pipeline.name, 2)


@pytest.mark.parametrize("pipeline", PIPELINES, ids=lambda pipeline: pipeline.name)
def test_bodies_are_the_documents_as_json(pipeline: Pipeline) -> None:
    made = [msgspec.json.decode(body) for body in islice(bodies(pipeline.name, 5, bad_share=0.1), 500)]

    assert made == some(pipeline.name, 5, bad_share=0.1)


def test_documents_begin_when_the_caller_says() -> None:
    # 2024-02-03T09:05:00Z
    start = 1706951100.0

    assert some("invoices", start=start)[0]["InvoiceDate"] == "3/2/2024 09:05"
    assert some("licenses", start=start)[0][":updated_at"] == "2024-02-03T09:05:00.000Z"
    assert some("searches", start=start)[0]["search_timestamp"] == start
    assert some("deliveries", start=start)[0]["timestamp"] == "2024-02-03T09:05:00.000Z"


def test_invoices_have_lines_cancellations_and_customers_of_one_country() -> None:
    lines = some("invoices", count=20_000)

    cancelled = [line for line in lines if line["InvoiceNo"].startswith("C")]
    assert 0.005 < len(cancelled) / len(lines) < 0.05
    assert all(line["Quantity"] < 0 for line in cancelled)
    assert len({line["InvoiceNo"] for line in lines}) < len(lines) / 4
    countries: dict[str, set[str]] = {}
    for line in lines:
        countries.setdefault(line["CustomerID"], set()).add(line["Country"])
    assert all(len(found) == 1 for found in countries.values())


def test_deliverers_bring_one_order_after_another_and_never_two_at_a_time() -> None:
    on_the_road: dict[int, int] = {}
    locations = some("deliveries", count=3000)

    for location in locations:
        order = on_the_road.setdefault(location["deliverer_id"], location["order_id"])
        assert order == location["order_id"]
        if location["delivery_state"] == "arrived":
            del on_the_road[location["deliverer_id"]]
    assert len({location["order_id"] for location in locations}) > 150
    assert len({msgspec.json.encode(location) for location in locations}) == len(locations)


@pytest.mark.parametrize("pipeline", ["mine", "random", "a.b"])
def test_a_pipeline_without_a_generator_repeats_its_example(pipeline: str) -> None:
    example = {"a": 1, "b": "x"}

    assert some(pipeline, count=3, example=example) == [example] * 3
    assert some(pipeline, count=2, example=example, bad_share=1.0) == [{"a": None, "b": None}] * 2


def test_without_generator_and_example_there_is_nothing_to_make() -> None:
    with pytest.raises(LookupError, match="mine"):
        documents("mine", 1)


def test_with_a_clock_each_document_is_stamped_with_its_moment() -> None:
    clock = iter([1706951100.0, 1706951160.5, 1706951220.0]).__next__

    made = list(islice(documents("searches", 1, clock=clock), 3))

    assert [one["search_timestamp"] for one in made] == [1706951100.0, 1706951160.5, 1706951220.0]


@pytest.mark.parametrize(("pipeline", "field"), [("searches", "user_id"), ("invoices", "CustomerID")])
def test_documents_are_of_as_many_users_as_are_wanted(pipeline: str, field: str) -> None:
    assert len({one[field] for one in islice(documents(pipeline, 1, users=7), 2000)}) == 7


def test_where_documents_have_no_users_that_is_said() -> None:
    with pytest.raises(ValueError, match="Documents of deliveries have no users"):
        documents("deliveries", 1, users=7)
