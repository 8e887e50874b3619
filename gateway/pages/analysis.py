"""An analysis's result as tables and plain words. Pure.

What is in a result only the analysis knows, so its parts are known by their shape: coefficients with intervals, models
with scores beside baselines, numbers described. A part of another shape is left to the API.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from gateway.pages.shown import when, words
from headrace.pipeline import Pipeline

_TERM: Final = re.compile(r"([^\[\]]+)(?:\[(.*)\])?")
_SCORES: Final = {
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "roc_auc": "ROC AUC",
    "precision": "Precision",
    "recall": "Recall",
}
_STATISTICS: Final = ("mean", "sd", "min", "median", "max")


@dataclass(frozen=True)
class Term:
    """A coefficient, with its interval in percent of the widest that the table shows.

    Attributes:
        clear: whether the interval leaves 0 out.
    """

    label: str
    coefficient: str
    interval: str
    clear: bool
    left: float
    width: float
    at: float


@dataclass(frozen=True)
class Regression:
    title: str
    words: str
    reason: str
    zero: float
    clear: tuple[Term, ...]
    unclear: tuple[Term, ...]


@dataclass(frozen=True)
class Contest:
    """Models and baselines, side by side."""

    title: str
    words: tuple[str, ...]
    reason: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, bool, tuple[str, ...]], ...]


@dataclass(frozen=True)
class Numbers:
    title: str
    words: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True)
class Read:
    """What there is to read of an analysis."""

    about: str
    regressions: tuple[Regression, ...]
    contests: tuple[Contest, ...]
    numbers: tuple[Numbers, ...]


def read(pipeline: Pipeline, answer: Mapping[str, Any]) -> Read:
    """Return an answer of `/v1/analyses/{pipeline}` as a page shows it."""
    labels = {name: info.title or words(name) for name, info in pipeline.accepts.model_fields.items()}
    found = answer.get("result", {})
    many, libraries = answer.get("documents", 0), answer.get("libraries", {})
    by = ", ".join(f"{name} {version}" for name, version in sorted(libraries.items()))
    about = f"Computed from {many:,} documents at {when(answer['computed_at'])} UTC"
    return Read(
        f"{about} with {by}." if by else f"{about}.",
        tuple(_regressions(found.get("regression"), labels)),
        tuple(_contests(found.get("classifier"))),
        tuple(_numbers(found, labels)),
    )


def _regressions(part: Any, labels: Mapping[str, str]) -> Iterator[Regression]:
    if not isinstance(part, Mapping):
        return
    target = _label(str(part.get("target", "")), labels)
    for name, model in part.items():
        if not isinstance(model, Mapping):
            continue
        title = f"What goes with {target.lower()}: {words(name).lower()}"
        if reason := model.get("reason"):
            yield Regression(title, "", f"Not computed: it {reason}.", 0, (), ())
        elif isinstance(terms := model.get("terms"), Sequence):
            yield _regression(title, target.lower(), model, terms, float(part.get("confidence", 0.95)), labels)


def _regression(
    title: str,
    target: str,
    model: Mapping[str, Any],
    terms: Sequence[Mapping[str, Any]],
    confidence: float,
    labels: Mapping[str, str],
) -> Regression:
    told = [term for term in terms if term["term"] != "intercept"]
    low = min((float(term["low"]) for term in told), default=0.0)
    high = max((float(term["high"]) for term in told), default=0.0)
    low, high = min(low, 0.0), max(high, 0.0)
    span = (high - low) or 1.0

    def at(value: float) -> float:
        return round((value - low) / span * 100, 2)

    drawn = [
        Term(
            label=_label(str(term["term"]), labels),
            coefficient=_signed(term["coefficient"]),
            interval=f"{_signed(term['low'])} to {_signed(term['high'])}",
            clear=float(term["low"]) > 0 or float(term["high"]) < 0,
            left=at(float(term["low"])),
            width=max(at(float(term["high"])) - at(float(term["low"])), 0.4),
            at=at(float(term["coefficient"])),
        )
        for term in sorted(told, key=lambda term: -abs(float(term.get("t", term["coefficient"]))))
    ]
    share = f"{float(model['r_squared']):.0%} of the differences in {target}" if "r_squared" in model else ""
    explained = f"Together they account for {share}, over {model['rows']:,} records. " if share else ""
    said = (
        f"{explained}Each number is by how much {target} differs with one step more, or with this answer in place of "
        f"the usual one, all else being equal, with its {confidence:.0%} interval. It tells what goes together, not "
        "what causes what."
    )
    clear = tuple(term for term in drawn if term.clear)
    return Regression(title, said, "", at(0.0), clear, tuple(term for term in drawn if not term.clear))


def _contests(part: Any) -> Iterator[Contest]:
    if not isinstance(part, Mapping):
        return
    title = f"Foretelling who will {part.get('foretells', 'be which')}"
    if reason := part.get("reason"):
        yield Contest(title, (), f"Not computed: it {reason}.", (), ())
        return
    models, baselines = part.get("models"), part.get("baselines")
    if not isinstance(models, Mapping) or not isinstance(baselines, Mapping):
        return
    named = [(name, True, scores) for name, scores in baselines.items()]
    named += [(name, False, scores) for name, scores in models.items()]
    shown = [score for score in _SCORES if all(score in scores for _, _, scores in named)]
    rows = tuple(
        (words(name), is_baseline, tuple(f"{float(scores[score]['mean']):.1%}" for score in shown))
        for name, is_baseline, scores in named
    )
    yield Contest(title, tuple(_verdicts(part, models)), "", tuple(_SCORES[score] for score in shown), rows)


def _verdicts(part: Mapping[str, Any], models: Mapping[str, Any]) -> Iterator[str]:
    """Yield, in words, whether each model is better than what knows less, and by how much."""
    if "failed" in part and "rows" in part:
        yield (
            f"Of {part['rows']:,} records {part['failed']:,} are such. Each score is the mean of "
            f"{part.get('folds', {}).get('count', 'several')} tries on records that the model has not seen."
        )
    for name, model in models.items():
        if (gain := model.get("gain", {}).get("balanced_accuracy")) is None:
            continue
        mean, sd = float(gain["mean"]) * 100, float(gain["sd"]) * 100
        baseline = words(str(model.get("baseline", "the baseline"))).lower()
        verdict = "no better and no worse than" if abs(mean) < sd else "better than" if mean > 0 else "worse than"
        yield (
            f"{words(name)}: {verdict} {baseline}, by {mean:+.1f} points of balanced accuracy "
            f"(± {sd:.1f} from try to try)."
        )


def _numbers(found: Mapping[str, Any], labels: Mapping[str, str]) -> Iterator[Numbers]:
    described = found.get("descriptives")
    if isinstance(described, Mapping) and isinstance(numbers := described.get("numbers"), Mapping):
        rows = tuple(
            (_label(name, labels), tuple(_number(about.get(statistic)) for statistic in _STATISTICS))
            for name, about in numbers.items()
        )
        yield Numbers("Numbers described", "", ("Mean", "SD", "Least", "Median", "Greatest"), rows)
    related = found.get("correlations")
    if isinstance(related, Mapping) and isinstance(pairs := related.get("with_final_mark"), Sequence):
        rows = tuple(
            (
                _label(str(pair["field"]), labels),
                (_number(pair.get("pearson")), f"{_number(pair.get('low'))} to {_number(pair.get('high'))}"),
            )
            for pair in pairs
        )
        said = "From -1 to 1, strongest first; 0 is no straight-line relation at all."
        yield Numbers("Correlation with the final mark", said, ("Pearson's r", "Interval"), rows)


def _label(term: str, labels: Mapping[str, str]) -> str:
    """Return a term in the words of the form: `sex[M]` is `Sex: M`."""
    match = _TERM.fullmatch(term)
    if match is None:
        return term
    label = labels.get(match[1]) or words(match[1])
    return label if match[2] is None else f"{label}: {match[2].replace('_', ' ')}"


def _signed(value: Any) -> str:
    return f"{round(float(value), 2) + 0.0:+.2f}"


def _number(value: Any) -> str:
    # Not the -0.00 of what is a little below nothing.
    return "–" if value is None else f"{round(float(value), 2) + 0.0:.2f}"
