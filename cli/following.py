"""Newly stored documents, in the order in which they were received, by asking a gateway again and again."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from cli.api import Api, path

# A document may be stored a little after one that was received later.
_OVERLAP: Final = timedelta(seconds=5)
_PAGE: Final = 500
_AGO: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)(s|m|h|d)")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def parse_since(text: str, now: datetime) -> datetime:
    """Return the time that `--since` means: `90s`, `10m`, `2h`, `1d` ago, or an ISO 8601 time.

    Raises:
        ValueError: it is neither.
    """
    if match := _AGO.fullmatch(text):
        return now - timedelta(**{_UNITS[match[2]]: float(match[1])})
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"--since {text!r} is neither like 90s, 10m, 2h, 1d nor a time in ISO 8601.") from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


class Follower:
    """One pipeline; `since` is None for "from now on"."""

    def __init__(self, api: Api, pipeline: str, since: datetime | None) -> None:
        self._api = api
        self._pipeline = pipeline
        self._floor = since
        self._newest = since
        self._seen: dict[str, datetime] = {}

    async def new(self) -> list[dict[str, Any]]:
        """Return what was stored since the last call, oldest first; the first call without `since` returns nothing.

        Raises:
            HeadraceError: the gateway does not answer, or not this.
        """
        begins = self._floor is None
        found: list[dict[str, Any]] = []
        params = {"sort": "-received_at", "limit": str(_PAGE)}
        while True:
            page = await self._api.get(path("documents", self._pipeline), params)
            for item in page["items"]:
                received_at = datetime.fromisoformat(item["received_at"])
                self._newest = max(self._newest or received_at, received_at)
                if begins and self._floor is None:
                    self._floor = received_at - _OVERLAP
                assert self._floor is not None
                if received_at < self._floor:
                    return self._settled(found, begins)
                if item["id"] not in self._seen:
                    self._seen[item["id"]] = received_at
                    found.append({"pipeline": self._pipeline, **item})
            if not page["next"]:
                # An empty pipeline: whatever comes is new.
                self._floor = self._floor or datetime.min.replace(tzinfo=UTC)
                return self._settled(found, begins)
            params["cursor"] = page["next"]

    def _settled(self, found: list[dict[str, Any]], begins: bool) -> list[dict[str, Any]]:
        if self._newest is not None and self._floor is not None:
            self._floor = max(self._floor, self._newest - _OVERLAP)
            floor = self._floor
            self._seen = {key: time for key, time in self._seen.items() if time >= floor}
        return [] if begins else found[::-1]
