"""Which id a document gets, and which documents are the same."""

from __future__ import annotations

import pytest
from pydantic import BaseModel

from headrace.document import parse_id
from headrace.identity import document_id
from headrace.pipeline import Pipeline


class Part(BaseModel):
    code: str = "x"


class Thing(BaseModel):
    number: int
    part: Part = Part()


PLAIN = Pipeline(name="plain", accepts=Thing, example={"number": 1})
KEYED = Pipeline(name="keyed", accepts=Thing, example={"number": 1}, key=("number", "part.code"))
ENTITY = Pipeline(name="entity", accepts=Thing, example={"number": 1}, key=("number",), entity=True)
ONE = Thing(number=1)


def test_without_a_key_each_document_is_new() -> None:
    ids = {document_id(PLAIN, "me", ONE, None) for _ in range(3)}

    assert len(ids) == 3
    assert {parse_id(one).version for one in ids} == {7}


@pytest.mark.parametrize("pipeline", [PLAIN, KEYED, ENTITY])
def test_a_client_s_key_decides_whatever_the_document_says(pipeline: Pipeline) -> None:
    one = document_id(pipeline, "me", ONE, "k", "sha")

    assert one == document_id(pipeline, "me", Thing(number=2), "k", "other")
    assert one != document_id(pipeline, "me", ONE, "l", "sha")
    assert parse_id(one).version == 5


def test_a_key_of_another_sender_or_pipeline_is_another_key() -> None:
    ids = {document_id(pipeline, sender, ONE, "k") for pipeline in (PLAIN, KEYED) for sender in ("me", "you")}

    assert len(ids) == 4


def test_a_natural_key_makes_the_id() -> None:
    one = document_id(KEYED, "me", ONE, None)

    assert one == document_id(KEYED, "me", Thing(number=1), None, "any digest")
    assert one != document_id(KEYED, "me", Thing(number=2), None)
    assert one != document_id(KEYED, "me", Thing(number=1, part=Part(code="y")), None)
    assert one != document_id(KEYED, "you", ONE, None)


def test_a_natural_key_is_never_a_client_s_key() -> None:
    assert document_id(KEYED, "me", ONE, '["1","x"]') != document_id(KEYED, "me", ONE, None)


def test_versions_of_an_entity_differ_by_content() -> None:
    assert document_id(ENTITY, "me", ONE, None, "a") == document_id(ENTITY, "me", ONE, None, "a")
    assert document_id(ENTITY, "me", ONE, None, "a") != document_id(ENTITY, "me", ONE, None, "b")
