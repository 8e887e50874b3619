"""The searches pipeline: which searches it takes, and which offer it finds."""

from __future__ import annotations

import json
from typing import Any

import pytest

from headrace.errors import DocumentError
from headrace.pipeline import View
from headrace.schema import validate
from pipelines.searches import PricedSearch, searches

SEARCH: dict[str, Any] = dict(searches.example)


def offer(eurocents: Any, **more: Any) -> dict[str, Any]:
    return {"eurocents": eurocents, "breakfast": False, **more}


def priced(**changes: Any) -> PricedSearch:
    search = searches.apply(validate(searches, json.dumps(SEARCH | changes).encode()))
    assert isinstance(search, PricedSearch)
    return search


def broken_rules(document: dict[str, Any]) -> set[tuple[str, str]]:
    with pytest.raises(DocumentError) as refusal:
        validate(searches, json.dumps(document).encode())
    return {(error.pointer, error.code) for error in refusal.value.errors}


def test_the_stored_form_has_names_and_the_cheapest_offer() -> None:
    assert json.loads(priced().model_dump_json()) == {
        "user_id": "001adddd-6a55-4cd0-a1a1-9ca20e20d488",
        "hotel_id": "6036",
        "search_timestamp": 1620224528,
        "advertisers": ["Amoma", "Mercure"],
        "min_offer": {"price": 12621, "advertiser": "Mercure"},
    }


@pytest.mark.parametrize(
    ("offers", "price", "advertiser"),
    [
        ({"A": [offer(100)]}, 100, "A"),
        ({"A": [offer(300), offer(200)], "B": [offer(250)]}, 200, "A"),
        ({"A": [offer(300)], "B": [offer(250), offer(100)]}, 100, "B"),
        ({"B": [offer(100)], "A": [offer(100)]}, 100, "B"),
        ({"A": [offer(101), offer(100)], "B": [offer(100)]}, 100, "A"),
        ({"A": [], "B": [offer(250)]}, 250, "B"),
        ({"A": [offer(0)], "B": [offer(0)]}, 0, "A"),
    ],
    ids=["one", "within", "later", "tie", "tie_within", "without_offers", "free"],
)
def test_the_cheapest_offer_wins_and_of_equals_the_first(offers: Any, price: int, advertiser: str) -> None:
    search = priced(hotel_advertisers=offers)

    assert (search.min_offer.price, search.min_offer.advertiser) == (price, advertiser)
    assert search.advertisers == list(offers)


def test_a_search_without_any_offer_has_no_cheapest_one() -> None:
    search = validate(searches, json.dumps(SEARCH | {"hotel_advertisers": {"A": [], "B": []}}).encode())

    with pytest.raises(ValueError, match="No advertiser in hotel_advertisers has an offer"):
        searches.apply(search)


def test_a_search_without_advertisers_is_refused_at_the_door() -> None:
    assert broken_rules(SEARCH | {"hotel_advertisers": {}}) == {("/hotel_advertisers", "too_short")}


@pytest.mark.parametrize("hotel", ["6036", 6036, 6036.0])
def test_a_hotel_is_text_however_it_is_given(hotel: Any) -> None:
    assert priced(hotel_id=hotel).hotel_id == "6036"


@pytest.mark.parametrize("moment", [1620224528, 1620224528.25, 0])
def test_a_time_stays_a_number(moment: Any) -> None:
    assert json.loads(priced(search_timestamp=moment).model_dump_json())["search_timestamp"] == moment


def test_a_user_is_one_user_in_either_case() -> None:
    assert priced(user_id=SEARCH["user_id"].upper()).user_id == SEARCH["user_id"]


@pytest.mark.parametrize("breakfast", [True, False, None, "true", "false"])
def test_breakfast_may_be_a_boolean_its_text_or_unknown(breakfast: Any) -> None:
    assert priced(hotel_advertisers={"A": [offer(5, breakfast=breakfast)]}).min_offer.price == 5


def test_breakfast_may_be_left_out() -> None:
    assert priced(hotel_advertisers={"A": [{"eurocents": 5}]}).min_offer.price == 5


@pytest.mark.parametrize(
    ("changes", "pointer", "rule"),
    [
        ({"user_id": "nobody"}, "/user_id", "string_pattern_mismatch"),
        ({"user_id": None}, "/user_id", "string_type"),
        ({"user_id": 7}, "/user_id", "string_type"),
        ({"hotel_id": ""}, "/hotel_id", "string_pattern_mismatch"),
        ({"hotel_id": 6036.5}, "/hotel_id", "string_pattern_mismatch"),
        ({"hotel_id": True}, "/hotel_id", "string_type"),
        ({"search_timestamp": "1620224528"}, "/search_timestamp", "float_type"),
        ({"search_timestamp": True}, "/search_timestamp", "float_type"),
        ({"search_timestamp": -1}, "/search_timestamp", "greater_than_equal"),
        ({"search_timestamp": 1620224528000}, "/search_timestamp", "less_than_equal"),
        ({"hotel_advertisers": None}, "/hotel_advertisers", "dict_type"),
        ({"hotel_advertisers": [offer(5)]}, "/hotel_advertisers", "dict_type"),
        ({"hotel_advertisers": {"A": offer(5)}}, "/hotel_advertisers/A", "list_type"),
        ({"hotel_advertisers": {"A": [offer(-1)]}}, "/hotel_advertisers/A/0/eurocents", "greater_than_equal"),
        ({"hotel_advertisers": {"A": [offer(5), offer(5.5)]}}, "/hotel_advertisers/A/1/eurocents", "int_type"),
        ({"hotel_advertisers": {"A": [offer("5")]}}, "/hotel_advertisers/A/0/eurocents", "int_type"),
        ({"hotel_advertisers": {"A": [offer(2**63)]}}, "/hotel_advertisers/A/0/eurocents", "integer_range"),
        ({"hotel_advertisers": {"A": [{}]}}, "/hotel_advertisers/A/0/eurocents", "missing"),
        (
            {"hotel_advertisers": {"A": [offer(5, breakfast="yes")]}},
            "/hotel_advertisers/A/0/breakfast",
            "literal_error",
        ),
        ({"hotel_advertisers": {"A": [offer(5, stars=4)]}}, "/hotel_advertisers/A/0/stars", "extra_forbidden"),
        ({"price": 5}, "/price", "extra_forbidden"),
    ],
)
def test_a_search_that_breaks_a_rule_is_refused(changes: dict[str, Any], pointer: str, rule: str) -> None:
    assert broken_rules(SEARCH | changes) == {(pointer, rule)}


def view_at(path: str) -> View:
    return next(view for view in searches.views if isinstance(view, View) and view.path == path)


@pytest.mark.parametrize("path", ["/users", "/hotels", "/advertisers"])
def test_the_counting_views_say_how_many_and_how_often(path: str) -> None:
    view = view_at(path)
    answer = {"metric": view.metric, "kind": "count", "count": 2, "data": {"a": 3, "b": 1}}

    assert view.shape(answer) == {"count": 2, "data": {"a": 3, "b": 1}}


def test_the_view_of_least_prices_is_hotel_to_advertiser_to_price() -> None:
    view = view_at("/hotel_min_offer_per_advertiser")
    data = {"6036": {"Amoma": 100, "Mercure": 90}, "6035": {"Amoma": 80}}

    assert view.shape({"metric": view.metric, "kind": "minimum", "count": 3, "data": data}) == data
