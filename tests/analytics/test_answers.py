"""Answers have a tag that names their body."""

from __future__ import annotations

import pytest

from analytics.answers import conditional, tagged


@pytest.mark.parametrize(
    ("asked", "status"),
    [("{tag}", 304), ('"x", {tag}', 304), ("W/{tag}", 304), ("*", 304), ('"x"', 200), ("", 200)],
)
def test_a_tag_names_one_body(asked: str, status: int) -> None:
    answer = tagged({"n": 1}, source="redis")
    assert answer.headers["ETag"] != tagged({"n": 2}, source="redis").headers["ETag"]

    reply = conditional(answer, {"If-None-Match": asked.format(tag=answer.headers["ETag"])})

    assert reply.status == status
    assert reply.body == (b"" if status == 304 else b'{"n":1}')
