"""The statistics of student records: description, correlation, a regression of the final mark, a forecast of failing.

Two sets of regressors stand side by side throughout: `background` is what is known before a course, `with_marks` adds
the marks of the first two periods, which foretell the third so well that nothing else seems to matter beside them.
What each number means, and what it does not, is in docs/students.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
import statsmodels.api as sm
from scipy import stats
from sklearn.compose import ColumnTransformer
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, balanced_accuracy_score, precision_score, recall_score, roc_auc_score
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from threadpoolctl import threadpool_limits

VERSION: Final = 1
LIBRARIES: Final = ("numpy", "pandas", "scipy", "statsmodels", "scikit-learn")

TARGET: Final = "G3"
PASS_MARK: Final = 10
MARKS: Final = ("G1", "G2")

# Text, each with the level that the others are compared with: the most frequent of the UCI set.
REFERENCES: Final[Mapping[str, str]] = {
    "school": "GP",
    "sex": "F",
    "address": "U",
    "famsize": "GT3",
    "Pstatus": "T",
    "Mjob": "other",
    "Fjob": "other",
    "reason": "course",
    "guardian": "mother",
}
YES_OR_NO: Final = ("schoolsup", "famsup", "paid", "activities", "nursery", "higher", "internet", "romantic")
# Counts, and scales whose steps are taken to be equal.
NUMBERS: Final = (
    *("age", "Medu", "Fedu", "traveltime", "studytime", "failures"),
    *("famrel", "freetime", "goout", "Dalc", "Walc", "health", "absences"),
)
FIELDS: Final = (*REFERENCES, *YES_OR_NO, *NUMBERS, *MARKS, TARGET, "band")

CONFIDENCE: Final = 0.95
# A level that fewer have joins the reference: its coefficient would be about these few.
_LEAST_OF_A_LEVEL: Final = 5
_LEAST_FREEDOM: Final = 30
FOLDS: Final = 10
SEED: Final = 0

Table = Mapping[str, Sequence[Any]]
Found = dict[str, Any]


def analyse(table: Table) -> Found:
    """Return {descriptives, correlations, regression, classifier}; a part that needs more rows says so in `reason`."""
    frame = pd.DataFrame({name: list(values) for name, values in table.items()})
    # One thread: sums have one order, and those who share the machine are left alone.
    with threadpool_limits(1):
        return plain(_found(frame))  # type: ignore[no-any-return]


def _found(frame: pd.DataFrame) -> Found:
    return {
        "descriptives": descriptives(frame),
        "correlations": correlations(frame),
        "regression": {
            "target": TARGET,
            "confidence": CONFIDENCE,
            "covariance": "HC3",
            "background": regression(frame, ()),
            "with_marks": regression(frame, MARKS),
        },
        "classifier": classifier(frame),
    }


def descriptives(frame: pd.DataFrame) -> Found:
    numbers = {}
    for name in (*NUMBERS, *MARKS, TARGET):
        values = frame[name].astype(float)
        numbers[name] = {
            "mean": values.mean(),
            "sd": values.std(),
            "min": values.min(),
            "q1": values.quantile(0.25),
            "median": values.median(),
            "q3": values.quantile(0.75),
            "max": values.max(),
        }
    passed = frame[TARGET] >= PASS_MARK
    schools = frame.assign(passed=passed).groupby("school")
    return {
        "rows": len(frame),
        "numbers": numbers,
        "levels": {name: _counts(frame[name]) for name in (*REFERENCES, *YES_OR_NO)},
        "final_mark": {
            "bands": _counts(frame["band"]),
            "passed": passed.sum(),
            "passed_share": passed.mean(),
            # Drop-outs rather than marks, and the reason for the regression's robust errors.
            "zeros": (frame[TARGET] == 0).sum(),
        },
        "by_school": {
            school: {"rows": len(rows), "mean": rows[TARGET].mean(), "passed_share": rows["passed"].mean()}
            for school, rows in schools
        },
    }


def correlations(frame: pd.DataFrame) -> Found:
    """Return Pearson's r of every pair of numbers; with the final mark also its interval and Spearman's rho."""
    names = [*NUMBERS, *MARKS, TARGET]
    least = 4
    if len(frame) < least:
        return {"reason": f"needs at least {least} rows"}
    numbers = frame[names].astype(float)
    pearson = numbers.corr()
    spearman = numbers.corr(method="spearman")[TARGET]
    with_target = []
    for name in names[:-1]:
        low, high = _interval_of_r(pearson.at[name, TARGET], len(frame))
        row = {"field": name, "pearson": pearson.at[name, TARGET], "low": low, "high": high}
        with_target.append({**row, "spearman": spearman[name]})
    with_target.sort(key=lambda row: -abs(row["pearson"]) if math.isfinite(row["pearson"]) else 1)
    return {
        "confidence": CONFIDENCE,
        "with_final_mark": with_target,
        "fields": names,
        "pearson": pearson.to_numpy().tolist(),
    }


def _interval_of_r(r: float, rows: int) -> tuple[float, float]:
    """Return Fisher's confidence interval of a correlation."""
    if not abs(r) < 1:
        return r, r
    half = stats.norm.ppf((1 + CONFIDENCE) / 2) / math.sqrt(rows - 3)
    return math.tanh(math.atanh(r) - half), math.tanh(math.atanh(r) + half)


def regression(frame: pd.DataFrame, marks: Sequence[str]) -> Found:
    """Return ordinary least squares of the final mark, with errors robust to unequal variance (HC3), t intervals."""
    design, left_out = design_of(frame, marks)
    needed = design.shape[1] + _LEAST_FREEDOM
    if len(frame) < needed:
        return {"reason": f"needs at least {needed} rows"}
    if frame[TARGET].nunique() < 2:
        return {"reason": "every final mark is the same"}
    if np.linalg.matrix_rank(design.to_numpy()) < design.shape[1]:
        return {"reason": "some regressors follow from others in these rows, so no coefficient is determined"}
    fit = sm.OLS(frame[TARGET].astype(float), design).fit(cov_type="HC3", use_t=True)
    intervals = fit.conf_int(alpha=1 - CONFIDENCE)
    terms = [
        {
            "term": term,
            "coefficient": fit.params[term],
            "error": fit.bse[term],
            "t": fit.tvalues[term],
            "p": fit.pvalues[term],
            "low": intervals.at[term, 0],
            "high": intervals.at[term, 1],
        }
        for term in design.columns
    ]
    if not all(math.isfinite(value) for term in terms for value in term.values() if not isinstance(value, str)):
        return {"reason": "single rows decide a coefficient alone, so it has no interval"}
    return {
        "rows": int(fit.nobs),
        "freedom": fit.df_resid,
        "r_squared": fit.rsquared,
        "r_squared_adjusted": fit.rsquared_adj,
        "residual_sd": math.sqrt(fit.mse_resid),
        "terms": terms,
        "left_out": left_out,
    }


def design_of(frame: pd.DataFrame, marks: Sequence[str]) -> tuple[pd.DataFrame, list[str]]:
    """Return the regressors, and the names of those that too few rows speak of.

    An intercept; an indicator for each level of a text but its reference; 1 for yes; numbers and scales as they are.
    """
    columns: dict[str, pd.Series] = {"intercept": pd.Series(1.0, index=frame.index)}
    indicators = {
        f"{name}[{level}]": frame[name] == level
        for name, reference in REFERENCES.items()
        for level in sorted(set(frame[name]) - {reference})
    } | {f"{name}[yes]": frame[name] for name in YES_OR_NO}
    left_out = []
    for term, those in indicators.items():
        if min(those.sum(), (~those).sum()) < _LEAST_OF_A_LEVEL:
            left_out.append(term)
        else:
            columns[term] = those.astype(float)
    for name in (*NUMBERS, *marks):
        if frame[name].nunique() < 2:
            left_out.append(name)
        else:
            columns[name] = frame[name].astype(float)
    return pd.DataFrame(columns), left_out


def classifier(frame: pd.DataFrame) -> Found:
    """Return how well failing is foretold, by cross-validation, with what knows nothing and what knows one mark.

    Everything that learns, the scaling too, learns in each fold from the other folds alone. Parameters are the
    libraries' own and were not chosen by these numbers. Equal records count once: in two folds, one would give away
    the other.
    """
    frame = frame.drop_duplicates()
    failed = (frame[TARGET] < PASS_MARK).to_numpy()
    smaller = int(min(failed.sum(), (~failed).sum()))
    if smaller < FOLDS:
        return {"reason": f"needs at least {FOLDS} different rows that pass and {FOLDS} that fail"}
    splits = list(StratifiedKFold(FOLDS, shuffle=True, random_state=SEED).split(np.zeros((len(failed), 1)), failed))
    majority, second_mark = [], []
    models: dict[str, list[Found]] = {"background": [], "with_marks": []}
    for train, test in splits:
        dummy = DummyClassifier(strategy="most_frequent").fit(np.zeros((len(train), 1)), failed[train])
        guess = dummy.predict(np.zeros((len(test), 1)))
        majority.append(_scores(failed[test], guess, guess.astype(float)))
        mark = frame["G2"].to_numpy()[test]
        second_mark.append(_scores(failed[test], mark < PASS_MARK, -mark.astype(float)))
        for name, marks in (("background", ()), ("with_marks", MARKS)):
            model = _model(marks).fit(frame.iloc[train], failed[train])
            chance = model.predict_proba(frame.iloc[test])[:, 1]
            models[name].append(_scores(failed[test], chance >= 0.5, chance))
    return {
        "foretells": "fail",
        "rows": len(failed),
        "failed": failed.sum(),
        "folds": {"count": FOLDS, "seed": SEED, "rows": [len(test) for _, test in splits]},
        "baselines": {"majority": _summary(majority), "second_mark_below_10": _summary(second_mark)},
        "models": {
            "background": {**_summary(models["background"]), **_gain(models["background"], "majority", majority)},
            "with_marks": {
                **_summary(models["with_marks"]),
                **_gain(models["with_marks"], "second_mark_below_10", second_mark),
            },
        },
    }


def _model(marks: Sequence[str]) -> Any:
    """Return a logistic regression on scaled numbers and indicators."""
    return make_pipeline(
        ColumnTransformer(
            [
                ("texts", OneHotEncoder(handle_unknown="ignore"), list(REFERENCES)),
                ("yes_or_no", "passthrough", list(YES_OR_NO)),
                ("numbers", StandardScaler(), [*NUMBERS, *marks]),
            ]
        ),
        LogisticRegression(max_iter=1000),
    )


def _scores(failed: Any, guess: Any, score: Any) -> Found:
    """Return one fold's scores; a precision of nothing foretold is 0."""
    return {
        "accuracy": accuracy_score(failed, guess),
        "balanced_accuracy": balanced_accuracy_score(failed, guess),
        "roc_auc": roc_auc_score(failed, score),
        "precision": precision_score(failed, guess, zero_division=0),
        "recall": recall_score(failed, guess, zero_division=0),
    }


def _summary(folds: Sequence[Found]) -> Found:
    return {
        name: {"mean": np.mean(values), "sd": np.std(values, ddof=1), "folds": values}
        for name in folds[0]
        for values in [[fold[name] for fold in folds]]
    }


def _gain(folds: Sequence[Found], baseline: str, others: Sequence[Found]) -> Found:
    """Return by how much a model is better than its baseline, fold by fold."""
    gain = {}
    for name in ("accuracy", "balanced_accuracy", "roc_auc"):
        differences = [one[name] - other[name] for one, other in zip(folds, others, strict=True)]
        gain[name] = {"mean": np.mean(differences), "sd": np.std(differences, ddof=1)}
    return {"baseline": baseline, "gain": gain}


def _counts(values: pd.Series) -> dict[str, int]:
    return {_level(level): int(count) for level, count in values.value_counts().sort_index().items()}


def _level(level: Any) -> str:
    return ("yes" if level else "no") if isinstance(level, bool | np.bool_) else str(level)


def plain(value: Any) -> Any:
    """Return numbers as Python's own; what is no number, such as the correlation of a constant, as None."""
    match value:
        case dict():
            return {str(key): plain(item) for key, item in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
        case bool() | np.bool_():
            return bool(value)
        case int() | np.integer():
            return int(value)
        case float() | np.floating():
            return float(value) if math.isfinite(value) else None
    return value
