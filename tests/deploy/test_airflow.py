"""The DAGs for Airflow name jobs that there are; `deploy/airflow/check` runs them in a real one, by command."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any, cast

import analytics.jobs
import auth.jobs
import workers.jobs
from headrace.settings import JobSettings

AIRFLOW = Path(__file__).parents[2] / "deploy" / "airflow"


def job_names() -> list[str]:
    """Return the jobs of all services."""
    nothing = cast(Any, None)
    settings = JobSettings()
    found = (*auth.jobs.jobs(nothing, settings), *workers.jobs.jobs(nothing, settings), *analytics.jobs.jobs(nothing))
    return [job.name for job in found]


def dags() -> dict[str, tuple[str, tuple[str, ...]]]:
    """Return the table of DAGs, read without Airflow."""
    tree = ast.parse((AIRFLOW / "dags" / "headrace_jobs.py").read_text())
    table = next(
        node.value
        for node in tree.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == "DAGS"
    )
    assert table
    return cast(dict[str, tuple[str, tuple[str, ...]]], ast.literal_eval(table))


def test_no_two_services_have_jobs_of_one_name() -> None:
    names = job_names()

    assert len(names) == len(set(names))


def test_the_dags_run_jobs_that_there_are() -> None:
    ran = {job for _, jobs in dags().values() for job in jobs}

    assert ran == set(job_names())


def test_the_readme_lists_every_dag() -> None:
    text = (AIRFLOW / "README.md").read_text()

    assert set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)) == set(dags())


def test_airflow_is_pinned_with_hashes() -> None:
    pinned = re.findall(
        r"^([A-Za-z0-9._-]+(?:\[[^]]*\])?)==\S+.* \\\n    --hash=sha256:", _requirements(), re.MULTILINE
    )
    named = re.findall(r"^([A-Za-z0-9._-]+)", _requirements(), re.MULTILINE)

    assert "apache-airflow-core" in pinned
    assert len(pinned) == len(named)


def _requirements() -> str:
    return (AIRFLOW / "requirements.txt").read_text()
