"""What a reconciliation finds, and how it is told. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from headrace.document import rfc3339

# So many ids name what differs; the count is of all.
MOST_IDS: Final = 20
MOST_TOLD: Final = 50

MISSING: Final = "missing"
GHOST: Final = "ghost"
WRONG: Final = "wrong"
LOST: Final = "lost"
CORRUPT: Final = "corrupt"
COUNTS: Final = "counts"
UNEXPLAINED: Final = "unexplained"


@dataclass(slots=True)
class Finding:
    """One thing that is not as the journal says.

    Attributes:
        kind: `missing` from a store; `ghost`: in a store, and sent by nobody; `wrong`: other bytes; `lost`: a block
            that was accepted and is nowhere; `corrupt`: a block with other bytes than were accepted; `counts`: counts
            that are no recount; `unexplained`: numbers differ, and the streams do not go back far enough to say why.
        where: documents, facts, redis, rollups or RAW.
        count: documents, or rows of counts.
        ids: the first of them, in order.
        block: of `lost` and `corrupt`.
        repair: what it can be made good from: CLEAN, RAW, facts or postgres; empty where it cannot.
        advice: what a person can do.
    """

    kind: str
    where: str
    count: int
    minute: datetime | None = None
    ids: tuple[str, ...] = ()
    block: str = ""
    repair: str = ""
    advice: str = ""
    repaired: bool = False

    def told(self) -> dict[str, Any]:
        about: dict[str, Any] = {"kind": self.kind, "where": self.where, "count": self.count}
        if self.minute is not None:
            about["minute"] = rfc3339(self.minute)
        if self.ids:
            about |= {"first_id": self.ids[0], "last_id": self.ids[-1], "ids": list(self.ids[:MOST_IDS])}
        about |= {"block": self.block} if self.block else {}
        return {**about, "repair": self.repair or None, "repaired": self.repaired, "advice": self.advice or None}


@dataclass(slots=True)
class Report:
    """What a reconciliation of one pipeline came to.

    Attributes:
        since, until: what was compared; `since` is later than asked for where the time was over.
        documents: accepted in that time, by the journal.
        in_flight: documents of minutes that differ, that are still on their way.
        unexamined: minutes that differ and were not looked into.
    """

    pipeline: str
    since: datetime
    until: datetime
    minutes: int = 0
    documents: int = 0
    in_flight: int = 0
    unexamined: int = 0
    findings: list[Finding] = field(default_factory=list)

    @property
    def open(self) -> int:
        """Return how many findings are not repaired."""
        return sum(not one.repaired for one in self.findings)

    def told(self) -> dict[str, Any]:
        return {
            "pipeline": self.pipeline,
            "since": rfc3339(self.since),
            "until": rfc3339(self.until),
            "minutes": self.minutes,
            "documents": self.documents,
            "in_flight": self.in_flight,
            "unexamined": self.unexamined,
            "findings": [one.told() for one in self.findings[:MOST_TOLD]],
            "found": len(self.findings),
            "open": self.open,
        }


def of_ids(
    kind: str, where: str, minute: datetime, ids: Sequence[str], *, repair: str = "", advice: str = ""
) -> list[Finding]:
    """Return a finding of documents; none where there are none."""
    found = tuple(sorted(ids))
    return [Finding(kind, where, len(found), minute, found, repair=repair, advice=advice)] if found else []
