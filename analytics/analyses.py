"""What to answer where a pipeline's analysis has not been made."""

from __future__ import annotations

from headrace.errors import RequestError
from headrace.pipeline import Pipeline


def not_analysed(pipeline: Pipeline) -> RequestError:
    """Return the 404 that says how to get one."""
    if pipeline.analysis is None:
        why = f"Pipeline {pipeline.name!r} has no analysis; its file names one with Pipeline(analysis=…)."
    else:
        why = f"The analysis of {pipeline.name} has not been made yet; run `headrace analyse {pipeline.name}`."
    return RequestError(why, code="analysis_not_found", status=404)
