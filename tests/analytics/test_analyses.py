"""Analyses: the last result as it is kept, with its tag; and how to get one where there is none."""

from __future__ import annotations

import pytest

from headrace.errors import RequestError
from headrace.registry import load_pipelines
from headrace.storage.mongo import open_documents
from tests.analytics.system import System

RESULT = {
    "pipeline": "students",
    "revision": 1,
    "documents": 2,
    "digest": "00",
    "analysis": {"module": "m", "version": 1},
    "libraries": {"python": "3"},
    "computed_at": "2026-01-01T00:00:00.000000Z",
    "result": {"x[a]": [1, 0.1, None], "n": 2**40},
}


@pytest.mark.parametrize(
    ("pipeline", "reason"),
    [
        ("students", r"has not been made yet; run `headrace analyse students`"),
        ("searches", r"'searches' has no analysis; its file names one"),
    ],
)
async def test_without_a_result_the_answer_says_how_to_get_one(system: System, pipeline: str, reason: str) -> None:
    with pytest.raises(RequestError, match=reason) as caught:
        await system.ask("analysis", pipeline=pipeline)

    assert (caught.value.status, caught.value.code) == (404, "analysis_not_found")


async def test_a_result_is_answered_as_it_was_kept_until_another_takes_its_place(system: System) -> None:
    students = load_pipelines()["students"]
    async with open_documents(system.settings.mongo_url.get_secret_value(), 10) as documents:
        assert await documents.keep_processed(students, RESULT, after=0)
        first = await system.reply("analysis", pipeline="students")
        assert await system.ask("analysis", pipeline="students") == RESULT
        again = await system.reply("analysis", headers={"If-None-Match": first.headers["ETag"]}, pipeline="students")
        assert (again.status, again.body) == (304, b"")

        # Nobody who read an older revision can write over a newer one.
        assert not await documents.keep_processed(students, {**RESULT, "revision": 2}, after=0)
        assert await documents.keep_processed(students, {**RESULT, "revision": 2}, after=1)
        assert not await documents.keep_processed(students, {**RESULT, "revision": 2}, after=1)
        third = await system.reply("analysis", headers={"If-None-Match": first.headers["ETag"]}, pipeline="students")
        assert (third.status, third.headers["Headrace-Source"]) == (200, "mongo")
