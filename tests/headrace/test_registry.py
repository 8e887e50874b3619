"""The pipelines that are found, and what is said of a file that cannot be used."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from headrace.errors import RequestError
from headrace.pipeline import Pipeline
from headrace.registry import PipelineFileError, load_pipelines, pipeline_named

GOOD = """
from __future__ import annotations
from pydantic import BaseModel
from headrace.pipeline import Pipeline

class Part(BaseModel):
    size: int = 0

class {model}(BaseModel):
    part: Part | None = None

{variable} = Pipeline(name="{name}", accepts={model}, example={{}})
"""


def write(folder: Path, file: str, name: str, text: str = GOOD) -> None:
    (folder / file).write_text(text.format(name=name, model=name.title(), variable=name))


def test_the_built_in_pipelines_are_there() -> None:
    assert {"invoices", "searches"} <= set(load_pipelines())


def test_a_folder_of_one_s_own_adds_to_them(tmp_path: Path) -> None:
    write(tmp_path, "b.py", "beans")
    write(tmp_path, "a.py", "apples")
    found = load_pipelines(tmp_path)

    assert list(found)[-2:] == ["apples", "beans"]
    assert set(found) == {*load_pipelines(), "apples", "beans"}
    assert [field.path for field in found["beans"].fields] == ["part.size"]


def test_a_file_may_hold_several_pipelines_under_several_names(tmp_path: Path) -> None:
    text = GOOD + "\nagain = {variable}\nmore = Pipeline(name='more', accepts=Part, example={{}})\n"
    write(tmp_path, "a.py", "apples", text)

    assert {"apples", "more"} <= set(load_pipelines(tmp_path))


def test_a_file_with_an_underscore_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "_broken.py").write_text("1 / 0")

    assert set(load_pipelines(tmp_path)) == set(load_pipelines())


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("1 / 0", r"ZeroDivisionError"),
        ("def", r"SyntaxError"),
        ("import no_such_module", r"ModuleNotFoundError: No module named 'no_such_module'"),
        (GOOD.replace("example={{}}", "example={{'part': 5}}"), r"ValidationError"),
        (GOOD.replace('"{name}"', '"Bad Name"'), r"ValueError: pipeline 'Bad Name'"),
        ("x = 1", r"it defines no Pipeline"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_the_reason(tmp_path: Path, text: str, reason: str) -> None:
    write(tmp_path, "apples.py", "apples", text)

    with pytest.raises(PipelineFileError, match=rf"apples\.py: .*{reason}"):
        load_pipelines(tmp_path)
    assert "headrace_user_pipelines.apples" not in sys.modules or reason == r"it defines no Pipeline"


@pytest.mark.parametrize("name", ["apples", "searches"])
def test_a_name_that_is_taken_is_refused(tmp_path: Path, name: str) -> None:
    write(tmp_path, "apples.py", "apples")
    write(tmp_path, "second.py", name)

    with pytest.raises(PipelineFileError, match=rf"second\.py: pipeline '{name}' is in .*\.py already"):
        load_pipelines(tmp_path)


def test_a_name_that_an_entity_s_table_needs_is_refused(tmp_path: Path) -> None:
    text = GOOD.replace("size: int = 0", "size: int = 0\n    number: int = 0").replace(
        "accepts={model}", "accepts=Part"
    )
    write(tmp_path, "a.py", "apples", text.replace("example", "key=('number',), entity=True, example"))
    write(tmp_path, "b.py", "apples_versions", text)

    with pytest.raises(PipelineFileError, match=r"b\.py: the tables of 'apples' need the name 'apples_versions'"):
        load_pipelines(tmp_path)


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PipelineFileError, match="there is no such folder"):
        load_pipelines(tmp_path / "nope")


def test_a_pipeline_is_found_by_name() -> None:
    assert isinstance(pipeline_named(load_pipelines(), "searches"), Pipeline)


def test_an_unknown_name_is_told_with_the_known_ones() -> None:
    with pytest.raises(RequestError, match=r"There is no pipeline 'nope'; there are: .*invoices, .*searches") as caught:
        pipeline_named(load_pipelines(), "nope")

    assert (caught.value.code, caught.value.status) == ("unknown_pipeline", 404)
