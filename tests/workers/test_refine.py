"""Validate and transform: a clean line, or a dead letter that says why."""

from __future__ import annotations

import json
from decimal import Decimal

import msgspec
import pytest
from pydantic import BaseModel, Field

from headrace import identity
from headrace.document import Envelope, digest, envelopes, new_id
from headrace.pipeline import Pipeline
from headrace.registry import load_pipelines
from headrace.schema import validate
from tests.workers.plant import PIPELINES
from workers.outcome import Forward, Item, Refused, Verdict
from workers.refine import refine

THINGS = load_pipelines(PIPELINES)["things"]
TIME = "2026-01-01T00:00:00.000000Z"


class Aliased(BaseModel):
    number: str = Field(alias="InvoiceNo")
    price: Decimal = Field(alias="UnitPrice", serialization_alias="unitPrice")


ALIASED = Pipeline(name="aliased", accepts=Aliased, example={"InvoiceNo": "1", "UnitPrice": "1"})


class Loose(BaseModel):
    weight: float | None = None
    more: dict[str, float] = {}


LOOSE = Pipeline(name="loose", accepts=Loose, example={})


def refined(pipeline: Pipeline, data: bytes, ordinal: int = 0) -> tuple[Item, Verdict]:
    item = Item(Envelope(new_id(), TIME, "me", msgspec.Raw(data), ordinal=ordinal), new_id())
    return item, refine(pipeline, item)


def test_a_valid_document_goes_on_in_its_stored_form() -> None:
    data = b'{ "name": "a", "price": "1.50" }'
    item, verdict = refined(THINGS, data, ordinal=3)
    assert isinstance(verdict, Forward)
    [clean] = envelopes(verdict.line)

    assert (clean.id, clean.time, clean.subject, clean.ordinal) == (item.envelope.id, TIME, "me", 3)
    assert clean.sha256 == digest(data)
    assert json.loads(bytes(clean.data)) == {
        "name": "a", "group": None, "size": 0, "price": "1.50", "at": None, "tags": [], "weight": 0.5, "filler": "",
    }  # fmt: skip
    assert refine(THINGS, item) == verdict


def test_fields_are_stored_under_their_names_in_json() -> None:
    _, verdict = refined(ALIASED, b'{"InvoiceNo":"7","UnitPrice":"0.10"}')
    assert isinstance(verdict, Forward)

    assert json.loads(bytes(envelopes(verdict.line)[0].data)) == {"InvoiceNo": "7", "unitPrice": "0.10"}


@pytest.mark.parametrize(
    ("data", "code", "status", "broken"),
    [
        (b"", "malformed_json", 400, [("", "malformed_json")]),
        (b"\xff\x00", "malformed_json", 400, [("", "malformed_json")]),
        (b"[]", "invalid_document", 422, [("", "model_type")]),
        (b'{"name":5,"x":1}', "invalid_document", 422, [("/name", "string_type"), ("/x", "extra_forbidden")]),
        (b'{"name":"\\u0000"}', "invalid_document", 422, [("/name", "nul_character")]),
        (b'{"name":"a","mode":"refuse"}', "transform_refused", 422, []),
        (b'{"name":"a","mode":"bug"}', "transform_failed", 422, []),
        (b'{"name":"a","mode":"nan"}', "invalid_document", 422, [("/weight", "finite_number")]),
        (b'{"name":"a","mode":"grow"}', "too_large", 422, []),
    ],
)
def test_what_cannot_go_on_is_refused_with_the_reason(
    data: bytes, code: str, status: int, broken: list[tuple[str, str]]
) -> None:
    _, verdict = refined(THINGS, data)
    assert isinstance(verdict, Refused)

    assert (verdict.error.code, verdict.error.status) == (code, status)
    assert [(one.pointer, one.code) for one in verdict.error.errors] == broken


def test_the_author_s_reason_is_told_and_his_bug_s_is_not() -> None:
    _, refused = refined(THINGS, b'{"name":"a","mode":"refuse"}')
    _, failed = refined(THINGS, b'{"name":"a","mode":"bug"}')
    assert isinstance(refused, Refused)
    assert isinstance(failed, Refused)

    assert "Refused as asked." in refused.error.detail
    assert "KeyError" in failed.error.detail
    assert "secret" not in failed.error.detail


@pytest.mark.parametrize(
    ("data", "pointer"),
    [
        (b'{"weight":"NaN"}', "/weight"),
        (b'{"more":{"a":1,"b/c":"-inf"}}', "/more/b~1c"),
        (b'{"weight":"1e999"}', "/weight"),
    ],
)
def test_a_number_that_json_has_not_is_refused_rather_than_made_null(data: bytes, pointer: str) -> None:
    _, verdict = refined(LOOSE, data)
    assert isinstance(verdict, Refused)

    assert [one.pointer for one in verdict.error.errors] == [pointer]


def test_null_stays_null() -> None:
    assert isinstance(refined(LOOSE, b'{"weight":null}')[1], Forward)


class Weighed(BaseModel):
    number: str
    weight: float
    note: str = ""


WEIGHED = Pipeline(name="weighed", accepts=Weighed, key=("number",), example={"number": "1", "weight": 1})


def sha256_of(pipeline: Pipeline, data: bytes, document_id: str | None = None) -> str:
    natural = identity.document_id(pipeline, "me", validate(pipeline, data), None)
    item = Item(Envelope(document_id or natural, TIME, "me", msgspec.Raw(data)), new_id())
    verdict = refine(pipeline, item)
    assert isinstance(verdict, Forward)
    [clean] = envelopes(verdict.line)
    return clean.sha256


def test_under_a_natural_key_the_same_written_otherwise_is_a_repeat_and_other_content_is_not() -> None:
    written = b'{"number":"7","weight":2}'

    assert sha256_of(WEIGHED, b'{ "weight": 2.0, "number": "7" }') == sha256_of(WEIGHED, written)
    assert sha256_of(WEIGHED, b'{"number":"7","weight":3}') != sha256_of(WEIGHED, written)


def test_under_a_natural_key_a_new_field_with_a_default_changes_no_digest() -> None:
    class Before(BaseModel):
        number: str
        weight: float

    before = Pipeline(name="weighed", accepts=Before, key=("number",), example={"number": "1", "weight": 1})
    written = b'{"number":"7","weight":2}'

    assert sha256_of(before, written) == sha256_of(WEIGHED, written)


def test_under_a_clients_key_the_bytes_decide() -> None:
    written = b'{"number":"7","weight":2}'

    assert sha256_of(WEIGHED, written, document_id=new_id()) == digest(written)
