"""A moment that a client names."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from headrace.moment import Moment

_read: TypeAdapter[datetime] = TypeAdapter(Moment)


@pytest.mark.parametrize("text", ["2026-11-23T08:15:30Z", "2026-11-23t08:15:30z", "2026-11-23 09:15:30.000+01:00"])
def test_rfc_3339_is_read_as_utc(text: str) -> None:
    assert _read.validate_python(text) == datetime(2026, 11, 23, 8, 15, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    "value",
    [
        *("2026", "2026-11-23", "2026-11-23T08:15:30", "now", "", 7, None, True),
        *("2026-13-01T00:00:00Z", "2026-11-23T24:15:30Z", "2026-11-23T08:15:30+99:00"),
        *("0001-01-01T00:00:00Z", "9999-12-31T23:59:59-01:00", "0001-01-01T00:00:00+01:00"),
    ],
)
def test_anything_else_is_refused(value: Any) -> None:
    with pytest.raises(ValidationError, match="2026-11-23T08:15:30Z"):
        _read.validate_python(value)
