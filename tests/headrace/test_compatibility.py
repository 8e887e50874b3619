"""Which changes of a schema break what was valid or stored before: a table of cases."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, create_model

from headrace.compatibility import SchemaVersion, breaks, described, narrowed
from headrace.pipeline import Pipeline
from headrace.registry import load_pipelines


def accepting(annotation: Any, default: Any = ...) -> dict[str, Any]:
    """Return the schema of a model with one field, `a`."""
    return create_model("Document", a=(annotation, default)).model_json_schema()


class Flat(BaseModel):
    size: int


class Closed(BaseModel):
    model_config = ConfigDict(extra="forbid")
    size: int


class Wider(BaseModel):
    size: float
    name: str = ""


class Named(BaseModel):
    size: int
    name: str


class Tree(BaseModel):
    size: int
    children: list[Tree] = []


class WideTree(BaseModel):
    size: float
    children: list[WideTree] = []


class NarrowTree(BaseModel):
    size: int = Field(ge=0)
    children: list[NarrowTree] = []


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"]
    name: str


COMPATIBLE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "nothing": (accepting(int), accepting(int)),
    "int to float": (accepting(int), accepting(float)),
    "int to text or int": (accepting(int), accepting(int | str)),
    "null is taken too": (accepting(int), accepting(int | None)),
    "required to optional": (accepting(int), accepting(int, 0)),
    "another default": (accepting(int, 0), accepting(int, 1)),
    "lower minimum": (
        accepting(int, Field(ge=1)),
        accepting(int, Field(ge=0)),
    ),
    "the same bound, now inclusive": (accepting(int, Field(gt=1)), accepting(int, Field(ge=1))),
    "no maximum": (accepting(int, Field(le=9)), accepting(int)),
    "longer text": (accepting(str, Field(max_length=9)), accepting(str, Field(max_length=10))),
    "an explicit minimum of nothing": (accepting(str), accepting(str, Field(min_length=0))),
    "no pattern": (accepting(str, Field(pattern="^a$")), accepting(str)),
    "one more value": (accepting(Literal["a", "b"]), accepting(Literal["a", "b", "c"])),
    "values to any text": (accepting(Literal["a", "b"]), accepting(str)),
    "values to a pattern that has them": (accepting(Literal["a", "b"]), accepting(str, Field(pattern="^[ab]$"))),
    "values to a range that has them": (accepting(Literal[1, 2]), accepting(int, Field(ge=1, le=2))),
    "anything": (accepting(int), accepting(Any)),
    "an optional field where unknown ones were ignored": (accepting(Flat), accepting(Wider)),
    "unknown fields are taken": (accepting(Closed), accepting(Flat)),
    "elements of a wider type": (accepting(list[int]), accepting(list[float])),
    "more elements": (accepting(list[int], Field(max_length=2)), accepting(list[int], Field(max_length=3))),
    "a pair to a list": (accepting(tuple[int, int]), accepting(list[float])),
    "values of a dict": (accepting(dict[str, int]), accepting(dict[str, float])),
    "a model to a dict of what it had": (accepting(Flat), accepting(dict[str, Any])),
    "a tree of a wider type": (Tree.model_json_schema(), WideTree.model_json_schema()),
    "one more kind": (accepting(Cat), accepting(Cat | Dog)),
    "a multiple of a multiple": (
        accepting(int, Field(multiple_of=6)),
        accepting(int, Field(multiple_of=3)),
    ),
    "a field that is dropped where unknown ones are ignored": (accepting(Wider), accepting(dict[str, Any])),
}

# name: (old, new, [(pointer, code)])
BREAKING: dict[str, tuple[dict[str, Any], dict[str, Any], list[tuple[str, str]]]] = {
    "optional to required": (accepting(int, 0), accepting(int), [("/accepts/a", "now_required")]),
    "float to int": (accepting(float), accepting(int), [("/accepts/a", "type_narrowed")]),
    "text to int": (accepting(str), accepting(int), [("/accepts/a", "type_narrowed")]),
    "null is refused": (accepting(int | None), accepting(int), [("/accepts/a", "type_narrowed")]),
    "anything to int": (accepting(Any), accepting(int), [("/accepts/a", "type_narrowed")]),
    "one value less": (
        accepting(Literal["a", "b"]),
        accepting(Literal["a"]),
        [("/accepts/a", "values_gone")],
    ),
    "any text to values": (accepting(str), accepting(Literal["a"]), [("/accepts/a", "values_gone")]),
    "values that a pattern refuses": (
        accepting(Literal["a", "bb"]),
        accepting(str, Field(pattern="^.$")),
        [("/accepts/a", "values_gone")],
    ),
    "true is not 1": (accepting(Literal[True]), accepting(Literal[1]), [("/accepts/a", "values_gone")]),
    "higher minimum": (accepting(int, Field(ge=0)), accepting(int, Field(ge=1)), [("/accepts/a", "range_narrowed")]),
    "a new minimum": (accepting(int), accepting(int, Field(ge=1)), [("/accepts/a", "range_narrowed")]),
    "the same bound, now exclusive": (
        accepting(int, Field(ge=0)),
        accepting(int, Field(gt=0)),
        [("/accepts/a", "range_narrowed")],
    ),
    "lower maximum": (accepting(int, Field(le=9)), accepting(int, Field(le=8)), [("/accepts/a", "range_narrowed")]),
    "shorter text": (accepting(str), accepting(str, Field(max_length=9)), [("/accepts/a", "range_narrowed")]),
    "no empty text": (accepting(str), accepting(str, Field(min_length=1)), [("/accepts/a", "range_narrowed")]),
    "another pattern": (
        accepting(str, Field(pattern="^a")),
        accepting(str, Field(pattern="^b")),
        [("/accepts/a", "pattern_changed")],
    ),
    "text to time": (accepting(str), accepting(datetime), [("/accepts/a", "format_changed")]),
    "a multiple": (accepting(int), accepting(int, Field(multiple_of=5)), [("/accepts/a", "range_narrowed")]),
    "fewer elements": (
        accepting(list[int], Field(max_length=3)),
        accepting(list[int], Field(max_length=2)),
        [("/accepts/a", "range_narrowed")],
    ),
    "a set": (accepting(list[int]), accepting(set[int]), [("/accepts/a", "range_narrowed")]),
    "elements of a narrower type": (accepting(list[float]), accepting(list[int]), [("/accepts/a/*", "type_narrowed")]),
    "a list to a pair": (
        accepting(list[int]),
        accepting(tuple[int, str]),
        [("/accepts/a", "range_narrowed"), ("/accepts/a", "range_narrowed"), ("/accepts/a/1", "type_narrowed")],
    ),
    "unknown fields are refused": (accepting(Flat), accepting(Closed), [("/accepts/a", "extra_refused")]),
    "a field that is refused": (
        accepting(Wider),
        accepting(Closed),
        [("/accepts/a/size", "type_narrowed"), ("/accepts/a/name", "field_gone"), ("/accepts/a", "extra_refused")],
    ),
    "one more field is required": (accepting(Flat), accepting(Named), [("/accepts/a/name", "now_required")]),
    "values of a dict": (
        accepting(dict[str, float]),
        accepting(dict[str, int]),
        [("/accepts/a/*", "type_narrowed")],
    ),
    "a dict to a model": (
        accepting(dict[str, float]),
        accepting(Flat),
        [("/accepts/a/size", "now_required"), ("/accepts/a/size", "type_narrowed")],
    ),
    "a tree of a narrower type": (
        Tree.model_json_schema(),
        NarrowTree.model_json_schema(),
        [("/accepts/size", "range_narrowed"), ("/accepts/children/*/size", "range_narrowed")],
    ),
    "one kind less": (accepting(Cat | Dog), accepting(Cat), [
        ("/accepts/a/lives", "now_required"), ("/accepts/a/kind", "values_gone"),
    ]),
    "a rule that we do not know": (
        {"type": "object"},
        {"type": "object", "if": {"required": ["a"]}, "then": {"required": ["b"]}},
        [("/accepts", "not_comparable"), ("/accepts", "not_comparable")],
    ),
    "nothing is taken": (
        {"type": "object", "properties": {"a": {"type": "string"}}},
        {"type": "object", "properties": {"a": False}},
        [("/accepts/a", "type_narrowed")],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("old", "new"), COMPATIBLE.values(), ids=list(COMPATIBLE))
def test_what_takes_as_much_or_more_is_compatible(old: dict[str, Any], new: dict[str, Any]) -> None:
    assert narrowed(old, new) == []


@pytest.mark.parametrize(("old", "new", "reasons"), BREAKING.values(), ids=list(BREAKING))
def test_what_may_refuse_a_valid_document_is_named_by_field_and_rule(
    old: dict[str, Any], new: dict[str, Any], reasons: list[tuple[str, str]]
) -> None:
    assert [(error.pointer, error.code) for error in narrowed(old, new)] == reasons


bounds = st.one_of(st.none(), st.integers(-3, 3))


@given(bounds, bounds, bounds, bounds, st.integers(-5, 5))
def test_no_value_is_lost_where_bounds_are_called_compatible(
    low: int | None, high: int | None, new_low: int | None, new_high: int | None, value: int
) -> None:
    old_field, new_field = Field(ge=low, le=high), Field(gt=new_low, lt=new_high)

    if not narrowed(accepting(int, old_field), accepting(int, new_field)) and valid(old_field, value):
        assert valid(new_field, value)


def valid(field: Any, value: int) -> bool:
    try:
        TypeAdapter(create_model("Document", a=(int, field))).validate_python({"a": value})
    except ValidationError:
        return False
    return True


def version(yields: type[BaseModel], **options: Any) -> SchemaVersion:
    class Sent(BaseModel):
        a: int = 0

    def transform(sent: Sent) -> BaseModel:
        return yields.model_construct()

    return described(Pipeline(name="things", accepts=Sent, yields=yields, transform=transform, example={}, **options))


def stored(**fields: Any) -> type[BaseModel]:
    required: dict[str, Any] = {name: (annotation, ...) for name, annotation in fields.items()}
    model: type[BaseModel] = create_model("Stored", **required)
    return model


@pytest.mark.parametrize(
    ("old", "new", "reasons"),
    [
        (stored(a=int), stored(a=int, b=str), []),
        (stored(a=int), stored(a=int | None), []),
        (stored(a=int), stored(b=int), [("/yields/a", "stored_field_gone")]),
        (stored(a=int), stored(a=float), [("/yields/a", "stored_type_changed")]),
        (stored(a=str), stored(a=Decimal), [("/yields/a", "stored_type_changed")]),
        (stored(a=str), stored(a=datetime), [("/yields/a", "stored_type_changed")]),
        (stored(a=Flat), stored(a=Wider), [("/yields/a/size", "stored_type_changed")]),
        (stored(a=Named), stored(a=Flat), [("/yields/a/name", "stored_field_gone")]),
        (stored(a=list[int]), stored(a=list[str]), [("/yields/a/[]", "stored_type_changed")]),
        (stored(a=list[int]), stored(a=list[int | str]), [("/yields/a/[]", "stored_type_changed")]),
        (stored(a=list[Named]), stored(a=list[Flat]), [("/yields/a/[]/name", "stored_field_gone")]),
        (stored(a=list[Flat]), stored(a=list[Named]), []),
        (stored(a=list[Flat]), stored(a=list[int]), [("/yields/a/[]/size", "stored_type_changed")]),
        (stored(a=list[int]), stored(a=int), [("/yields/a", "stored_type_changed")]),
        (stored(a=dict[str, int]), stored(a=dict[str, bool]), [("/yields/a/*", "stored_type_changed")]),
        (stored(a=list[Tree]), stored(a=list[Tree]), []),
        (stored(a=list[int], ab=list[int]), stored(ab=list[str]), [
            ("/yields/a", "stored_field_gone"), ("/yields/ab/[]", "stored_type_changed"),
        ]),
    ],
)  # fmt: skip
def test_stored_fields_keep_their_types(
    old: type[BaseModel], new: type[BaseModel], reasons: list[tuple[str, str]]
) -> None:
    assert [(error.pointer, error.code) for error in breaks(version(old), version(new))] == reasons


def test_another_key_or_mode_makes_other_documents_of_the_same() -> None:
    model = stored(a=int)

    found = breaks(version(model), version(model, key=("a",), entity=True))

    assert [error.code for error in found] == ["mode_changed", "key_changed"]
    assert "was none" in found[1].message


@pytest.mark.parametrize("pipeline", load_pipelines().values(), ids=lambda pipeline: pipeline.name)
def test_every_built_in_pipeline_is_compatible_with_itself(pipeline: Pipeline) -> None:
    one, other = described(pipeline), described(pipeline)

    assert one.says_the_same(other)
    assert breaks(one, other) == []
    # Without the short way for what is the same.
    other.accepts["$comment"] = "another"
    assert breaks(one, other) == []
