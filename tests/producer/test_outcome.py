"""What an answer says of the documents that were sent."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer.outcome import Answer, Outcome, SendError, failure_of, outcome_of

A = "0190b3c0-0000-7000-8000-00000000000a"
B = "0190b3c0-0000-7000-8000-00000000000b"


def answer(status: int, body: Any) -> Answer:
    return Answer(status, body if isinstance(body, bytes) else json.dumps(body).encode())


def parts(outcome: Outcome) -> tuple[int, int, int]:
    return len(outcome.ids), len(outcome.refused), outcome.failed


def test_a_202_with_an_id_is_accepted() -> None:
    outcome = outcome_of(answer(202, {"id": A, "status": "accepted"}), 1, bulk=False)

    assert outcome.ids == [bytes.fromhex(A.replace("-", ""))]
    assert not outcome.stored


def test_a_200_tells_whether_the_document_is_stored() -> None:
    assert outcome_of(answer(200, {"id": A, "status": "stored"}), 1, bulk=False).stored
    assert not outcome_of(answer(200, {"id": A, "status": "dead"}), 1, bulk=False).stored


def test_a_bulk_answer_is_judged_item_by_item() -> None:
    rule = {"pointer": "/lines/7/amount", "code": "missing", "message": "It is required."}
    body = {"accepted": 2, "rejected": 1, "items": [{"id": A}, {"status": 422, "errors": [rule]}, {"id": B}]}

    outcome = outcome_of(answer(207, body), 3, bulk=True)

    assert parts(outcome) == (2, 1, 0)
    assert outcome.refused[0].index == 1
    assert outcome.refused[0].errors == [rule]


def test_items_that_waited_carry_their_state_in_place_of_a_status() -> None:
    assert parts(outcome_of(answer(200, {"items": [{"id": A, "status": "stored"}]}), 1, bulk=True)) == (1, 0, 0)


def test_a_bulk_of_which_nothing_passed_is_refused_item_by_item() -> None:
    items = [{"status": 422, "code": "malformed_json", "errors": []}, {"status": 422, "errors": [{"pointer": "/a"}]}]
    outcome = outcome_of(answer(422, {"code": "all_refused", "items": items}), 2, bulk=True)

    assert [one.reason for one in outcome.refused] == ["malformed_json", "all_refused /a"]


def test_the_reason_names_code_and_first_rule_and_joins_list_elements() -> None:
    errors = [{"pointer": "/lines/12/amount", "code": "missing"}, {"pointer": "/number", "code": "too_long"}]
    outcome = outcome_of(answer(422, {"code": "invalid_document", "errors": errors}), 1, bulk=False)

    assert outcome.refused[0].reason == "invalid_document /lines/*/amount missing"


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (401, {"code": "unauthenticated"}, "unauthenticated"),
        (404, b"<html>not here</html>", "http_404"),
        (429, {"code": "rate_limited"}, "rate_limited"),
        (503, {"code": "stream_full"}, "stream_full"),
    ],
)
def test_a_clear_no_is_a_refusal(status: int, body: Any, reason: str) -> None:
    outcome = outcome_of(answer(status, body), 5, bulk=True)

    assert parts(outcome) == (0, 5, 0)
    assert {one.reason for one in outcome.refused} == {reason}


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (503, {"code": "outcome_unknown"}, "outcome_unknown"),
        (503, b"upstream connect error", "http_503"),
        (500, {"code": "internal_error"}, "internal_error"),
        (302, b"", "http_302"),
        (202, b"", "bad_answer"),
        (202, {"status": "accepted"}, "bad_answer"),
        (202, {"id": "not-a-uuid"}, "bad_answer"),
        (202, {"id": "ab"}, "bad_answer"),
        (202, {"id": 17}, "bad_answer"),
    ],
)
def test_whatever_is_no_promise_and_no_clear_no_has_failed_with_unknown_outcome(
    status: int, body: Any, reason: str
) -> None:
    outcome = outcome_of(answer(status, body), 1, bulk=False)

    assert (parts(outcome), outcome.failure, outcome.unknown) == ((0, 0, 1), reason, True)


def test_an_answer_about_other_documents_than_were_sent_is_none() -> None:
    assert outcome_of(answer(202, {"items": [{"id": A}]}), 2, bulk=True).failure == "bad_answer"


def test_no_answer_is_a_failure() -> None:
    assert failure_of(SendError("timeout", unknown=True), 4) == Outcome(failed=4, failure="timeout", unknown=True)


@given(
    status=st.integers(100, 599),
    body=st.one_of(
        st.binary(max_size=80),
        st.recursive(
            st.none() | st.integers() | st.text(max_size=5) | st.just(A),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.sampled_from(["id", "items", "errors", "code", "status"]), inner, max_size=4)
            ),
        ).map(lambda value: json.dumps(value).encode()),
    ),
    documents=st.integers(1, 5),
    bulk=st.booleans(),
)
def test_whatever_the_server_answers_every_document_has_one_outcome(
    status: int, body: bytes, documents: int, bulk: bool
) -> None:
    documents = documents if bulk else 1
    assert sum(parts(outcome_of(Answer(status, body), documents, bulk=bulk))) == documents
