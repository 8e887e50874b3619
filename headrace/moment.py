"""A moment that a client names: RFC 3339 with its zone, and of a year that every store can count with."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Final

from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

_RFC3339: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:[Zz]|[+-]\d\d:\d\d)")


def _moment(value: Any) -> datetime:
    """Return the moment in UTC; pydantic's own reader takes numbers, and days without a time, as well."""
    if isinstance(value, str) and _RFC3339.fullmatch(value):
        try:
            found = datetime.fromisoformat(value.upper()).astimezone(UTC)
        except (ValueError, OverflowError):
            pass
        else:
            if 1 < found.year < 9999:
                return found
    raise PydanticCustomError(
        "rfc3339", "Write the time with its zone, as 2026-11-23T08:15:30Z; in a URL, + is written %2B"
    )


Moment = Annotated[datetime, BeforeValidator(_moment)]
