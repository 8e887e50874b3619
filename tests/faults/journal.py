"""What a producer did and learnt: append-only lines, the intent before a request leaves, the outcome after it.

ok       202: it was promised
fail     refused for a reason that proves that nothing was stored: a 4xx, a 429, a 503 that names its cause,
         a connection that was never made
unknown  anything else: no answer, a reset, a 503 that says so; it may be stored or not
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, Literal

import msgspec

OK: Final = "ok"
FAIL: Final = "fail"
UNKNOWN: Final = "unknown"
Result = Literal["ok", "fail", "unknown"]


class Intent(msgspec.Struct, tag="intent", tag_field="line"):
    """A request that is about to leave; `names` are of its documents, in their order."""

    key: str
    names: list[str]


class Outcome(msgspec.Struct, tag="outcome", tag_field="line"):
    """What became of it.

    Attributes:
        status: HTTP status; 0 where there was no answer.
        code: of the problem, or of the failure to send.
        ids: of the documents, where it was promised.
    """

    key: str
    result: Result
    status: int
    code: str
    retry_after_seconds: float | None
    seconds: float
    ids: list[str] = []


Line = Intent | Outcome
_decode = msgspec.json.Decoder(Line).decode


class Fate(msgspec.Struct, frozen=True):
    """What the producer knows of one document after all its attempts.

    Attributes:
        id: as it was answered; empty where it never was.
        landings: how often it may have been taken: the attempts that were not refused.
    """

    name: str
    result: Result
    id: str = ""
    landings: int = 1


class Journal:
    """Appends to a file; a line is with the operating system before the request leaves."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = io.FileIO(path, "a")

    def write(self, line: Line) -> None:
        self._file.write(msgspec.json.encode(line) + b"\n")

    def close(self) -> None:
        self._file.close()


def read(paths: Iterable[Path]) -> Iterator[Line]:
    """Yield the lines of journals, those of one file in their order."""
    for path in paths:
        with path.open("rb") as file:
            yield from map(_decode, file)


def fates(lines: Iterable[Line]) -> dict[str, Fate]:
    """Return what is known of each document, by name.

    Promised once is promised. Else an attempt whose outcome is unknown, or has none written, leaves it unknown.

    Raises:
        ValueError: two answers gave one document different ids, or an answer is about other documents.
    """
    names: dict[str, list[str]] = {}
    # A key's attempts that were begun, and the results of those that were answered.
    begun: Counter[str] = Counter()
    results: dict[str, list[str]] = {}
    ids: dict[str, list[str]] = {}
    for line in lines:
        match line:
            case Intent(key, of_key):
                names[key] = of_key
                begun[key] += 1
            case Outcome(key, result):
                results.setdefault(key, []).append(result)
                about_others = len(line.ids) != len(names[key])
                if result == OK and (about_others or ids.setdefault(key, line.ids) != line.ids):
                    raise ValueError(f"answers about {key} differ")
    known: dict[str, Fate] = {}
    for key, of_key in names.items():
        found = results.get(key, [])
        landings = begun[key] - found.count(FAIL)
        if OK in found:
            known |= {name: Fate(name, OK, one, landings) for name, one in zip(of_key, ids[key], strict=True)}
        else:
            known |= {name: Fate(name, UNKNOWN if landings else FAIL, "", landings) for name in of_key}
    return known
