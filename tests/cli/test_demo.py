"""demo: when the books are taken as closed, and how results are told."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from cli.demo import first_values
from cli.trial import Trial, settled
from tests.cli.stand_in import headrace, line


@pytest.mark.parametrize(
    ("books", "accepted", "closed"),
    [
        (line(10, 10), 10, True),
        (line(12, 12), 10, True),
        (line(9, 9), 10, False),
        (line(10, 9), 10, False),
        (line(10, 10, balanced=False), 10, False),
        ({}, 0, False),
    ],
)
def test_a_sample_has_come_to_rest_when_the_books_hold_all_of_it_and_balance(
    books: dict[str, Any], accepted: int, closed: bool
) -> None:
    assert settled(books, accepted) is closed


@pytest.mark.parametrize(
    ("metric", "text"),
    [
        ({"data": {"a": 2, "b": 1}}, "a 2, b 1"),
        ({"data": {"h1": {"x": 5, "y": 6}, "h2": {"x": 7}}}, "h1/x 5, h1/y 6, h2/x 7"),
        ({"data": [{"at": "2026-11-23T08:00:00Z", "count": 3}]}, "2026-11-23T08:00 3"),
        ({"data": [{"at": "2026-11-23T08:00:00Z", "count": 3, "sum": 1.5}]}, "2026-11-23T08:00 1.5"),
        ({"data": {}, "value": 7}, "7"),
        ({"data": {}}, ""),
        (
            {"kind": "latest", "data": {"12": {"at": "2024-01-31T11:09:45.000000Z", "state": "arrived"}}},
            "12 2024-01-31T11:09",
        ),
    ],
)
def test_a_metric_is_told_on_one_line(metric: dict[str, Any], text: str) -> None:
    assert first_values(metric) == text


def test_a_trial_is_also_json() -> None:
    trial = Trial("things", "things.csv", rows=3, accepted=1, refused=Counter({("missing", "/a"): 2}))

    assert trial.to_json()["refused"] == [{"code": "missing", "pointer": "/a", "count": 2}]
    assert trial.to_json()["error"] is None


async def test_the_demo_runs_everything_and_accounts_for_every_row(data_directory: Path) -> None:
    # Nothing of the directory's owner may leak in, so it is the command's home and folder too.
    result = await headrace(data_directory, "demo", "--exit", "--json", "--port", "0", "--data-dir", "data")

    assert (result.code, result.err.count("headrace:")) == (0, 0)
    trials = {trial["pipeline"]: trial for trial in json.loads(result.out)["trials"]}
    assert set(trials) >= {"invoices", "searches"}
    for trial in trials.values():
        books = trial["ledger"]
        refused = sum(one["count"] for one in trial["refused"])
        assert trial["rows"] == trial["accepted"] + refused > 0
        assert books["accepted"] == trial["accepted"]
        # A sample may have a row twice, as real files do.
        once = books["accepted"] - books["dead"] - books["duplicates"]
        assert books["stored"] == dict.fromkeys(("documents", "facts"), once)
        assert (books["in_flight"], books["balanced"]) == (0, True)
        assert all(metric["count"] for metric in trial["metrics"])
    assert trials["invoices"]["refused"]
    assert trials["searches"]["ledger"]["dead"] > 0
    assert not (data_directory / "data" / "up.json").exists()
