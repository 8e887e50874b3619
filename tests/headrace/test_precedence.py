"""What versions say of their own age sorts as text as it does as values."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from headrace.pipeline import Distinct, Metric, Pipeline
from headrace.precedence import precedence


class Version(BaseModel):
    number: str
    text: str | None = None
    whole: int | None = None
    real: float | None = None
    yes: bool | None = None
    day: date | None = None
    at: datetime | None = None
    many: list[str] | None = None


def pipeline(*newest_by: str, metrics: tuple[Metric, ...] = (), **more: Any) -> Pipeline:
    kind = {"key": ("number",), "entity": True, **more}
    return Pipeline(name="v", accepts=Version, example={"number": "1"}, newest_by=newest_by, metrics=metrics, **kind)


STORABLE = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]))
VALUES = {
    "text": STORABLE,
    "whole": st.integers(-(2**63), 2**63 - 1),
    "real": st.floats(allow_nan=False, allow_infinity=False),
    "yes": st.booleans(),
    "day": st.dates(),
    "at": st.datetimes(min_value=datetime(2, 1, 1), max_value=datetime(9998, 1, 1)),  # noqa: DTZ001  # UTC
}
ROWS = st.fixed_dictionaries({name: st.none() | values for name, values in VALUES.items()})


@given(ROWS, ROWS, st.permutations(list(VALUES)))
def test_precedences_sort_as_the_values_do(one: dict[str, Any], other: dict[str, Any], paths: list[str]) -> None:
    of = precedence(paths, pipeline().fields)
    stored = [Version(number="1", **row).model_dump(mode="json") for row in (one, other)]
    values = [tuple((row[path] is not None, row[path]) for path in paths) for row in (one, other)]
    texts = [of(row) for row in stored]

    assert (texts[0] == texts[1]) == (values[0] == values[1])
    if values[0] != values[1]:
        # The first difference decides, and null is never compared with a value.
        assert (texts[0] < texts[1]) == (values[0] < values[1])


def test_being_there_is_all_that_counts_of_a_field_that_is_asked_for_so() -> None:
    of = precedence(["many?"], pipeline().fields)

    assert of({"many": None}) < of({"many": ["a"]}) == of({"many": []})


@pytest.mark.parametrize(
    ("paths", "more", "said"),
    [
        (("nothing",), {}, "'nothing' is no field"),
        (("nothing?",), {}, "'nothing' is no field"),
        (("many",), {}, "'many' is of type jsonb"),
        (("text",), {"entity": False}, "newest_by goes with entities"),
        ((), {"metrics": (Distinct("x", of="nothing"),)}, "'nothing' is no field"),
        ((), {"metrics": (Distinct("x", of="text"),), "entity": False}, "go with entities"),
    ],
)
def test_an_order_that_there_cannot_be_keeps_the_file_from_loading(
    paths: tuple[str, ...], more: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        pipeline(*paths, **more)


def test_distinct_has_no_key() -> None:
    with pytest.raises(ValueError, match="no `by`"):
        Distinct("x", of="text", by="text")
