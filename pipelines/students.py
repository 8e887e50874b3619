"""Students: one pupil's record of the UCI Student Performance set, cleaned on the way in; stored with pass and band.

A record has no number of its own, and two pupils may have equal answers, so nothing in it can tell a repeat from a
second pupil: the sender's key does (a file's row, a form's submission). Without one each record is a new pupil.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from headrace.pipeline import Count, Pipeline, Sum, Trend

PASS_MARK: Final = 10

Band = Literal["fail", "sufficient", "satisfactory", "good", "excellent"]
# The Portuguese scale as Cortez and Silva (2008) divide it, by the least mark of each.
BANDS: Final[tuple[tuple[int, Band], ...]] = (
    (16, "excellent"),
    (14, "good"),
    (12, "satisfactory"),
    (10, "sufficient"),
    (0, "fail"),
)

YesNo = Literal["yes", "no"]
Job = Literal["teacher", "health", "services", "at_home", "other"]
# Strict: after cleaning, what is no whole number is refused, never rounded.
Education = Annotated[int, Field(strict=True, ge=0, le=4)]
OneToFour = Annotated[int, Field(strict=True, ge=1, le=4)]
OneToFive = Annotated[int, Field(strict=True, ge=1, le=5)]
Mark = Annotated[int, Field(strict=True, ge=0, le=20)]

_EDUCATION: Final = "0 none, 1 primary (4th year), 2 5th to 9th year, 3 secondary, 4 higher"

_PLAIN: Final = re.compile(r"[0-9A-Za-z_]+")
_AROUND: Final = " \"'`´‘’‚‛“”„‟«»‹›"
_WHOLE_NUMBER: Final = re.compile(r"([+-]?[0-9]{1,9})(?:[.,]0+)?")


def clean_text(text: str) -> str:
    """Return text without what carries no meaning: quotes around it, invisible characters, spare white space.

    Compatibility forms become plain ones (`１５` is `15`). Letters, digits and signs are never dropped.
    """
    if _PLAIN.fullmatch(text):
        return text
    # White space first: some of it is control characters, which go without leaving a gap.
    plain = unicodedata.normalize("NFKC", " ".join(text.split()))
    visible = "".join(character for character in plain if unicodedata.category(character)[0] != "C")
    return " ".join(visible.strip(_AROUND).split())


def clean(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record with its values in the schema's types and spellings; what cannot be is left for it to refuse.

    Whole numbers may come as text (`"11"`, `11.0`), choices in any case and with spaces (`"At Home"`). Pure, and
    cleaning what is clean changes nothing.
    """
    return {name: _cleaned(name, value) for name, value in record.items()}


def _cleaned(name: str, value: Any) -> Any:
    choices = _choices().get(name)
    if isinstance(value, str):
        text = clean_text(value)
        if choices is not None:
            return choices.get(re.sub(r"[ -]", "_", text.casefold()), text)
        match = _WHOLE_NUMBER.fullmatch(text)
        return int(match[1]) if match else text
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


@lru_cache(maxsize=1)
def _choices() -> dict[str, dict[str, str]]:
    """Return {field: {choice in lower case: choice}} of the fields that have choices."""
    return {
        name: {choice.casefold(): choice for choice in get_args(field.annotation)}
        for name, field in Student.model_fields.items()
        if get_args(field.annotation)
    }


class Student(BaseModel):
    """One pupil's background, habits and marks in one course, in the names and codes of the UCI set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    school: Literal["GP", "MS"] = Field(title="School", description="GP Gabriel Pereira, MS Mousinho da Silveira")
    sex: Literal["F", "M"] = Field(title="Sex", description="F female, M male")
    age: Annotated[int, Field(strict=True, ge=15, le=22)] = Field(title="Age", description="in years")
    address: Literal["U", "R"] = Field(title="Home address", description="U urban, R rural")
    famsize: Literal["LE3", "GT3"] = Field(title="Family size", description="LE3 up to three, GT3 more than three")
    Pstatus: Literal["T", "A"] = Field(title="Parents live", description="T together, A apart")
    Medu: Education = Field(title="Mother's education", description=_EDUCATION)
    Fedu: Education = Field(title="Father's education", description=_EDUCATION)
    Mjob: Job = Field(title="Mother's job", description="health is health care, services civil service or police")
    Fjob: Job = Field(title="Father's job", description="health is health care, services civil service or police")
    reason: Literal["home", "reputation", "course", "other"] = Field(
        title="Reason for this school", description="close to home, its reputation, the course it offers, or other"
    )
    guardian: Literal["mother", "father", "other"] = Field(title="Guardian", description="who is responsible")
    traveltime: OneToFour = Field(
        title="Way to school", description="1 under 15 minutes, 2 up to 30, 3 up to an hour, 4 longer"
    )
    studytime: OneToFour = Field(
        title="Weekly study time", description="1 under 2 hours, 2 up to 5, 3 up to 10, 4 more than 10"
    )
    failures: Annotated[int, Field(strict=True, ge=0, le=4)] = Field(
        title="Courses failed before", description="how many; 4 stands for more than 3"
    )
    schoolsup: YesNo = Field(title="Extra support by the school", description="yes or no")
    famsup: YesNo = Field(title="Support by the family", description="yes or no")
    paid: YesNo = Field(title="Extra paid classes in this course", description="yes or no")
    activities: YesNo = Field(title="Activities outside lessons", description="yes or no")
    nursery: YesNo = Field(title="Went to nursery school", description="yes or no")
    higher: YesNo = Field(title="Wants to study further", description="yes or no")
    internet: YesNo = Field(title="Internet at home", description="yes or no")
    romantic: YesNo = Field(title="In a relationship", description="yes or no")
    famrel: OneToFive = Field(title="Family relations", description="1 very bad to 5 excellent")
    freetime: OneToFive = Field(title="Free time after school", description="1 very little to 5 very much")
    goout: OneToFive = Field(title="Going out with friends", description="1 very little to 5 very much")
    Dalc: OneToFive = Field(title="Alcohol on working days", description="1 very little to 5 very much")
    Walc: OneToFive = Field(title="Alcohol at weekends", description="1 very little to 5 very much")
    health: OneToFive = Field(title="Health", description="1 very bad to 5 very good")
    absences: Annotated[int, Field(strict=True, ge=0, le=93)] = Field(title="Absences", description="missed lessons")
    G1: Mark = Field(title="First mark", description="of the first period, 0 to 20")
    G2: Mark = Field(title="Second mark", description="of the second period, 0 to 20")
    G3: Mark = Field(title="Final mark", description="0 to 20; 10 passes")

    @model_validator(mode="before")
    @classmethod
    def _clean(cls, record: Any) -> Any:
        return clean(record) if isinstance(record, Mapping) else record


class StoredStudent(BaseModel):
    """A cleaned record: yes and no as booleans, with what the final mark means."""

    model_config = ConfigDict(frozen=True)

    school: str
    sex: str
    age: int
    address: str
    famsize: str
    Pstatus: str
    Medu: int
    Fedu: int
    Mjob: str
    Fjob: str
    reason: str
    guardian: str
    traveltime: int
    studytime: int
    failures: int
    schoolsup: bool
    famsup: bool
    paid: bool
    activities: bool
    nursery: bool
    higher: bool
    internet: bool
    romantic: bool
    famrel: int
    freetime: int
    goout: int
    Dalc: int
    Walc: int
    health: int
    absences: int
    G1: int
    G2: int
    G3: int
    passed: bool
    band: Band


_YES_OR_NO: Final = frozenset(
    name for name, field in StoredStudent.model_fields.items() if field.annotation is bool
) - {"passed"}


def band_of(mark: int) -> Band:
    """Return the band of a mark from 0 to 20."""
    return next(band for least, band in BANDS if mark >= least)


def transform(student: Student) -> StoredStudent:
    """Return the stored form: yes and no as booleans, `passed` (a final mark of 10 or more) and `band`."""
    values = {name: value == "yes" if name in _YES_OR_NO else value for name, value in student.__dict__.items()}
    return StoredStudent(**values, passed=student.G3 >= PASS_MARK, band=band_of(student.G3))


students = Pipeline(
    name="students",
    description="Student records with marks, as schools collect them",
    accepts=Student,
    yields=StoredStudent,
    transform=transform,
    metrics=[
        Count("by_school", by="school"),
        Count("by_band", by="band"),
        Count("by_final_mark", by="G3"),
        Count("passed_by_school", by=("school", "passed")),
        Sum("final_marks_by_school", of="G3", by="school"),
        Trend("per_minute", every="1m"),
    ],
    analysis="pipelines.analyses.students",
    example={
        "school": "GP",
        "sex": "F",
        "age": 18,
        "address": "U",
        "famsize": "GT3",
        "Pstatus": "A",
        "Medu": 4,
        "Fedu": 4,
        "Mjob": "at_home",
        "Fjob": "teacher",
        "reason": "course",
        "guardian": "mother",
        "traveltime": 2,
        "studytime": 2,
        "failures": 0,
        "schoolsup": "yes",
        "famsup": "no",
        "paid": "no",
        "activities": "no",
        "nursery": "yes",
        "higher": "yes",
        "internet": "no",
        "romantic": "no",
        "famrel": 4,
        "freetime": 3,
        "goout": 4,
        "Dalc": 1,
        "Walc": 1,
        "health": 3,
        "absences": 4,
        "G1": 0,
        "G2": 11,
        "G3": 11,
    },
)
