"""Which documents of a minute are missing where, which nobody has sent, and which are only on their way. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from workers.outcome import Item
from workers.reconcile.findings import GHOST, MISSING, WRONG, Finding, of_ids
from workers.reconcile.streams import Held, Occurrence

SINKS: Final = ("documents", "facts")
_CONFLICT: Final = "idempotency_conflict"
# A letter in these states says where its document is; one that was replayed says nothing any more.
_EXCUSES: Final = frozenset({"dead", "discarded", "replaying"})


@dataclass
class Verdict:
    """What became of the documents of one minute.

    Attributes:
        from_clean, from_raw: what each sink lacks, to be given to it.
    """

    findings: list[Finding] = field(default_factory=list)
    in_flight: int = 0
    from_clean: dict[str, list[Item]] = field(default_factory=dict)
    from_raw: dict[str, list[Item]] = field(default_factory=dict)


def candidates(held: Held, stored: Mapping[str, Mapping[str, str]]) -> dict[str, set[str]]:
    """Return, for each sink, the ids that some stream or the other store has of these minutes, and it has not."""
    seen = {*held.raw, *held.clean, *stored["documents"], *stored["facts"]}
    return {sink: {one for one in seen if one not in stored[sink]} for sink in SINKS}


def judged(
    minute: datetime,
    held: Held,
    stored: Mapping[str, Mapping[str, str]],
    elsewhere: Mapping[str, Set[str]],
    letters: Mapping[str, Sequence[Mapping[str, Any]]],
    floors: Mapping[str, int],
    surplus: Mapping[str, int],
) -> Verdict:
    """Return what became of each document of a minute.

    Args:
        held: of this minute alone.
        stored: by sink, {id: sha256} of what it holds of this minute.
        elsewhere: by sink, those of its candidates that it holds of another minute.
        letters: of all these documents.
        floors: up to where each stage had settled everything, before any of this was read.
        surplus: how many documents each sink has more than the journal says; what the streams do not hold any more
            is nobody's, or missing from the other, by this.
    """
    verdict = Verdict()
    flying: set[str] = set()
    for sink, ids in candidates(held, stored).items():
        lacking: dict[str, list[str]] = {"CLEAN": [], "RAW": [], "": []}
        for one in ids - elsewhere[sink]:
            clean = [place for place in held.clean.get(one, ()) if place[1].envelope.sink in ("", sink)]
            if _on_its_way(clean, floors[sink]) or _on_its_way(held.raw.get(one, ()), floors["refine"]):
                flying.add(one)
            elif _excused(letters.get(one, ()), sink):
                continue
            elif clean:
                lacking["CLEAN"].append(one)
                verdict.from_clean.setdefault(sink, []).append(clean[0][1])
            elif held.raw.get(one):
                lacking["RAW"].append(one)
                verdict.from_raw.setdefault(sink, []).append(held.raw[one][-1][1])
            else:
                other = next(name for name in SINKS if name != sink)
                if not held.whole and surplus[sink] < 0 and one not in elsewhere[other]:
                    lacking[""].append(one)
        for source, found in lacking.items():
            advice = "" if source else "No stream holds it any more; ask its sender for it."
            verdict.findings += of_ids(MISSING, sink, minute, found, repair=source, advice=advice)
        verdict.findings += _not_as_sent(sink, minute, held, stored, letters, floors, surplus[sink])
    verdict.in_flight = len(flying)
    return verdict


def _not_as_sent(
    sink: str,
    minute: datetime,
    held: Held,
    stored: Mapping[str, Mapping[str, str]],
    letters: Mapping[str, Sequence[Mapping[str, Any]]],
    floors: Mapping[str, int],
    surplus: int,
) -> list[Finding]:
    other = next(name for name in SINKS if name != sink)
    ghosts: list[str] = []
    wrong: list[str] = []
    for one, sha256 in stored[sink].items():
        sent = held.clean.get(one)
        if sent is None and one not in held.raw:
            if held.whole or (surplus > 0 and one not in stored[other] and not letters.get(one)):
                ghosts.append(one)
        elif (
            sent and not any(item.envelope.sha256 == sha256 for _, item in sent) and not _on_its_way(sent, floors[sink])
        ):
            wrong.append(one)
    return [
        *of_ids(GHOST, sink, minute, ghosts, advice="Nobody has sent it; look at it, and delete it by hand."),
        *of_ids(WRONG, sink, minute, wrong, advice=f"headrace rebuild {sink}"),
    ]


def _on_its_way(places: Sequence[Occurrence], floor: int) -> bool:
    return any(sequence > floor for sequence, _ in places)


def _excused(letters: Sequence[Mapping[str, Any]], sink: str) -> bool:
    return any(letter["stage"] in ("refine", sink) and letter["state"] in _EXCUSES for letter in letters)
