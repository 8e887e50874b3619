"""The statistics of students, held against the libraries run directly, and against nothing at all."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, balanced_accuracy_score, roc_auc_score
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from headrace.analysis import Rows
from headrace.errors import DocumentError
from headrace.schema import validate
from pipelines.analyses import students as analysis
from pipelines.students import students
from producer.generators import documents
from producer.samples import sample
from producer.sources import read

REAL = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "students" / "student-por.csv"

# Written down once more: the code must not be its own judge.
BACKGROUND = (
    "C(school, Treatment('GP')) + C(sex, Treatment('F')) + C(address, Treatment('U')) + C(famsize, Treatment('GT3'))"
    " + C(Pstatus, Treatment('T')) + C(Mjob, Treatment('other')) + C(Fjob, Treatment('other'))"
    " + C(reason, Treatment('course')) + C(guardian, Treatment('mother')) + C(schoolsup, Treatment('no'))"
    " + C(famsup, Treatment('no')) + C(paid, Treatment('no')) + C(activities, Treatment('no'))"
    " + C(nursery, Treatment('no')) + C(higher, Treatment('no')) + C(internet, Treatment('no'))"
    " + C(romantic, Treatment('no')) + age + Medu + Fedu + traveltime + studytime + failures + famrel + freetime"
    " + goout + Dalc + Walc + health + absences"
)

Stored = list[dict[str, Any]]


def stored(path: Path) -> Stored:
    found = []
    for row in read("students", path):
        assert row.document is not None
        found.append(students.apply(validate(students, msgspec.json.encode(row.document))).model_dump())
    return found


def made_up(count: int, seed: int = 1) -> Stored:
    made = islice(documents("students", seed), count)
    return [students.apply(validate(students, msgspec.json.encode(one))).model_dump() for one in made]


def analysed(records: Stored) -> dict[str, Any]:
    rows = Rows(analysis.FIELDS)
    rows.add(records)
    return analysis.analyse(rows.table())


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Let the recount run as the analysis does: on these few rows, threads only wait for one another."""
    with threadpool_limits(1):
        yield


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the real file, or where it is not on this machine, made-up records in its form."""
    if REAL.exists():
        return REAL
    path = tmp_path_factory.mktemp("students") / "made-up.csv"
    pd.DataFrame(islice(documents("students", 1), 649)).to_csv(path, sep=";", index=False)
    return path


@pytest.fixture(scope="module")
def frame(file: Path) -> pd.DataFrame:
    """Return the file as pandas reads it; nothing of ours has touched it."""
    return pd.read_csv(file, sep=";")


@pytest.fixture(scope="module")
def found(file: Path) -> dict[str, Any]:
    return analysed(stored(file))


def renamed(term: str) -> str:
    """Return our name of one of patsy's terms: `C(Mjob, Treatment('other'))[T.health]` is `Mjob[health]`."""
    if term == "Intercept":
        return "intercept"
    if not term.startswith("C("):
        return term
    return f"{term[2:].partition(',')[0]}[{term.rpartition('[T.')[2]}"


@pytest.mark.parametrize(("name", "marks"), [("background", ""), ("with_marks", " + G1 + G2")])
def test_coefficients_and_intervals_are_those_of_statsmodels_run_on_the_file(
    found: dict[str, Any], frame: pd.DataFrame, name: str, marks: str
) -> None:
    fit = smf.ols(f"G3 ~ {BACKGROUND}{marks}", data=frame).fit(cov_type="HC3", use_t=True)
    expected = {
        renamed(term): (fit.params[term], fit.bse[term], fit.pvalues[term], *fit.conf_int(0.05).loc[term])
        for term in fit.params.index
    }

    told = found["regression"][name]
    terms = {one["term"]: [one[key] for key in ("coefficient", "error", "p", "low", "high")] for one in told["terms"]}
    assert set(terms) == set(expected)
    for term, values in expected.items():
        assert terms[term] == pytest.approx(values, rel=1e-6, abs=1e-9), term
    assert (told["rows"], told["freedom"], told["left_out"]) == (len(frame), fit.df_resid, [])
    assert (told["r_squared"], told["r_squared_adjusted"]) == pytest.approx((fit.rsquared, fit.rsquared_adj))


def test_descriptives_are_a_recount_by_pandas(found: dict[str, Any], frame: pd.DataFrame) -> None:
    told = found["descriptives"]
    bands = pd.cut(
        frame.G3, [-1, 9, 11, 13, 15, 20], labels=["fail", "sufficient", "satisfactory", "good", "excellent"]
    )

    assert told["rows"] == len(frame)
    assert told["final_mark"]["bands"] == bands.value_counts().to_dict()
    assert told["final_mark"]["passed"] == (frame.G3 >= 10).sum()
    assert told["final_mark"]["zeros"] == (frame.G3 == 0).sum()
    for name, numbers in told["numbers"].items():
        column = frame[name]
        assert numbers == pytest.approx(
            dict(zip(numbers, column.describe()[["mean", "std", "min", "25%", "50%", "75%", "max"]], strict=True))
        )
    for name, levels in told["levels"].items():
        assert levels == frame[name].value_counts().to_dict()
    assert {school: one["mean"] for school, one in told["by_school"].items()} == pytest.approx(
        frame.groupby("school").G3.mean().to_dict()
    )


def test_correlations_are_those_of_scipy(found: dict[str, Any], frame: pd.DataFrame) -> None:
    told = found["correlations"]

    for one in told["with_final_mark"]:
        direct = stats.pearsonr(frame[one["field"]], frame.G3)
        assert one["pearson"] == pytest.approx(direct.statistic)
        assert (one["low"], one["high"]) == pytest.approx(tuple(direct.confidence_interval(0.95)))
        assert one["spearman"] == pytest.approx(stats.spearmanr(frame[one["field"]], frame.G3).statistic)
    assert [abs(one["pearson"]) for one in told["with_final_mark"]] == sorted(
        (abs(one["pearson"]) for one in told["with_final_mark"]), reverse=True
    )
    assert np.array(told["pearson"]) == pytest.approx(frame[told["fields"]].corr().to_numpy())


@pytest.mark.parametrize(("name", "marks"), [("background", []), ("with_marks", ["G1", "G2"])])
def test_the_classifier_s_scores_are_those_of_a_fit_by_hand_in_each_of_the_same_folds(
    found: dict[str, Any], file: Path, name: str, marks: list[str]
) -> None:
    # In the order of the analysis, which the records alone decide.
    rows = Rows(analysis.FIELDS)
    rows.add(stored(file))
    frame = pd.DataFrame(rows.table())
    failed = (frame.G3 < 10).to_numpy()
    texts = pd.get_dummies(frame[list(analysis.REFERENCES)]).astype(float).to_numpy()
    flags = frame[list(analysis.YES_OR_NO)].astype(float).to_numpy()
    numbers = frame[[*analysis.NUMBERS, *marks]].astype(float).to_numpy()
    folds = StratifiedKFold(10, shuffle=True, random_state=0).split(frame, failed)

    accuracy, balanced, area = [], [], []
    for train, test in folds:
        scaler = StandardScaler().fit(numbers[train])
        regressors = np.hstack([texts, flags, scaler.transform(numbers)])
        model = LogisticRegression(max_iter=1000).fit(regressors[train], failed[train])
        accuracy.append(accuracy_score(failed[test], model.predict(regressors[test])))
        balanced.append(balanced_accuracy_score(failed[test], model.predict(regressors[test])))
        area.append(roc_auc_score(failed[test], model.predict_proba(regressors[test])[:, 1]))

    told = found["classifier"]["models"][name]
    assert told["accuracy"]["folds"] == pytest.approx(accuracy)
    assert told["balanced_accuracy"]["folds"] == pytest.approx(balanced)
    assert told["roc_auc"]["folds"] == pytest.approx(area, abs=1e-6)
    assert told["accuracy"]["mean"] == pytest.approx(np.mean(accuracy))


def test_every_model_stands_beside_its_baseline_in_the_same_folds(found: dict[str, Any], frame: pd.DataFrame) -> None:
    told = found["classifier"]
    failed = frame.G3 < 10

    assert (told["rows"], told["failed"]) == (len(frame), failed.sum())
    assert told["folds"]["count"] == len(told["folds"]["rows"]) == 10
    assert sum(told["folds"]["rows"]) == len(frame)
    sizes = np.array(told["folds"]["rows"])
    # Weighted by the folds' sizes, what all folds say together is what the whole file says.
    whole = {
        "majority": max(failed.mean(), 1 - failed.mean()),
        "second_mark_below_10": ((frame.G2 < 10) == failed).mean(),
    }
    for name, expected in whole.items():
        folds = np.array(told["baselines"][name]["accuracy"]["folds"])
        assert (folds * sizes).sum() / sizes.sum() == pytest.approx(expected)
    assert told["baselines"]["majority"]["roc_auc"]["mean"] == 0.5
    for model, baseline in (("background", "majority"), ("with_marks", "second_mark_below_10")):
        one = told["models"][model]
        assert one["baseline"] == baseline
        for score, gain in one["gain"].items():
            difference = one[score]["mean"] - told["baselines"][baseline][score]["mean"]
            assert gain["mean"] == pytest.approx(difference)


def test_the_order_of_the_documents_changes_nothing(found: dict[str, Any], file: Path) -> None:
    records = stored(file)
    random.Random(3).shuffle(records)

    assert analysed(records) == found


def test_a_record_sent_twice_gives_nothing_away_between_folds() -> None:
    records = made_up(200)

    assert analysed(records + records)["classifier"] == analysed(records)["classifier"]


def test_noise_is_not_foretold() -> None:
    """With marks that nothing explains, no interval is narrow and no model beats its baseline."""
    records, draw = made_up(400), random.Random(5)
    for record in records:
        record["G3"] = draw.choice([8, 9, 10, 11])
    told = analysed(records)

    assert told["regression"]["background"]["r_squared_adjusted"] < 0.1
    assert abs(told["classifier"]["models"]["background"]["roc_auc"]["mean"] - 0.5) < 0.1


@pytest.mark.parametrize("count", [1, 2, 3, 5, 40, 80])
def test_what_too_few_rows_cannot_say_says_so(count: int) -> None:
    told = analysed(made_up(count))

    assert told["descriptives"]["rows"] == count
    assert "reason" in told["regression"]["background"] or count >= 60
    assert "reason" in told["classifier"] or count >= 20
    assert ("reason" in told["correlations"]) == (count < 4)
    # JSON has no NaN.
    assert msgspec.json.decode(msgspec.json.encode(told)) == told


def test_what_never_varies_is_left_out_by_name() -> None:
    records = [{**record, "school": "GP", "age": 16, "paid": False} for record in made_up(300)]
    told = analysed(records)

    assert {"age", "paid[yes]"} <= set(told["regression"]["background"]["left_out"])
    assert not any(one["term"].startswith("school[") for one in told["regression"]["background"]["terms"])
    age = next(one for one in told["correlations"]["with_final_mark"] if one["field"] == "age")
    assert age["pearson"] is None


def test_equal_marks_leave_nothing_to_explain() -> None:
    told = analysed([{**record, "G3": 12} for record in made_up(150)])

    assert told["regression"]["background"] == {"reason": "every final mark is the same"}


def test_the_sample_is_enough_for_every_part() -> None:
    path = sample("students")
    assert path is not None
    good = []
    for row in read("students", path):
        assert row.document is not None
        with contextlib.suppress(DocumentError):
            good.append(students.apply(validate(students, msgspec.json.encode(row.document))).model_dump())
    told = analysed(good)

    assert len(good) == 237
    assert "reason" not in {**told["regression"]["with_marks"], **told["classifier"], **told["correlations"]}
