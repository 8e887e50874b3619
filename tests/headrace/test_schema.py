"""What the door and refine refuse, whatever the pipeline, and how they say so."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from headrace.errors import DocumentError, RequestError
from headrace.pipeline import Pipeline
from headrace.schema import check_json, parse, validate


class Thing(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str
    size: int = 0
    weight: float = 0.0


THINGS = Pipeline(name="things", accepts=Thing, example={"name": "a"})


@pytest.mark.parametrize(
    "body",
    [
        b'{"name":"a"}',
        b'{"name":"a","size":9223372036854775807}',
        b'{"name":"a","size":-9223372036854775808}',
        b'{"name":"6036e412-1e999"}',
        b'{"name":"\\u00e9\\ud83d\\ude00"}',
        b'{"name":"12345678901234567890"}',
        b'{"name":"a","weight":1.5e-300}',
        b'{"name":"NaN and Infinity"}',
        b'{"name":"a","name":"b"}',
    ],
)
def test_a_document_that_every_store_can_take_passes(body: bytes) -> None:
    assert isinstance(validate(THINGS, body), Thing)


def test_the_last_of_a_repeated_key_counts() -> None:
    assert validate(THINGS, b'{"name":"a","name":"b"}') == Thing(name="b")


@pytest.mark.parametrize(
    ("body", "status", "code", "pointer"),
    [
        (b"", 400, "malformed_json", ""),
        (b"{", 400, "malformed_json", ""),
        (b'{"name":"a"} x', 400, "malformed_json", ""),
        (b'\xef\xbb\xbf{"name":"a"}', 400, "malformed_json", ""),
        (b'{"name":"\xff"}', 400, "malformed_json", ""),
        (b'{"name":"a\nb"}', 400, "malformed_json", ""),
        (b'{"name":"\\ud800"}', 400, "malformed_json", ""),
        (b'{"name":"a","weight":NaN}', 400, "malformed_json", ""),
        (b'{"name":"a","weight":-Infinity}', 400, "malformed_json", ""),
        (b'{"name":"a","weight":1e999}', 400, "malformed_json", ""),
        (b'{"name":"a","weight":1e+0999}', 400, "malformed_json", ""),
        (b'{"name":"a","size":9223372036854775808}', 422, "integer_range", "/size"),
        (b'{"name":"a","size":-9223372036854775809}', 422, "integer_range", "/size"),
        (b'{"x":[1,{"y":99999999999999999999}]}', 422, "integer_range", "/x/1/y"),
        (b'{"name":"\\u0000"}', 422, "nul_character", "/name"),
        (b'{"na\\u0000me":1}', 422, "nul_character", ""),
        (b"[" * 65 + b"]" * 65, 422, "too_deep", ""),
        (b"[" * 100_000, 422, "too_deep", ""),
        (b"5", 422, "model_type", ""),
        (b"null", 422, "model_type", ""),
        (b'{"size":1}', 422, "missing", "/name"),
        (b'{"name":null}', 422, "string_type", "/name"),
        (b'{"name":"a","sise":1}', 422, "extra_forbidden", "/sise"),
        (b'{"name":"a","a/b~c":1}', 422, "extra_forbidden", "/a~1b~0c"),
    ],
)
def test_a_bad_document_is_refused_by_field_and_rule(body: bytes, status: int, code: str, pointer: str) -> None:
    with pytest.raises(RequestError) as caught:
        validate(THINGS, body)

    assert caught.value.status == status
    assert [(error.pointer, error.code) for error in caught.value.errors] == [(pointer, code)]
    assert caught.value.errors[0].message.endswith(".")


def test_every_broken_rule_is_named() -> None:
    with pytest.raises(DocumentError) as caught:
        validate(THINGS, b'{"size":"x","weight":"y","z":1}')

    assert {error.pointer for error in caught.value.errors} == {"/name", "/size", "/weight", "/z"}


def test_a_refusal_never_repeats_the_values() -> None:
    with pytest.raises(RequestError) as caught:
        validate(THINGS, b'{"name":["secret-value"],"size":"secret-value"}')

    assert "secret-value" not in caught.value.detail + "".join(e.message for e in caught.value.errors)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def _fits(value: object) -> bool:
    match value:
        case bool() | None:
            return True
        case int():
            return -(2**63) <= value < 2**63
        case float():
            return value == value and abs(value) != float("inf")
        case str():
            return "\x00" not in value
        case dict():
            return all(_fits(key) and _fits(item) for key, item in value.items())
        case list():
            return all(_fits(item) for item in value)
    return False


@given(JSON)
def test_the_fast_look_refuses_just_what_the_slow_walk_would(value: object) -> None:
    body = json.dumps(value).encode()
    fits = _fits(value)
    try:
        parse(body)
    except RequestError:
        fits = False
    try:
        check_json(body)
        passed = True
    except RequestError:
        passed = False

    assert passed == fits


@pytest.mark.parametrize(
    ("body", "deep"),
    [
        (b"[" * 64 + b"]" * 64, False),
        (b"[" * 65 + b"]" * 65, True),
        (b'{"a":' * 65 + b"1" + b"}" * 65, True),
        (b"[{}" + b",[]" * 100 + b"]", False),
        (b'["' + b"[" * 100 + b'\\"]"]', False),
        (b'{"[\\\\":' * 65 + b"1" + b"}" * 65, True),
    ],
)
def test_depth_is_what_nests_outside_of_strings(body: bytes, deep: bool) -> None:
    if not deep:
        check_json(body)
        return
    with pytest.raises(DocumentError) as refused:
        check_json(body)
    assert refused.value.code == "too_deep"
