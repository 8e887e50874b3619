"""What statistics found, in plain words."""

from __future__ import annotations

from typing import Any

from gateway.pages.analysis import read
from headrace.registry import load_pipelines

STUDENTS = load_pipelines()["students"]
ANSWER: dict[str, Any] = {
    "documents": 649,
    "computed_at": "2026-11-25T08:15:30Z",
    "libraries": {"statsmodels": "0.15.0"},
}


def term(name: str, coefficient: float, low: float, high: float) -> dict[str, Any]:
    return {"term": name, "coefficient": coefficient, "low": low, "high": high, "t": coefficient * 10}


def scores(accuracy: float, balanced: float) -> dict[str, Any]:
    return {"accuracy": {"mean": accuracy, "sd": 0.01}, "balanced_accuracy": {"mean": balanced, "sd": 0.01}}


def model(gain: float, sd: float) -> dict[str, Any]:
    return {**scores(0.8, 0.7), "baseline": "majority", "gain": {"balanced_accuracy": {"mean": gain, "sd": sd}}}


def test_it_says_from_what_and_when_it_was_computed() -> None:
    found = read(STUDENTS, {**ANSWER, "result": {}})

    assert found.about == "Computed from 649 documents at 2026-11-25 08:15:30 UTC with statsmodels 0.15.0."
    assert (found.regressions, found.contests, found.numbers) == ((), (), ())


def test_coefficients_are_parted_by_whether_they_can_be_told_from_none() -> None:
    terms = [
        term("intercept", 9, 8, 10),
        term("sex[M]", -0.5, -1, 0.25),
        term("failures", -1.5, -2, -1),
        term("Mjob[at_home]", 0.2, 0, 0.5),
    ]
    background = {"rows": 649, "r_squared": 0.364, "terms": terms}
    regression = {"target": "G3", "confidence": 0.95, "background": background}
    (found,) = read(STUDENTS, {**ANSWER, "result": {"regression": regression}}).regressions

    assert found.title == "What goes with final mark: background"
    assert "36% of the differences in final mark, over 649 records" in found.words
    assert [(one.label, one.coefficient, one.interval) for one in found.clear] == [
        ("Courses failed before", "-1.50", "-2.00 to -1.00")
    ]
    assert [one.label for one in found.unclear] == ["Sex: M", "Mother's job: at home"]
    # Drawn from -2 to 0.5, so 0 stands at 80 %.
    assert (found.zero, found.clear[0].left, found.clear[0].width, found.clear[0].at) == (80, 0, 40, 20)


def test_what_was_not_computed_says_why() -> None:
    result = {
        "regression": {"target": "G3", "background": {"reason": "needs at least 60 rows"}},
        "classifier": {"reason": "needs at least 10 that fail"},
    }
    found = read(STUDENTS, {**ANSWER, "result": result})

    assert found.regressions[0].reason == "Not computed: it needs at least 60 rows."
    assert found.contests[0].reason == "Not computed: it needs at least 10 that fail."


def test_models_stand_beside_their_baselines_and_the_verdict_is_honest() -> None:
    classifier = {
        "foretells": "fail",
        "rows": 649,
        "failed": 100,
        "folds": {"count": 10},
        "baselines": {"majority": scores(0.85, 0.5)},
        "models": {"background": model(0.2, 0.05), "with_marks": model(0.01, 0.05), "noise": model(-0.1, 0.05)},
    }
    (found,) = read(STUDENTS, {**ANSWER, "result": {"classifier": classifier}}).contests

    assert found.heads == ("Accuracy", "Balanced accuracy")
    assert found.rows[0] == ("Majority", True, ("85.0%", "50.0%"))
    assert [is_baseline for _, is_baseline, _ in found.rows] == [True, False, False, False]
    assert "Of 649 records 100 are such." in found.words[0]
    assert [said.partition(",")[0] for said in found.words[1:]] == [
        "Background: better than majority",
        "With marks: no better and no worse than majority",
        "Noise: worse than majority",
    ]


def test_what_is_nothing_is_shown_as_nothing() -> None:
    result = {
        "descriptives": {"numbers": {"age": {"mean": 16.7, "sd": None, "min": 15, "median": 17, "max": 22}}},
        "correlations": {"with_final_mark": [{"field": "age", "pearson": -0.001, "low": None, "high": 0.1}]},
    }
    described, related = read(STUDENTS, {**ANSWER, "result": result}).numbers

    assert described.rows == (("Age", ("16.70", "–", "15.00", "17.00", "22.00")),)
    assert related.rows == (("Age", ("0.00", "– to 0.10")),)


def test_parts_of_other_shapes_are_left_to_the_api() -> None:
    result = {
        "regression": [1],
        "classifier": "none",
        "descriptives": {"numbers": 1},
        "correlations": None,
        "other": {},
    }

    assert read(STUDENTS, {**ANSWER, "result": result}).regressions == ()
