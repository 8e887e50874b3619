"""Schemas to fields: which input shows what, and what no input can show."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field, create_model

from gateway.pages.nodes import Group, Input, Node, Rows
from gateway.pages.schema import form_of
from headrace.pipeline import Pipeline
from headrace.registry import load_pipelines


class Colour(Enum):
    RED = "red"
    DARK_BLUE = "dark_blue"


class Part(BaseModel):
    name: str
    amount: int = Field(ge=0)


class Tree(BaseModel):
    left: Tree | None = None


def field_of(annotation: Any, **about: Any) -> Node:
    """Return the field of a model that has this one."""
    model: type[BaseModel] = create_model("Model", it=(annotation, Field(**about)))
    form = form_of(model.model_json_schema())
    assert isinstance(form, Group)
    return form.fields[0]


@pytest.mark.parametrize(
    ("annotation", "kind"),
    [
        (str, "text"),
        (Annotated[str, Field(max_length=2000)], "long_text"),
        (str | int, "text"),
        (int, "integer"),
        (float, "number"),
        (Decimal, "decimal"),
        (bool, "choice"),
        (date, "date"),
        (datetime, "moment"),
        (Colour, "choice"),
        (Literal[1, 2, 30], "choice"),
        (Literal["only"], "choice"),
        (Annotated[int, Field(ge=1, le=5)], "choice"),
        (Annotated[int, Field(ge=1, le=6)], "integer"),
        (Annotated[int, Field(gt=0, lt=4)], "choice"),
        (list[str], "lines"),
        (list[int], "lines"),
        (list[Colour], "choices"),
        (dict[str, int], "json"),
        (list[list[int]], "json"),
        (tuple[int, str], "json"),
        (Part | list[Part], "json"),
        (Tree, None),
        (Any, "json"),
    ],
)
def test_each_type_has_its_input(annotation: Any, kind: str | None) -> None:
    for nullable in (False, True):
        found = field_of(annotation | None if nullable and annotation is not Any else annotation)
        if kind is None:
            # What holds itself is shown as fields once, and as JSON where it comes again.
            assert isinstance(found, Group)
            assert isinstance(found.fields[0], Input)
            assert found.fields[0].kind == "json"
        else:
            assert isinstance(found, Input)
            assert (found.kind, found.nullable) == (kind, nullable and annotation is not Any)


def test_objects_are_groups_and_lists_of_them_rows() -> None:
    group, rows = field_of(Part), field_of(list[Part], min_length=2, max_length=9)

    assert isinstance(group, Group)
    assert [(one.name, one.required) for one in group.fields] == [("name", True), ("amount", True)]
    assert isinstance(rows, Rows)
    assert (rows.least, rows.most, rows.row.fields) == (2, 9, group.fields)


@pytest.mark.parametrize(
    ("about", "minimum", "maximum", "hint"),
    [
        ({"ge": 0, "le": 20}, "0", "20", "A whole number from 0 to 20."),
        ({"gt": 0}, "1", "", "A whole number, at least 1."),
        ({"lt": 100}, "", "99", "A whole number, at most 99."),
        ({"ge": -(2**63), "lt": 2**63}, str(-(2**63)), str(2**63 - 1), "A whole number."),
        ({"description": "of lessons", "ge": 0}, "0", "", "Of lessons. A whole number, at least 0."),
    ],
)
def test_ranges_are_told_and_set(about: dict[str, Any], minimum: str, maximum: str, hint: str) -> None:
    found = field_of(int, **about)

    assert isinstance(found, Input)
    assert (found.minimum, found.maximum, found.hint) == (minimum, maximum, hint)


def test_a_choice_that_reads_like_another_is_sent_in_quotes() -> None:
    found = field_of(Literal[True, False, "true"])

    assert isinstance(found, Input)
    assert [(choice.text, choice.value) for choice in found.choices] == [
        ("true", True),
        ("false", False),
        ('"true"', "true"),
    ]


@pytest.mark.parametrize(
    ("annotation", "default", "texts"),
    [(str, "a", ("a",)), (int, 0, ("0",)), (bool, True, ("true",)), (int, 1, ("1",)), (Colour, "red", ("red",))],
)
def test_a_default_stands_there_at_first(annotation: Any, default: Any, texts: tuple[str, ...]) -> None:
    found = field_of(annotation, default=default)

    assert isinstance(found, Input)
    assert (found.default, found.required) == (texts, False)


@pytest.mark.parametrize(
    ("name", "title", "label"),
    [
        ("InvoiceNo", "Invoiceno", "Invoice no"),
        ("customer_id", "Customer Id", "Customer id"),
        ("CustomerID", "Customerid", "Customer ID"),
        ("G3", "Final mark", "Final mark"),
    ],
)
def test_a_label_is_the_authors_or_made_of_the_name(name: str, title: str, label: str) -> None:
    form = form_of({"type": "object", "properties": {name: {"type": "string", "title": title}}})

    assert isinstance(form, Group)
    assert form.fields[0].label == label


@pytest.mark.parametrize("schema", [{}, {"type": "array"}, {"type": "object"}, {"anyOf": [{"type": "object"}] * 2}])
def test_a_document_that_is_no_group_is_written_as_json(schema: dict[str, Any]) -> None:
    form = form_of(schema)

    assert isinstance(form, Input)
    assert form.kind == "json"


@pytest.mark.parametrize("pipeline", load_pipelines().values(), ids=lambda pipeline: pipeline.name)
def test_every_pipeline_has_a_field_for_all_that_it_accepts(pipeline: Pipeline) -> None:
    schema = pipeline.accepts.model_json_schema()
    form = form_of(schema, dict(pipeline.example))

    assert isinstance(form, Group)
    assert {one.name for one in form.fields} == set(schema["properties"])
    assert {one.name for one in form.fields if one.required} == set(schema.get("required", ()))
    assert all(one.label for one in form.fields)
