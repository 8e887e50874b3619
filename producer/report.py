"""The HTML report: one file that opens from disk, with charts drawn here as SVG and no word from the network.

Charts keep no text of their own inside the SVG, which stretches with the window; labels are HTML around it.
"""

from __future__ import annotations

import html
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from string import Template
from typing import Any, Final

from producer.figures import count, duration, rate, share
from producer.latency import Histogram
from producer.load_result import LoadResult
from producer.proof import Proof
from producer.summary import LABELS, headline, model, proof_line, proof_method, proof_verdict, verdict_value
from producer.tally import ACCEPT, SERVICE, STORED

_MOST_REASONS: Final = 30
_PERCENTILES: Final = (50.0, 75.0, 90.0, 95.0, 99.0, 99.9)


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a chart: its name, the class that colours it, and (x, y) points; a None breaks it."""

    name: str
    colour: str
    points: Sequence[tuple[float, float | None]]


@dataclass(frozen=True, slots=True)
class Axis:
    """Where values lie on an axis, from 0 to 1, and the labelled ticks."""

    low: float
    high: float
    ticks: Sequence[tuple[float, str]]
    logarithmic: bool = False

    def at(self, value: float) -> float:
        if self.logarithmic:
            value = max(value, self.low)
            return (math.log10(value) - math.log10(self.low)) / (math.log10(self.high) - math.log10(self.low))
        return (value - self.low) / (self.high - self.low or 1)


def html_report(result: LoadResult) -> str:
    """Return the whole page."""
    template = Template(files("producer").joinpath("report.html").read_text(encoding="utf-8"))
    parts = {
        "title": _text(f"{result.config.pipeline} · load test"),
        "headline": _text(headline(result)),
        "started_at": _text(result.started_at),
        "url": _text(result.config.headrace.url),
        "warnings": "".join(_warnings(result)),
        "thresholds": _thresholds(result),
        "tiles": "".join(_tiles(result)),
        "proof": _proof(result.proof),
        "throughput": _throughput(result),
        "latency": _latency(result),
        "latency_table": _latency_table(result.totals.latencies),
        "reasons": _reasons("refused", result.totals.refused) + _reasons("failed", result.totals.failed),
        "notes": "".join(f"<p class=note>{_text(note)}</p>" for note in result.notes),
        "facts": _facts(result),
    }
    return template.substitute(parts)


def _text(value: object) -> str:
    return html.escape(str(value))


def _warnings(result: LoadResult) -> Iterator[str]:
    if result.limits:
        yield '<section class="banner warn"><strong>The client was the limit.</strong> '
        yield "These numbers are no measure of the server, so no latency is drawn.<ul>"
        yield from (f"<li>{_text(limit)}</li>" for limit in result.limits)
        yield "</ul></section>"


def _thresholds(result: LoadResult) -> str:
    if not result.thresholds:
        return ""
    rows = "".join(
        f"<li class={'good' if one.passed else 'bad'}><b>{'✓' if one.passed else '✗'}</b>"
        f"<code>{_text(one.text)}</code><span>{_text(verdict_value(one))}</span></li>"
        for one in result.thresholds
    )
    return f"<section><h2>Thresholds</h2><ul class=thresholds>{rows}</ul></section>"


def _tiles(result: LoadResult) -> Iterator[str]:
    counts, proof, span = result.totals.counts, result.proof, result.elapsed_seconds
    accept = result.totals.latencies[ACCEPT]
    proven = proof.level != "none"
    yield _tile("Sent", count(counts.sent), f"{count(counts.requests)} requests")
    yield _tile(
        "Accepted", count(counts.accepted), f"{rate(counts.accepted, span)} · {share(counts.accepted, counts.sent)}"
    )
    yield _tile("Refused", count(counts.refused), share(counts.refused, counts.sent), "warn" if counts.refused else "")
    unknown = f"{count(counts.unknown)} with unknown outcome" if counts.unknown else share(counts.failed, counts.sent)
    yield _tile("Failed", count(counts.failed), unknown, "bad" if counts.failed else "")
    yield _tile(
        "Stored", count(proof.stored) if proven else "–", f"dead {count(proof.dead)}" if proven else "not proven"
    )
    lost = "good" if proof.lost == 0 and proof.balanced else "bad"
    yield _tile("Lost", count(proof.lost) if proven else "–", proof_method(proof), lost if proven else "")
    twice = "good" if proof.duplicated == 0 else "bad"
    yield _tile(
        "Duplicated", count(proof.duplicated) if proven else "–", "stored more than once", twice if proven else ""
    )
    if accept.count:
        yield _tile("Accept p99", duration(accept.at(99)), f"median {duration(accept.at(50))}")


def _tile(name: str, value: str, about: str, state: str = "") -> str:
    return f'<div class="tile {state}"><h3>{_text(name)}</h3><p>{_text(value)}</p><small>{_text(about)}</small></div>'


def _proof(proof: Proof) -> str:
    good = proof.balanced and not proof.in_flight
    state = "good" if good else "warn" if proof.level == "none" or proof.balanced else "bad"
    stored_by = " · ".join(f"{name} {count(number)}" for name, number in proof.stored_by.items())
    notes = "".join(f"<p class=note>{_text(note)}</p>" for note in proof.notes)
    lost = "".join(f"<li><code>{_text(one)}</code></li>" for one in proof.lost_examples)
    return (
        f"<section class='proof {state}'><h2>Proof</h2><p class=equation>{_text(proof_line(proof))}</p>"
        f"<p><b>{'✓' if good else '✗'} {_text(proof_verdict(proof))}</b> – {_text(proof_method(proof))}"
        f"{_text('; ' + stored_by if stored_by else '')}.</p>"
        f"{f'<p>Lost, for example:</p><ul>{lost}</ul>' if lost else ''}{notes}</section>"
    )


def _throughput(result: LoadResult) -> str:
    seconds = [one for one in result.totals.seconds if one.span_seconds >= 0.2]
    if len(seconds) < 2:
        return ""

    def line(name: str, colour: str) -> Line:
        return Line(name, colour, [(one.second, getattr(one, name) / one.span_seconds) for one in seconds])

    lines = [line("accepted", "accepted")]
    lines += [line(name, name) for name in ("refused", "failed") if getattr(result.totals.counts, name)]
    return _chart("Documents a second", lines, _time_axis(seconds[-1].second), _linear(lines, count), count)


def _latency(result: LoadResult) -> str:
    if result.limits:
        return ""
    seconds = [one for one in result.totals.seconds if one.p50 is not None]
    charts = []
    if len(seconds) > 1:
        lines = [
            Line("max", "max", [(one.second, one.max) for one in seconds]),
            Line("p99", "p99", [(one.second, one.p99) for one in seconds]),
            Line("median", "p50", [(one.second, one.p50) for one in seconds]),
        ]
        charts.append(
            _chart("Latency to 202, each second", lines, _time_axis(seconds[-1].second), _logarithmic(lines), duration)
        )
    curves = [
        # The x axis is the number of nines: each tick is ten times rarer than the one before.
        Line(LABELS[name], colour, [(-math.log10(max(1 - percent / 100, 1e-6)), value) for percent, value in curve])
        for name, colour in ((STORED, "e2e"), (SERVICE, "service"), (ACCEPT, "accepted"))
        # In the closed model the service time is the latency.
        if not (name == SERVICE and result.config.rate is None)
        and len(curve := [point for point in result.totals.latencies[name].curve() if point[0] < 100]) > 1
    ]
    if curves:
        rarest = max(point[0] for one in curves for point in one.points)
        ticks = [(nines, label) for nines, label in _NINES if nines <= rarest]
        charts.append(
            _chart(
                "Latency by percentile",
                curves,
                Axis(0, rarest, ticks),
                _logarithmic(curves),
                duration,
                x_name="percentile",
            )
        )
    return "".join(charts)


_NINES: Final = (
    (-math.log10(0.5), "50 %"),
    (1.0, "90 %"),
    (2.0, "99 %"),
    (3.0, "99.9 %"),
    (4.0, "99.99 %"),
    (5.0, "99.999 %"),
)


def _chart(title: str, lines: Sequence[Line], x: Axis, y: Axis, say: Any, *, x_name: str = "second") -> str:
    """Return a figure: legend, plot with labels around it, and the points for the script that shows values."""
    legend = "".join(f"<li class=c-{one.colour}>{_text(one.name)}</li>" for one in lines)
    grid = "".join(f"<path class=grid d='M0 {_y(y.at(tick))}H1000'/>" for tick, _ in y.ticks)
    paths = "".join(f"<path class='line c-{one.colour}' d='{_path(one.points, x, y)}'/>" for one in lines)
    y_labels = "".join(f"<span style='bottom:{100 * y.at(tick):.2f}%'>{_text(label)}</span>" for tick, label in y.ticks)
    x_labels = "".join(f"<span {_beside(x.at(tick))}>{_text(label)}</span>" for tick, label in x.ticks)
    data = {
        "x": x_name,
        "lines": [
            {
                "name": one.name,
                "colour": one.colour,
                "points": [
                    [round(x.at(px), 4), round(y.at(py), 4), _x_words(px, x_name), say(py)]
                    for px, py in one.points
                    if py is not None
                ],
            }
            for one in lines
        ],
    }
    # Inside a script element only `<` could end it early.
    points = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    return (
        f"<figure><figcaption><h2>{_text(title)}</h2><ul class=legend>{legend}</ul></figcaption>"
        f"<div class=plot><div class=y>{y_labels}</div>"
        f"<div class=area tabindex=0><svg viewBox='0 0 1000 1000' preserveAspectRatio=none role=img"
        f" aria-label='{_text(title)}'>{grid}{paths}</svg>"
        "<div class=cursor hidden></div><div class=tip hidden></div></div>"
        f"<div class=x>{x_labels}</div></div><script type=application/json>{points}</script></figure>"
    )


def _beside(place: float) -> str:
    """Return where an x label goes: centred under its tick, but inside at either end."""
    shift = 0 if place < 0.02 else 100 if place > 0.98 else 50
    return f"style='left:{100 * place:.2f}%;transform:translateX(-{shift}%)'"


def _path(points: Iterable[tuple[float, float | None]], x: Axis, y: Axis) -> str:
    words, move = [], True
    for px, py in points:
        if py is None:
            move = True
            continue
        words.append(f"{'M' if move else 'L'}{1000 * x.at(px):.1f} {_y(y.at(py))}")
        move = False
    return "".join(words)


def _y(height: float) -> str:
    return f"{1000 - 1000 * height:.1f}"


def _x_words(value: float, name: str) -> str:
    if name == "second":
        return f"{value:.0f} s"
    return f"{100 - 100 * 10**-value:.{max(0, math.ceil(value) - 1)}f} %"


def _time_axis(last: int) -> Axis:
    step = next(step for step in (1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 10**9) if last / step <= 6)
    return Axis(0, max(last, 1), [(second, f"{second} s") for second in range(0, last + 1, step)])


def _linear(lines: Sequence[Line], say: Any) -> Axis:
    highest = max((y for line in lines for _, y in line.points if y is not None), default=1) or 1
    size = 10 ** math.floor(math.log10(highest))
    step = next(size * factor for factor in (0.2, 0.5, 1, 2, 5) if highest / (size * factor) <= 5)
    ticks = [number * step for number in range(math.ceil(highest / step) + 1)]
    return Axis(0, ticks[-1], [(tick, say(tick) if tick == round(tick) else f"{tick:g}") for tick in ticks])


def _logarithmic(lines: Sequence[Line]) -> Axis:
    values = [y for line in lines for _, y in line.points if y]
    low = 10 ** math.floor(math.log10(min(values)))
    high = 10 ** math.ceil(math.log10(max(values) * 1.0001))
    decades = range(round(math.log10(low)), round(math.log10(high)) + 1)
    return Axis(low, high, [(10.0**power, _power(power)) for power in decades], logarithmic=True)


def _power(power: int) -> str:
    for factor, unit in ((-6, "µs"), (-3, "ms")):
        if power < factor + 3:
            return f"{10 ** (power - factor):g} {unit}"
    return f"{10**power:g} s"


def _latency_table(histograms: Mapping[str, Histogram]) -> str:
    minor = ["" if one in (50, 90, 99) else " class=minor" for one in _PERCENTILES] + [""]
    head = "".join(f"<th{kind}>p{one:g}</th>" for one, kind in zip(_PERCENTILES, minor, strict=False))
    rows = ""
    for name, label in LABELS.items():
        if (histogram := histograms[name]).count:
            values = [histogram.at(one) for one in _PERCENTILES] + [histogram.highest]
            cells = "".join(f"<td{kind}>{duration(value)}</td>" for value, kind in zip(values, minor, strict=True))
            rows += f"<tr><th scope=row>{_text(label)}</th>{cells}<td class=minor>{count(histogram.count)}</td></tr>"
    head = f"<tr><th></th>{head}<th>max</th><th class=minor>requests</th></tr>"
    return f"<table class=latency><thead>{head}</thead><tbody>{rows}</tbody></table>"


def _reasons(outcome: str, reasons: Mapping[str, int]) -> str:
    if not reasons:
        return ""
    ordered = sorted(reasons.items(), key=lambda item: -item[1])[:_MOST_REASONS]
    highest = ordered[0][1]
    rows = "".join(
        f"<tr><td class=number>{count(number)}</td><td><code>{_text(reason)}</code>"
        f"<div class='bar {outcome}' style='width:{100 * number / highest:.1f}%'></div></td></tr>"
        for reason, number in ordered
    )
    table = f"<table class=reasons><tbody>{rows}</tbody></table>"
    return f"<section><h2>{outcome.capitalize()}, by reason</h2>{table}</section>"


def _facts(result: LoadResult) -> str:
    report = result.to_json()
    facts = {"model": model(result.config), **report["config"], **report["machine"], "run": result.run_id}
    facts["model"] = model(result.config)
    rows = "".join(
        f"<tr><th scope=row>{_text(name.replace('_', ' '))}</th><td>{_text('–' if value is None else value)}</td></tr>"
        for name, value in facts.items()
    )
    return f"<table class=facts><tbody>{rows}</tbody></table>"
