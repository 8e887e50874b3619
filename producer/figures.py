"""Numbers as people read them: 12,345 · 4.5 % · 1.23 ms · 87/s. Pure."""

from __future__ import annotations


def count(number: float | None) -> str:
    return "?" if number is None else f"{number:,.0f}"


def share(part: float, whole: float) -> str:
    """Return part of whole in percent; something small is not shown as nothing, nor almost all as all."""
    if not whole:
        return "0 %"
    percent = 100 * part / whole
    if 0 < percent < 0.1:
        return "<0.1 %"
    if 99.9 < percent < 100:
        return ">99.9 %"
    return f"{percent:.1f} %".replace(".0 %", " %")


def duration(seconds: float) -> str:
    """Return a time with three digits and the unit that suits it."""
    for factor, unit in ((1e6, "µs"), (1e3, "ms")):
        if seconds * factor < 1000:
            return f"{_three_digits(seconds * factor)} {unit}"
    return f"{_three_digits(seconds)} s"


def rate(documents: float, seconds: float) -> str:
    return f"{count(documents / seconds) if seconds > 0 else '0'}/s"


def _three_digits(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
