"""Made-up student records in the form of the UCI set: marks follow from background, habits and each other."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any, Final

Document = dict[str, Any]

# A record has no time.
START: Final = 0.0

_DROP_OUT_SHARE: Final = 0.02

# Each value as often as in the real set, roughly.
_TEXTS: Final[dict[str, tuple[str, ...]]] = {
    "school": ("GP",) * 2 + ("MS",),
    "sex": ("F",) * 6 + ("M",) * 4,
    "address": ("U",) * 7 + ("R",) * 3,
    "famsize": ("GT3",) * 7 + ("LE3",) * 3,
    "Pstatus": ("T",) * 7 + ("A",),
    "Mjob": ("other",) * 8 + ("services",) * 4 + ("at_home",) * 4 + ("teacher",) * 2 + ("health",),
    "Fjob": ("other",) * 14 + ("services",) * 7 + ("at_home",) * 2 + ("teacher", "health"),
    "reason": ("course",) * 8 + ("home",) * 4 + ("reputation",) * 4 + ("other",) * 2,
    "guardian": ("mother",) * 11 + ("father",) * 4 + ("other",),
}
_YES_SHARES: Final = {
    "schoolsup": 0.1,
    "famsup": 0.6,
    "paid": 0.06,
    "activities": 0.5,
    "nursery": 0.8,
    "higher": 0.9,
    "internet": 0.77,
    "romantic": 0.37,
}
_NUMBERS: Final[dict[str, tuple[int, ...]]] = {
    "age": (15, 15, 16, 16, 16, 17, 17, 17, 18, 18, 19, 20),
    "Medu": (1, 1, 2, 2, 3, 3, 4, 4),
    "Fedu": (1, 1, 1, 2, 2, 2, 3, 3, 4, 4),
    "traveltime": (1, 1, 1, 1, 1, 2, 2, 2, 3, 4),
    "studytime": (1, 1, 1, 2, 2, 2, 2, 3, 3, 4),
    "failures": (0,) * 11 + (1, 1, 2, 3),
    "famrel": (1, 2, 3, 3, 4, 4, 4, 4, 5, 5, 5),
    "freetime": (1, 2, 2, 3, 3, 3, 3, 4, 4, 4, 5),
    "goout": (1, 2, 2, 3, 3, 3, 4, 4, 5, 5),
    "Dalc": (1,) * 8 + (2, 2, 3, 4, 5),
    "Walc": (1, 1, 1, 1, 2, 2, 3, 3, 4, 5),
    "health": (1, 1, 2, 3, 3, 4, 5, 5, 5),
}


def documents(random: Random, start: float) -> Iterator[Document]:
    """Yield records, each of another pupil; `start` is of no use here."""
    draw = random.random
    while True:
        student: Document = {name: choices[int(draw() * len(choices))] for name, choices in _TEXTS.items()}
        student |= {name: choices[int(draw() * len(choices))] for name, choices in _NUMBERS.items()}
        student |= {name: "yes" if draw() < share else "no" for name, share in _YES_SHARES.items()}
        # The cube: most miss few lessons, a few miss many.
        student["absences"] = int(draw() ** 3 * 24)
        ability = (
            10.0
            + 0.5 * student["studytime"]
            + 0.3 * student["Medu"]
            - 1.5 * student["failures"]
            + (1.2 if student["higher"] == "yes" else -0.6)
            - (1.2 if student["school"] == "MS" else 0.0)
            - 0.2 * student["Dalc"]
        )
        first = ability + random.gauss(0.0, 2.0)
        second = first + random.gauss(0.2, 1.0)
        dropped_out = draw() < _DROP_OUT_SHARE
        student["G1"] = _mark(first)
        student["G2"] = _mark(second)
        student["G3"] = 0 if dropped_out else _mark(second + random.gauss(0.3, 0.9))
        yield student


def _mark(value: float) -> int:
    return min(max(round(value), 0), 20)


def spoil(document: Document, random: Random) -> Document:
    """Return the record with a value of the wrong kind, out of its range, missing or too much."""
    fault = random.choice(_FAULTS)
    return {**document, **fault}


_FAULTS: Final[tuple[Document, ...]] = (
    {"age": 150},
    {"age": "sixteen"},
    {"G3": 21},
    {"G1": -1},
    {"G2": 11.5},
    {"school": "XX"},
    {"higher": "maybe"},
    {"Medu": None},
    {"failures": "none"},
    {"shoe_size": 38},
)
