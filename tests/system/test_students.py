"""Student records from file to result as a user does it: produce, analyse, ask; and all of it once more."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from gateway.answers.analytics import AnalysisAnswer
from pipelines.students import students
from producer.samples import sample
from tests.system.system import ROOT, System

EXAMPLE = dict(students.example)
REAL = ROOT.parent / "shared" / "data" / "students" / "student-por.csv"


@pytest.fixture(scope="module")
async def system(own_system: System) -> System:
    return own_system


async def command(system: System, *arguments: str) -> Any:
    """Run a command that ends with one JSON value on stdout, as a program would: its settings from the environment."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cli", *arguments, "--json"),
        cwd=ROOT,
        env={
            "PATH": "/usr/bin:/bin",
            "HEADRACE_URL": system.url,
            "HEADRACE_TOKEN": str(system.facts["token"]),
            "HEADRACE_MONGO_URL": str(system.facts["mongo_url"]),
        },
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, arguments
    return json.loads(out)


async def numbers(system: System) -> dict[str, Any]:
    """Return what is counted of students, apart from when."""
    answer = await system.get("/v1/analytics/students?limit=1000")
    return {one["metric"]: one["data"] for one in answer["metrics"] if one["kind"] != "trend"}


def grown(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """Return by how much each number is larger; others may have sent students to this Headrace too."""
    found = {}
    for key, value in after.items():
        more = grown(before.get(key, {}), value) if isinstance(value, dict) else value - before.get(key, 0)
        if more:
            found[key] = more
    return found


def good_rows(path: Path) -> pd.DataFrame:
    """Return the file's rows without those of the sample that are refused, tidied by hand."""
    frame = pd.read_csv(path, sep=";", keep_default_na=False, dtype=str)
    if path != REAL:
        frame = frame.drop([57, 58, 59])
        frame["school"] = frame.school.str.strip().str.upper()
    return frame.assign(G3=frame.G3.astype(int))


async def test_a_file_is_counted_analysed_and_answered_and_again_changes_nothing(system: System) -> None:
    # Where the real file is not beside this repository, the sample stands for it.
    path = next(path for path in (REAL, sample("students")) if path and path.exists())
    rows = good_rows(path)
    bands = pd.cut(rows.G3, [-1, 9, 11, 13, 15, 20], labels=["fail", "sufficient", "satisfactory", "good", "excellent"])
    before = await numbers(system)

    sent = await command(system, "produce", "students", "--file", str(path))
    await system.drained("students")

    assert sent["rows"] == sent["accepted"] + sent["refused"]
    assert sent["accepted"] == len(rows)
    after = await numbers(system)
    more = grown(before, after)
    assert more["by_school"] == rows.school.value_counts().to_dict()
    assert more["by_band"] == bands.value_counts().to_dict()
    assert more["by_final_mark"] == rows.G3.astype(str).value_counts().to_dict()
    assert more["final_marks_by_school"] == rows.groupby("school").G3.sum().to_dict()

    first = await command(system, "analyse", "students")
    told = AnalysisAnswer.model_validate(await system.get("/v1/analyses/students"))
    assert first["changed"]
    assert first["analysis"] == await system.get("/v1/analyses/students")
    assert told.documents == sum(after["by_school"].values())
    assert told.result["descriptives"]["final_mark"]["bands"] == after["by_band"]
    for school, one in told.result["descriptives"]["by_school"].items():
        assert one["mean"] == pytest.approx(after["final_marks_by_school"][school] / after["by_school"][school])

    await command(system, "produce", "students", "--file", str(path))
    await system.drained("students")
    assert await numbers(system) == after
    second = await command(system, "analyse", "students")
    assert (second["changed"], second["analysis"]) == (False, first["analysis"])


async def test_a_program_asks_for_documents_over_the_bus_as_the_page_shows(system: System) -> None:
    page = (ROOT / "docs" / "students.md").read_text()
    program = page.partition("<!-- ask:start -->\n```python\n")[2].partition("```\n<!-- ask:end -->")[0]
    await system.submit("students", json.dumps({**EXAMPLE, "school": "MS"}).encode(), key="asked-for")
    await system.drained("students")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program),
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "HEADRACE_NATS_URL": str(system.facts["nats_url"])},
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()

    assert process.returncode == 0
    newest = await system.get("/v1/documents/students?limit=2&school=MS")
    assert out.decode().split("\n")[:-1] == [f"{one['id']} {one['document']['G3']}" for one in newest["items"]]
