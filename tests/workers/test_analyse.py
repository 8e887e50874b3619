"""Analyses: computed from what is stored, kept once, and unchanged until there is something new."""

from __future__ import annotations

import asyncio
import sys
import types
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from headrace.analysis import AnalysisError, Table
from headrace.document import Envelope, digest, json_text, new_id, now
from headrace.pipeline import Pipeline
from headrace.settings import Settings
from headrace.storage.mongo import Documents, open_documents
from pipelines.students import students
from workers.analyse import analyse, load_analysis


class Pick(BaseModel):
    size: int


PICKS = Pipeline(name="picks", accepts=Pick, example={"size": 1}, analysis="picks_analysis")


class Counting:
    """An analysis that adds up; `before_end` is called when it has."""

    VERSION = 1
    FIELDS = ("size",)
    LIBRARIES = ("pydantic",)

    def __init__(self, before_end: Callable[[], Any] = lambda: None) -> None:
        self.runs = 0
        self._before_end = before_end

    def analyse(self, table: Table) -> dict[str, Any]:
        self.runs += 1
        self._before_end()
        return {"sum": sum(table["size"])}


@pytest.fixture
async def documents(settings: Settings) -> AsyncIterator[Documents]:
    async with open_documents(settings.mongo_url.get_secret_value(), 10) as documents:
        yield documents


async def store(documents: Documents, *sizes: int) -> None:
    rows = []
    for size in sizes:
        data = json_text({"size": size})
        envelope = Envelope(new_id(), now(), "me", data, digest(data))  # type: ignore[arg-type]
        rows.append((envelope, new_id(), {"size": size}))
    await documents.insert(PICKS, rows)


async def test_without_documents_there_is_nothing_to_say(documents: Documents) -> None:
    done = await analyse(documents, PICKS, Counting(), now=now)

    assert (done.result, done.changed) == (None, False)
    assert await documents.processed(PICKS) is None


async def test_the_same_documents_give_the_same_result_which_is_kept_once(documents: Documents) -> None:
    await store(documents, 1, 2, 3)
    analysis = Counting()
    first = await analyse(documents, PICKS, analysis, now=lambda: "2026-01-01T00:00:00Z")
    second = await analyse(documents, PICKS, analysis, now=lambda: "2026-01-02T00:00:00Z")

    assert first.result is not None
    assert (first.changed, second.changed, analysis.runs) == (True, False, 1)
    assert second.result == first.result == await documents.processed(PICKS)
    assert {name: first.result[name] for name in ("pipeline", "revision", "documents", "computed_at", "result")} == {
        "pipeline": "picks",
        "revision": 1,
        "documents": 3,
        "computed_at": "2026-01-01T00:00:00Z",
        "result": {"sum": 6},
    }
    assert set(first.result["libraries"]) == {"python", "pydantic"}


async def test_a_new_document_and_another_method_are_reasons_to_compute_anew(documents: Documents) -> None:
    await store(documents, 1)
    analysis = Counting()
    await analyse(documents, PICKS, analysis, now=now)
    await store(documents, 1)
    second = await analyse(documents, PICKS, analysis, now=now)
    analysis.VERSION = 2
    third = await analyse(documents, PICKS, analysis, now=now)

    assert second.result is not None
    assert third.result is not None
    assert (second.result["revision"], second.result["documents"], second.result["result"]) == (2, 2, {"sum": 2})
    assert (third.result["revision"], third.result["digest"]) == (3, second.result["digest"])
    assert second.changed
    assert third.changed


async def test_a_run_that_was_overtaken_looks_again_and_old_news_replaces_nothing(documents: Documents) -> None:
    await store(documents, 1, 2)
    loop = asyncio.get_running_loop()

    async def overtake() -> None:
        await store(documents, 10)
        await analyse(documents, PICKS, Counting(), now=now)

    # The first time, while it computes from two documents, another run keeps a result of three.
    calls = iter([lambda: asyncio.run_coroutine_threadsafe(overtake(), loop).result()])
    slow = Counting(lambda: next(calls, lambda: None)())
    done = await analyse(documents, PICKS, slow, now=now)

    assert done.result is not None
    assert (done.changed, done.result["revision"], done.result["result"]) == (False, 1, {"sum": 13})
    assert await documents.processed(PICKS) == done.result


async def test_runs_at_once_keep_one_result(documents: Documents) -> None:
    await store(documents, *range(20))
    done = await asyncio.gather(*(analyse(documents, PICKS, Counting(), now=now) for _ in range(4)))

    assert [one.changed for one in done].count(True) == 1
    assert all(one.result == done[0].result for one in done)


async def test_all_chunks_are_read(documents: Documents, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace.storage.mongo._CHUNK", 7)
    await store(documents, *range(30))

    assert [len(chunk) async for chunk in documents.chunks(PICKS, ["size"])] == [7, 7, 7, 7, 2]
    done = await analyse(documents, PICKS, Counting(), now=now)
    assert done.result is not None
    assert done.result["result"] == {"sum": sum(range(30))}


async def test_a_result_is_kept_as_json_has_it(documents: Documents) -> None:
    class Odd(Counting):
        def analyse(self, table: Table) -> dict[str, Any]:
            return {"nan": float("nan"), "pair": (1, 2), 3: Decimal("0.1")}  # type: ignore[dict-item]

    await store(documents, 1)
    done = await analyse(documents, PICKS, Odd(), now=now)

    assert done.result is not None
    assert done.result["result"] == {"nan": None, "pair": [1, 2], "3": "0.1"}
    assert await documents.processed(PICKS) == done.result


async def test_a_library_that_is_none_is_named(documents: Documents) -> None:
    analysis = Counting()
    analysis.LIBRARIES = ("no-such-distribution",)

    with pytest.raises(AnalysisError, match=r"names no-such-distribution in LIBRARIES"):
        await analyse(documents, PICKS, analysis, now=now)


async def test_a_failure_says_where_and_never_what(documents: Documents, caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise ValueError("could not convert 'the secret of a document'")

    await store(documents, 1)
    with pytest.raises(AnalysisError, match=r"The analysis of picks failed with ValueError") as caught:
        await analyse(documents, PICKS, Counting(fail), now=now)

    assert "secret" not in str(caught.value)
    assert "secret" not in caplog.text
    assert await documents.processed(PICKS) is None


def module(tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    """Return a pipeline whose analysis lies in a user's folder; the path is as before when the test is over."""
    name = f"analysis_{new_id().replace('-', '')}"
    (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return replace(PICKS, analysis=name)


def test_a_user_s_analysis_lies_beside_its_pipelines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "VERSION, FIELDS, LIBRARIES = 1, ['size'], []\ndef analyse(table): return {'n': len(table['size'])}"
    found = load_analysis(module(tmp_path, text, monkeypatch), tmp_path)

    assert found.analyse({"size": [1, 2]}) == {"n": 2}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("import no_such_library", r"needs no_such_library, which is not installed; install it"),
        ("1 / 0", r"cannot be imported: ZeroDivisionError"),
        ("VERSION, FIELDS, LIBRARIES = 1, [], []", r"lacks analyse"),
    ],
)
def test_an_analysis_that_cannot_be_used_is_told_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, reason: str
) -> None:
    with pytest.raises(AnalysisError, match=reason):
        load_analysis(module(tmp_path, text, monkeypatch), tmp_path)


def test_a_module_that_is_not_there_is_not_taken_for_a_library() -> None:
    with pytest.raises(AnalysisError, match=r"module nowhere_at_all, does not exist"):
        load_analysis(replace(PICKS, analysis="nowhere_at_all.picks"))


def test_a_pipeline_without_analysis_is_told_how_to_name_one() -> None:
    with pytest.raises(AnalysisError, match=r"'picks' has no analysis; its file names one") as caught:
        load_analysis(replace(PICKS, analysis=None))
    assert caught.value.code == "no_analysis"


@pytest.mark.parametrize("library", ["pandas", "statsmodels", "sklearn"])
def test_where_the_libraries_of_statistics_are_missing_make_analysis_is_the_fix(
    library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in list(sys.modules):
        if name == library or name.startswith((f"{library}.", "pipelines.analyses")):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)

    with pytest.raises(AnalysisError, match=rf"needs {library}, which is not installed; run `make analysis`") as caught:
        load_analysis(students)
    assert caught.value.code == "analysis_not_installed"


def test_the_module_of_students_is_an_analysis() -> None:
    found = load_analysis(students)

    assert isinstance(found, types.ModuleType)
    assert {"G3", "band"} <= set(found.FIELDS)
