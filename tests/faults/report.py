"""What a report says of what was sent and what became of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from tests.faults.checker import Observed
from tests.faults.journal import FAIL, OK, UNKNOWN, Line, Outcome


def outcomes(lines: Sequence[Line], observed: Observed) -> dict[str, Any]:
    """Return the documents by fate, the answers by kind, and what the stores hold."""
    answers = [line for line in lines if isinstance(line, Outcome)]
    there = {one.name for one in observed.facts} | {one.name for one in observed.letters}
    return {
        "documents": len(observed.fates),
        "fates": dict(Counter(one.result for one in observed.fates.values())),
        "unknown_that_landed": sum(one.result == UNKNOWN and name in there for name, one in observed.fates.items()),
        "requests": len(answers),
        "answers": dict(Counter(f"{one.status} {one.code}".strip() for one in answers).most_common()),
        **answered_in(answers),
        "stored": {"documents": len(observed.documents), "facts": len(observed.facts)},
        "dead": dict(Counter(f"{one.stage} {one.code}" for one in observed.letters)),
    }


def answered_in(lines: Sequence[Line]) -> dict[str, Any]:
    """Return how long requests took that were refused for want of room, and those that were promised."""
    answers = [line for line in lines if isinstance(line, Outcome)]
    refusals = [one.seconds for one in answers if one.status in (429, 503) and one.result == FAIL]
    promises = [one.seconds for one in answers if one.result == OK]
    return {"refused_in_seconds": _spread(sorted(refusals)), "accepted_in_seconds": _spread(sorted(promises))}


def _spread(ordered: Sequence[float]) -> dict[str, float | int | None]:
    return {"requests": len(ordered), "p50": _at(ordered, 0.5), "p99": _at(ordered, 0.99), "max": _at(ordered, 1.0)}


def _at(ordered: Sequence[float], share: float) -> float | None:
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 4) if ordered else None
