"""Figures, ratios and bars, and how they are shown. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final

BEGIN: Final = "<!-- figures: begin (python -m bench --markdown docs/benchmarks.md) -->"
END: Final = "<!-- figures: end -->"
# Above these a section's figures are not to be trusted.
_BUSY_CLIENT: Final = 0.9
_NOISY_MACHINE: Final = 0.1


@dataclass(frozen=True)
class Bar:
    """What a value must keep to."""

    limit: float
    at_most: bool = False

    def holds(self, value: float) -> bool:
        return value <= self.limit if self.at_most else value >= self.limit

    def __str__(self) -> str:
        return f"{'at most' if self.at_most else 'at least'} {self.limit:,g}"


@dataclass(frozen=True)
class Row:
    """One thing measured, round by round; the median stands for it.

    Attributes:
        unit: what follows the number; "×" and "%" make a ratio, all else depends on the machine.
    """

    name: str
    unit: str
    rounds: tuple[float, ...]
    bar: Bar | None = None

    @property
    def median(self) -> float:
        return median(self.rounds)

    @property
    def passed(self) -> bool | None:
        return None if self.bar is None else self.bar.holds(self.median)


@dataclass(frozen=True)
class Section:
    """What was measured together.

    Attributes:
        client_share: of one core, the most that the load generator took in any round.
        others_share: of the machine, what processes that are not ours took.
    """

    name: str
    rows: tuple[Row, ...]
    client_share: float = 0.0
    others_share: float = 0.0
    notes: tuple[str, ...] = field(default=())

    @property
    def warnings(self) -> list[str]:
        """Return why its figures are not to be trusted; empty when they are."""
        found = []
        if self.client_share > _BUSY_CLIENT:
            found.append(f"the load generator was the limit ({self.client_share:.0%} of a core)")
        if self.others_share > _NOISY_MACHINE:
            found.append(f"the machine was busy with other things ({self.others_share:.0%} of it)")
        return found


def ratios(name: str, ours: Sequence[float], theirs: Sequence[float], bar: Bar | None = None) -> Row:
    """Return ours over theirs, round by round: what the machine did in one round it did to both."""
    return Row(name, "×", tuple(our / their for our, their in zip(ours, theirs, strict=True)), bar)


def costs(name: str, without: Sequence[float], having: Sequence[float], bar: Bar | None = None) -> Row:
    """Return what part of a rate something costs, in percent, round by round."""
    return Row(name, "%", tuple(100 * (1 - one / all_) for one, all_ in zip(having, without, strict=True)), bar)


def growth(name: str, before: float, after: float, bar: Bar | None = None) -> Row:
    """Return how much larger `after` is, in percent."""
    return Row(name, "%", (100 * (after / before - 1),), bar)


def as_json(sections: Iterable[Section], machine: Mapping[str, str]) -> dict[str, Any]:
    """Return everything as JSON types."""
    return {
        "machine": dict(machine),
        "sections": [
            {
                "name": section.name,
                "client_share": round(section.client_share, 3),
                "others_share": round(section.others_share, 3),
                "warnings": section.warnings,
                "notes": list(section.notes),
                "rows": [
                    {
                        "name": row.name,
                        "unit": row.unit,
                        "median": row.median,
                        "rounds": list(row.rounds),
                        "bar": None if row.bar is None else str(row.bar),
                        "passed": row.passed,
                    }
                    for row in section.rows
                ],
            }
            for section in sections
        ],
    }


def as_markdown(sections: Sequence[Section], machine: Mapping[str, str]) -> str:
    """Return tables that can be read as they stand: ratios first, then what they were made of."""
    parts = ["".join(f"- {name}: {value}\n" for name, value in machine.items())]
    for title, wanted in (("ratio", True), ("figure, on this machine", False)):
        lines = [
            _line(section, row) for section in sections for row in section.rows if (row.unit in ("×", "%")) is wanted
        ]
        if lines:
            parts.append(_table(["", title, "median", "min..max", "bar", ""], lines))
    remarks = [f"- {section.name}: {text}.\n" for section in sections for text in _remarks(section)]
    return "\n".join([*parts, "".join(remarks)])


def rewritten(document: str, figures: str) -> str:
    """Return a document with the figures between its two markers.

    Raises:
        ValueError: it has no such place.
    """
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the document lacks the line {BEGIN!r} or {END!r}")
    return f"{before}{BEGIN}\n\n{figures.strip()}\n\n{END}{after}"


def _remarks(section: Section) -> list[str]:
    shares = f"load generator at most {section.client_share:.0%} of a core, other programs {section.others_share:.0%}"
    marked = [f"**not to be trusted**: {warning}" for warning in section.warnings]
    return [f"{shares} of the machine", *marked, *section.notes]


def _line(section: Section, row: Row) -> list[str]:
    span = "" if len(row.rounds) == 1 else f"{_number(min(row.rounds))}..{_number(max(row.rounds))}"
    mark = {None: "", True: "✓", False: "✗"}[row.passed]
    bar = "" if row.bar is None else f"{row.bar}{row.unit}"
    return [section.name, row.name, f"{_number(row.median)}{_spaced(row.unit)}", span, bar, mark]


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"


def _spaced(unit: str) -> str:
    return unit if unit in ("×", "%") else f" {unit}"


def _table(head: list[str], lines: list[list[str]]) -> str:
    widths = [max(len(line[column]) for line in [head, *lines]) for column in range(len(head))]
    ruled = [head, ["-" * width for width in widths], *lines]
    return "".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |\n"
        for line in ruled
    )
