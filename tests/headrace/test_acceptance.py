"""What any door asks of a document: size, rules, an id that depends on sender and key alone, one line."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from headrace.acceptance import examine
from headrace.errors import RequestError
from headrace.pipeline import Pipeline


class Thing(BaseModel):
    name: str
    size: int = 0


EXAMPLE = {"name": "a"}
events = Pipeline(name="events", accepts=Thing, example=EXAMPLE)
keyed = Pipeline(name="keyed", accepts=Thing, key=("name",), example=EXAMPLE)
entities = Pipeline(name="entities", accepts=Thing, key=("name",), entity=True, example=EXAMPLE)


def identity(pipeline: Pipeline, data: bytes, *, sender: str = "me", key: str | None = None) -> str:
    return examine(pipeline, sender, data, key, max_bytes=1000).id


@pytest.mark.parametrize(
    ("pipeline", "more", "same"),
    [
        (events, {}, False),
        (events, {"key": "k"}, True),
        (keyed, {}, True),
        (keyed, {"key": "k"}, True),
        (entities, {}, True),
    ],
)
def test_a_repeat_has_the_same_id_wherever_something_names_it(
    pipeline: Pipeline, more: dict[str, Any], same: bool
) -> None:
    data = b'{"name": "a"}'

    assert (identity(pipeline, data, **more) == identity(pipeline, data, **more)) == same
    assert identity(pipeline, data, **more) != identity(pipeline, data, **{**more, "sender": "another"})


def test_white_space_around_a_document_and_its_line_breaks_do_not_make_another_version() -> None:
    assert identity(entities, b' {"name":\n"a"}\r\n') == identity(entities, b'{"name": "a"}')
    assert identity(entities, b'{"name":"a","size":1}') != identity(entities, b'{"name":"a","size":2}')


def test_what_is_accepted_stands_on_one_line() -> None:
    assert examine(events, "me", b'\n{"name":\r\n"a"}\n', None, max_bytes=1000).data == b'{"name":  "a"}'


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b'{"name": 5}', "invalid_document"),
        (b"{", "malformed_json"),
        (b'{"name": "\\u0000"}', "invalid_document"),
        (b'{"name": "%b"}' % (b"x" * 1000), "too_large"),
        (b'{"name": "a", "more": %b}' % (b"[" * 100 + b"]" * 100), "too_deep"),
    ],
)
def test_what_breaks_a_rule_is_refused(data: bytes, code: str) -> None:
    with pytest.raises(RequestError) as refused:
        identity(events, data)

    assert refused.value.code == code
