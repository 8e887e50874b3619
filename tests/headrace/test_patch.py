"""JSON Patch on bytes: wrong patches are refused as a whole, patches that do not fit name the operation."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import DocumentError, RequestError
from headrace.patch import difference, dumps, loads, patch_of


@pytest.mark.parametrize(
    ("document", "operations", "expected"),
    [
        ('{"Qty":6,"x":1}', [{"op": "move", "from": "/Qty", "path": "/Quantity"}], '{"x":1,"Quantity":6}'),
        # Every digit stays, also where a float would lose it.
        ('{"a":2.550,"b":0.100000000000000055511}', [{"op": "remove", "path": "/a"}], '{"b":0.100000000000000055511}'),
        ('{"n":12345678901234567890}', [{"op": "add", "path": "/m", "value": 1}], '{"n":12345678901234567890,"m":1}'),
        ('{"p":2.55}', [{"op": "test", "path": "/p", "value": 2.550}], '{"p":2.55}'),
        ('{"l":[1,3]}', [{"op": "add", "path": "/l/1", "value": 2}], '{"l":[1,2,3]}'),
        ('{"l":[1,3]}', [{"op": "add", "path": "/l/-", "value": 4}], '{"l":[1,3,4]}'),
        ('{"a/b":1,"m~n":2}', [{"op": "copy", "from": "/a~1b", "path": "/m~0n"}], '{"a/b":1,"m~n":1}'),
        ('[1]', [{"op": "replace", "path": "", "value": {"a": "ü\u0000"}}], '{"a":"ü\\u0000"}'),
        ("{\n\"a\": 1\n}", [{"op": "test", "path": "/a", "value": 1}], '{"a":1}'),
    ],
)  # fmt: skip
def test_a_patch_is_applied_and_numbers_keep_their_digits(document: str, operations: Any, expected: str) -> None:
    assert patch_of(loads(json.dumps(operations).encode())).apply(document.encode()).decode() == expected


def test_documents_do_not_share_what_a_patch_adds() -> None:
    patch = patch_of([{"op": "add", "path": "/a", "value": {}}, {"op": "move", "from": "/b", "path": "/a/b"}])

    assert patch.apply(b'{"b":1}') == b'{"a":{"b":1}}'
    assert patch.apply(b'{"b":2}') == b'{"a":{"b":2}}'


@pytest.mark.parametrize(
    ("value", "pointers"),
    [
        ({}, ["/patch"]),
        ([], ["/patch"]),
        ([{"op": "remove", "path": "/a"}] * 101, ["/patch"]),
        (["x", None, 7], ["/patch/0", "/patch/1", "/patch/2"]),
        ([{"op": "remove", "path": "/a"}, {"op": "delete", "path": "/a"}], ["/patch/1/op"]),
        ([{"path": "/a"}], ["/patch/0/op"]),
        ([{"op": ["add"], "path": "/a"}], ["/patch/0/op"]),
        ([{"op": "add", "value": 1}], ["/patch/0/path"]),
        ([{"op": "add", "path": "a", "value": 1}], ["/patch/0/path"]),
        ([{"op": "remove", "path": "/a~2"}], ["/patch/0/path"]),
        ([{"op": "remove", "path": 3}], ["/patch/0/path"]),
        ([{"op": "remove", "path": ""}], ["/patch/0/path"]),
        ([{"op": "add", "path": "/a"}], ["/patch/0/value"]),
        ([{"op": "move", "path": "/a"}, {"op": "copy", "path": "/a", "from": "b"}], ["/patch/0/from", "/patch/1/from"]),
    ],
)
def test_what_is_no_patch_is_refused_by_operation(value: Any, pointers: list[str]) -> None:
    with pytest.raises(DocumentError) as refused:
        patch_of(value)

    assert refused.value.code == "invalid_patch"
    assert [error.pointer for error in refused.value.errors] == pointers


@pytest.mark.parametrize(
    ("document", "operation"),
    [
        ('{"secret":1}', {"op": "move", "from": "/Qty", "path": "/Quantity"}),
        ('{"secret":1}', {"op": "remove", "path": "/a"}),
        ('{"secret":1}', {"op": "add", "path": "/a/b", "value": 1}),
        ('{"secret":1}', {"op": "add", "path": "/secret/b", "value": 1}),
        ('{"secret":1}', {"op": "test", "path": "/secret", "value": True}),
        ('{"secret":1}', {"op": "test", "path": "/other", "value": 1}),
        ('{"a":{"secret":1}}', {"op": "move", "from": "/a", "path": "/a/b"}),
        ('["secret"]', {"op": "add", "path": "/x", "value": 1}),
        ('["secret"]', {"op": "remove", "path": "/7"}),
        ('"secret"', {"op": "remove", "path": "/a"}),
    ],
)
def test_an_operation_that_does_not_fit_a_document_is_named(document: str, operation: dict[str, Any]) -> None:
    patch = patch_of([{"op": "test", "path": "", "value": json.loads(document)}, operation])

    with pytest.raises(DocumentError) as refused:
        patch.apply(document.encode())

    assert refused.value.code == "patch_failed"
    assert "Operation 1" in refused.value.detail
    assert refused.value.errors[0].pointer == operation.get("from", operation["path"])
    assert "secret" not in refused.value.detail.replace("/secret", "")


def test_copies_of_copies_end_before_they_fill_the_memory() -> None:
    patch = patch_of([{"op": "copy", "from": "/a", "path": f"/a/{n}"} for n in range(100)])

    with pytest.raises(DocumentError, match="Operation"):
        patch.apply(json.dumps({"a": {"x": "y" * 1000}}).encode())


@pytest.mark.parametrize("body", [b"", b"{", b'{"a":1}{}', b"\xff", b"nul"])
def test_bytes_that_are_no_json_cannot_be_patched(body: bytes) -> None:
    with pytest.raises(RequestError) as refused:
        patch_of([{"op": "remove", "path": "/a"}]).apply(body)
    assert refused.value.code == "malformed_json"


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(before=_JSON, after=_JSON)
def test_the_difference_of_two_documents_makes_the_one_of_the_other(before: Any, after: Any) -> None:
    operations = difference(dumps(before), after)

    if operations:
        assert json.loads(patch_of(operations).apply(dumps(before))) == after
    else:
        assert before == after
