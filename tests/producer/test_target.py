"""Which Headrace a command talks to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from producer.target import find_headrace


@pytest.fixture
def up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("HEADRACE_URL", "HEADRACE_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "up.json"
    path.write_text(json.dumps({"url": "http://up", "token": "u", "mongo_url": "mongodb://m", "postgres_url": "pg"}))
    return path


def test_the_headrace_that_runs_here_is_found_with_its_stores(up: Path) -> None:
    found = find_headrace(up_file=up)

    assert (found.url, found.token, found.mongo_url, found.postgres_url) == ("http://up", "u", "mongodb://m", "pg")


def test_options_stand_above_the_environment_and_the_environment_above_the_file(
    up: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_URL", "http://env/")
    monkeypatch.setenv("HEADRACE_TOKEN", "e")

    assert (find_headrace(up_file=up).url, find_headrace(up_file=up).token) == ("http://env", "e")
    assert (find_headrace("http://arg", "a", up_file=up).url, find_headrace(None, "a", up_file=up).token) == (
        "http://arg",
        "a",
    )


def test_the_file_says_nothing_of_another_headrace(up: Path) -> None:
    found = find_headrace("http://elsewhere", up_file=up)

    assert (found.token, found.mongo_url, found.postgres_url) == ("", None, None)


def test_where_none_is_known_the_message_says_what_to_do(up: Path) -> None:
    up.write_text("not json")
    with pytest.raises(ValueError, match="headrace up"):
        find_headrace(up_file=up)


def test_secrets_do_not_show() -> None:
    assert "s3cret" not in repr(find_headrace("http://x", "s3cret", "mongodb://s3cret@h", "postgresql://s3cret@h"))
