"""Students: what is cleaned, what is refused, and what a final mark means."""

from __future__ import annotations

import unicodedata
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import DocumentError
from headrace.schema import validate
from pipelines.students import BANDS, StoredStudent, Student, band_of, clean, clean_text, students

EXAMPLE = dict(students.example)


def accepted(**changes: Any) -> Student:
    found = validate(students, msgspec.json.encode({**EXAMPLE, **changes}))
    assert isinstance(found, Student)
    return found


@pytest.mark.parametrize(
    ("name", "sent", "cleaned"),
    [
        ("age", "18", 18),
        ("age", 18.0, 18),
        ("age", " 18.0 ", 18),
        ("age", "18,00", 18),
        ("age", "\u201c18\u201d", 18),
        ("age", "\ufeff1\u200b8", 18),
        ("age", "１８", 18),
        ("age", "+18", 18),
        ("G1", '"0"', 0),
        ("school", "gp", "GP"),
        ("school", "'GP'", "GP"),
        ("Mjob", "At Home", "at_home"),
        ("Mjob", "at-home\n", "at_home"),
        ("Mjob", "\tteacher", "teacher"),
        ("higher", "YES\u00a0", "yes"),
        ("Pstatus", "«t»", "T"),
    ],
)
def test_a_value_is_brought_into_type_and_spelling(name: str, sent: Any, cleaned: Any) -> None:
    assert getattr(accepted(**{name: sent}), name) == cleaned


@pytest.mark.parametrize(
    ("name", "sent", "code"),
    [
        ("age", 18.5, "int_type"),
        ("age", "18.5", "int_type"),
        ("age", "1 8", "int_type"),
        ("age", "1_8", "int_type"),
        ("age", "18 years", "int_type"),
        ("age", "", "int_type"),
        ("age", True, "int_type"),
        ("age", None, "int_type"),
        ("age", [18], "int_type"),
        ("age", 14, "greater_than_equal"),
        ("age", "23", "less_than_equal"),
        ("G3", 21, "less_than_equal"),
        ("G3", "-1", "greater_than_equal"),
        ("G3", 1e300, "less_than_equal"),
        ("Medu", 5, "less_than_equal"),
        ("failures", -1, "greater_than_equal"),
        ("traveltime", 0, "greater_than_equal"),
        ("famrel", 6, "less_than_equal"),
        ("absences", 94, "less_than_equal"),
        ("school", "G P", "literal_error"),
        ("higher", True, "literal_error"),
        ("higher", "y", "literal_error"),
        ("guardian", "", "literal_error"),
        ("guardian", None, "literal_error"),
        ("name", "Ada", "extra_forbidden"),
    ],
)
def test_what_cleaning_cannot_mend_is_refused_by_field_and_rule(name: str, sent: Any, code: str) -> None:
    with pytest.raises(DocumentError) as caught:
        accepted(**{name: sent})

    assert [(error.pointer, error.code) for error in caught.value.errors] == [(f"/{name}", code)]


@pytest.mark.parametrize("name", list(Student.model_fields))
def test_no_field_may_be_left_out(name: str) -> None:
    record = {key: value for key, value in EXAMPLE.items() if key != name}
    with pytest.raises(DocumentError) as caught:
        validate(students, msgspec.json.encode(record))

    assert [(error.pointer, error.code) for error in caught.value.errors] == [(f"/{name}", "missing")]


@given(st.dictionaries(st.sampled_from([*Student.model_fields, "other"]), st.text() | st.integers() | st.floats()))
def test_cleaning_what_is_clean_changes_nothing(record: dict[str, Any]) -> None:
    once = clean(record)

    assert str(clean(once)) == str(once)
    assert set(once) == set(record)


@given(st.text())
def test_cleaning_never_drops_a_letter_digit_or_sign(text: str) -> None:
    def kept(found: str) -> list[str]:
        plain = unicodedata.normalize("NFKC", found)
        return [one for one in plain if one in "+-" or unicodedata.category(one)[0] in "LN"]

    assert kept(clean_text(text)) == kept(text)


@pytest.mark.parametrize(
    ("mark", "band"),
    [
        (0, "fail"),
        (9, "fail"),
        (10, "sufficient"),
        (11, "sufficient"),
        (12, "satisfactory"),
        (13, "satisfactory"),
        (14, "good"),
        (15, "good"),
        (16, "excellent"),
        (20, "excellent"),
    ],
)
def test_a_final_mark_has_its_band_and_ten_passes(mark: int, band: str) -> None:
    stored = students.apply(accepted(G3=mark))

    assert isinstance(stored, StoredStudent)
    assert (stored.band, stored.passed) == (band, mark >= 10)
    assert band_of(mark) in {name for _, name in BANDS}


def test_the_stored_form_has_yes_and_no_as_booleans_and_all_else_as_it_was_cleaned() -> None:
    stored = students.apply(accepted(higher="Yes", nursery="no")).model_dump()

    assert (stored["higher"], stored["nursery"]) == (True, False)
    del stored["passed"], stored["band"]
    words = {
        name: {True: "yes", False: "no"}.get(value, value) if type(value) is bool else value
        for name, value in stored.items()
    }
    assert words == {**EXAMPLE, "higher": "yes", "nursery": "no"}


def test_the_schema_says_of_each_field_what_a_form_needs() -> None:
    schema = Student.model_json_schema()

    assert schema["required"] == list(schema["properties"])
    for name, field in schema["properties"].items():
        assert field["title"] not in ("", name) or name == "school", name
        assert field["description"], name
        assert (field["type"] == "integer" and {"minimum", "maximum"} <= set(field)) or field["enum"], name
