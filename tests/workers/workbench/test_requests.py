"""What may be asked of the workbench, and how what may not is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from headrace.document import new_id
from headrace.errors import DocumentError, RequestError
from headrace.settings import DeadLetterSettings
from workers.workbench.requests import discard_of, patches_of, replay_of

SETTINGS = DeadLetterSettings(max_ids=5)
MOVE = [{"op": "move", "from": "/Product", "path": "/product"}]


@pytest.mark.parametrize(
    ("what", "payload", "code", "pointers"),
    [
        ("replay", {}, "invalid_request", [""]),
        ("replay", {"ids": [], "patch": MOVE}, "invalid_request", ["/ids"]),
        ("replay", {"ids": ["x"]}, "invalid_request", ["/ids/0"]),
        ("replay", {"ids": [new_id() for _ in range(6)]}, "invalid_request", ["/ids"]),
        ("replay", {"ids": [new_id()], "filter": {"pipeline": "orders"}}, "invalid_request", [""]),
        ("replay", {"filter": {}}, "invalid_request", ["/filter"]),
        ("replay", {"filter": {"pipelin": "x"}}, "invalid_request", ["/filter/pipelin"]),
        ("replay", {"filter": {"pipeline": "a\x00"}}, "invalid_request", ["/filter/pipeline"]),
        ("replay", {"filter": {"after": "2026-01-01T00:00:00"}}, "invalid_request", ["/filter/after"]),
        ("replay", {"filter": {"stage": "refine"}, "rate": 0}, "invalid_request", ["/rate"]),
        ("replay", {"filter": {"stage": "refine"}, "rate": 1e9}, "invalid_request", ["/rate"]),
        ("replay", {"filter": {"stage": "refine"}, "patch": [{"op": "x"}]}, "invalid_patch", ["/patch/0/op"]),
        ("replay", {"patches": {new_id(): MOVE}, "patch": MOVE}, "invalid_request", ["/patch"]),
        ("replay", {"patches": {"x": MOVE}}, "invalid_request", ["/patches/x/[key]"]),
        ("discard", {"filter": {"stage": "refine"}}, "invalid_request", ["/reason"]),
        ("discard", {"filter": {"stage": "refine"}, "reason": " "}, "invalid_request", ["/reason"]),
        ("discard", {"reason": "why"}, "invalid_request", [""]),
    ],
)
def test_a_wrong_request_names_field_rule_and_fix(
    what: str, payload: dict[str, Any], code: str, pointers: list[str]
) -> None:
    with pytest.raises(DocumentError) as refused:
        {"replay": replay_of, "discard": discard_of}[what](json.dumps(payload).encode(), SETTINGS)

    assert refused.value.code == code
    assert [error.pointer for error in refused.value.errors] == pointers
    assert all(error.message.endswith(".") for error in refused.value.errors)


@pytest.mark.parametrize("payload", [b"", b"{", b"\xff", b'{"filter":{"stage":"a"}} x'])
def test_what_is_no_json_is_told_so(payload: bytes) -> None:
    with pytest.raises(RequestError) as refused:
        replay_of(payload, SETTINGS)
    assert (refused.value.status, refused.value.code) == (400, "malformed_json")


def test_a_patch_is_kept_with_every_digit() -> None:
    document_id = new_id()
    patch_text = b'[{"op":"add","path":"/a","value":0.10000000000000000001}]'
    for body, of in (
        (b'{"filter":{"stage":"a"},"patch":%b}' % patch_text, "x"),
        (b'{"patches":{"%b":%b}}' % (document_id.encode(), patch_text), document_id),
    ):
        _, patches = replay_of(body, SETTINGS)
        again = patches_of(patches.text)
        for one in (patches, again):
            patch = one.of(of)
            assert patch
            assert patch.apply(b"{}") == b'{"a":0.10000000000000000001}'
        assert again.sha256 == patches.sha256


def test_single_patches_choose_their_documents() -> None:
    document_id = new_id()
    asked, patches = replay_of(json.dumps({"patches": {document_id: MOVE}}).encode(), SETTINGS)

    assert [str(one) for one in asked.selection.ids or ()] == [document_id]
    assert patches.of(new_id()) is None
