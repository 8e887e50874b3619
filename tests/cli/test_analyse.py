"""`headrace analyse`: what it says where there is nothing to compute with, from, or at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from headrace.settings import Settings
from tests.cli.stand_in import headrace


async def test_a_missing_library_is_told_with_its_fix_before_any_server_is_asked(tmp_path: Path) -> None:
    # As the interpreter says it of a library that is not installed.
    (tmp_path / "statsmodels.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'statsmodels'\", name='statsmodels')"
    )
    nowhere = {"PYTHONPATH": str(tmp_path), "HEADRACE_MONGO_URL": "mongodb://127.0.0.1:9/headrace"}
    done = await headrace(tmp_path, "analyse", "students", environment=nowhere)

    assert (done.code, done.out) == (1, "")
    assert done.err == (
        "headrace: The analysis of students needs statsmodels, which is not installed; run `make analysis` "
        "(or install requirements/analysis.txt), then try again.\n"
    )


@pytest.mark.parametrize(
    ("pipeline", "reason"),
    [("searches", "'searches' has no analysis; its file names one"), ("nope", "There is no pipeline 'nope'")],
)
async def test_a_pipeline_that_cannot_be_analysed_is_told_why(tmp_path: Path, pipeline: str, reason: str) -> None:
    done = await headrace(tmp_path, "analyse", pipeline)

    assert (done.code, done.out) == (1, "")
    assert reason in done.err
    assert "Traceback" not in done.err


async def test_without_documents_it_says_so_and_is_no_failure(tmp_path: Path, settings: Settings) -> None:
    # Found by the file that `up` leaves in its folder.
    (tmp_path / ".headrace").mkdir()
    up = {"url": "http://127.0.0.1:9", "mongo_url": settings.mongo_url.get_secret_value()}
    (tmp_path / ".headrace" / "up.json").write_text(json.dumps(up))
    done = await headrace(tmp_path, "analyse", "students", "--json")

    assert (done.code, json.loads(done.out)) == (0, {"pipeline": "students", "changed": False, "analysis": None})
    assert done.err == "students: no document is stored yet, so there is nothing to analyse\n"
