"""The table of docs/security.md names tests that are there, for every row of the checklist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/security.md").read_text()


def test_every_row_names_tests_that_are_there() -> None:
    rows = dict(re.findall(r"^\| (S\d+) .*\|(.*)\|$", PAGE, re.MULTILINE))

    assert set(rows) == {f"S{number}" for number in range(1, 18)}
    for row, shown_by in rows.items():
        paths = re.findall(r"`(tests/[a-z_/]+(?:\.py)?)`", shown_by)
        assert paths, row
        assert [path for path in paths if not (ROOT / path).exists()] == [], row
