"""One analysis: read what is stored, compute, keep the result; again without new documents it changes nothing.

Runs in a process of its own (`headrace analyse`): the libraries of statistics are large, and slow to import.
"""

from __future__ import annotations

import asyncio
import importlib
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, cast

import msgspec

from headrace import telemetry
from headrace.analysis import Analysis, AnalysisError, Rows
from headrace.pipeline import Pipeline
from headrace.storage.mongo import Documents

log = telemetry.logger(__name__)

_MOST_ATTEMPTS: Final = 5


@dataclass(frozen=True, slots=True)
class Analysed:
    """What a run came to.

    Attributes:
        result: as it is kept now; None where no document is stored.
        changed: whether this run wrote it.
    """

    result: Mapping[str, Any] | None
    changed: bool


def load_analysis(pipeline: Pipeline, folder: Path | None = None) -> Analysis:
    """Import a pipeline's analysis.

    Args:
        folder: where the user's pipelines are; modules beside them are found too.

    Raises:
        AnalysisError: it has none, it cannot be imported, or a library is not installed (`analysis_not_installed`).
    """
    if pipeline.analysis is None:
        raise AnalysisError(
            f"Pipeline {pipeline.name!r} has no analysis; its file names one with Pipeline(analysis=…).",
            code="no_analysis",
        )
    if folder is not None and str(folder) not in sys.path:
        sys.path.append(str(folder))
    try:
        module = importlib.import_module(pipeline.analysis)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if pipeline.analysis == missing or pipeline.analysis.startswith(f"{missing}."):
            raise AnalysisError(f"The analysis of {pipeline.name}, module {missing}, does not exist.") from None
        library = missing.partition(".")[0]
        built_in = pipeline.analysis.startswith("pipelines.")
        fix = "run `make analysis` (or install requirements/analysis.txt)" if built_in else "install it"
        raise AnalysisError(
            f"The analysis of {pipeline.name} needs {library}, which is not installed; {fix}, then try again.",
            code="analysis_not_installed",
        ) from None
    except Exception as error:
        raise AnalysisError(
            f"The analysis of {pipeline.name} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    if lacking := [name for name in ("VERSION", "FIELDS", "LIBRARIES", "analyse") if not hasattr(module, name)]:
        raise AnalysisError(f"The analysis of {pipeline.name}, module {pipeline.analysis}, lacks {lacking[0]}.")
    return cast(Analysis, module)


async def analyse(documents: Documents, pipeline: Pipeline, analysis: Analysis, *, now: Callable[[], str]) -> Analysed:
    """Bring the pipeline's result up to date.

    Args:
        now: the time as RFC 3339, which is kept with a new result.

    Raises:
        AnalysisError: the analysis fails, or others keep writing results meanwhile.
        UnavailableError: MongoDB is away.
    """
    made_by = {
        "analysis": {"module": pipeline.analysis, "version": analysis.VERSION},
        "libraries": {"python": sys.version.split()[0], **_versions(pipeline, analysis)},
    }
    for _ in range(_MOST_ATTEMPTS):
        # Looked at before the documents: a result that takes the place of this one then rests on what was read later.
        before = await documents.processed(pipeline)
        revision = 0 if before is None else int(before["revision"])
        rows = Rows(analysis.FIELDS)
        async for chunk in documents.chunks(pipeline, analysis.FIELDS):
            rows.add(chunk)
        if not rows:
            return Analysed(before, changed=False)
        about = {"pipeline": pipeline.name, "documents": len(rows), "digest": rows.digest(), **made_by}
        if before is not None and all(before.get(name) == value for name, value in about.items()):
            return Analysed(before, changed=False)
        result = {
            **about,
            "revision": revision + 1,
            "computed_at": now(),
            # In a thread, so that connections are kept alive however long it takes.
            "result": await asyncio.to_thread(_compute, pipeline, analysis, rows),
        }
        if await documents.keep_processed(pipeline, result, after=revision):
            return Analysed(result, changed=True)
        log.info("analysis_overtaken", pipeline=pipeline.name)
    raise AnalysisError(f"Other runs of the analysis of {pipeline.name} keep overtaking this one; try again later.")


def _versions(pipeline: Pipeline, analysis: Analysis) -> dict[str, str]:
    try:
        return {name: version(name) for name in analysis.LIBRARIES}
    except PackageNotFoundError as error:
        raise AnalysisError(
            f"The analysis of {pipeline.name} names {error.name} in LIBRARIES, which is no installed distribution."
        ) from None


def _compute(pipeline: Pipeline, analysis: Analysis, rows: Rows) -> dict[str, Any]:
    try:
        # As JSON has it: what is kept is what is answered later, and nothing that a store chokes on.
        return dict(msgspec.json.decode(msgspec.json.encode(analysis.analyse(rows.table()))))
    except Exception as error:
        # Where, never what: the error's own text may quote documents.
        where = [f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)]
        log.error("analysis_failed", pipeline=pipeline.name, error=type(error).__name__, where=where)
        raise AnalysisError(
            f"The analysis of {pipeline.name} failed with {type(error).__name__}; the log says where."
        ) from None
