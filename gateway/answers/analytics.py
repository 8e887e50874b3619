"""Answers with what was counted or computed."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar

from pydantic import BaseModel, Field

from gateway.answers.common import EXAMPLE_TIME, Answer


class MetricAnswer(Answer):
    """A metric now. `data` is {key: value} in order, or a list of points in time for a trend."""

    metric: str
    kind: str
    count: int = Field(description="how many keys there are in all")
    data: dict[str, Any] | list[dict[str, Any]]
    value: Any = Field(None, description="the one value of a metric without a key")

    example: ClassVar[Any] = {
        "metric": "lines_by_country",
        "kind": "count",
        "count": 2,
        "data": {"United Kingdom": 512, "France": 33},
    }


class MetricsAnswer(Answer):
    """Every metric of a pipeline, each with its first keys."""

    pipeline: str
    metrics: list[MetricAnswer]

    example: ClassVar[Any] = {"pipeline": "invoices", "metrics": [MetricAnswer.example]}


class AnalysisMethod(BaseModel):
    """Which code computed it."""

    module: str
    version: int = Field(description="of the method")


class AnalysisAnswer(Answer):
    """What a pipeline's analysis found. `result` is the analysis's own; docs/students.md explains that of students."""

    pipeline: str
    revision: int = Field(description="1 for the first result, one more for each that took its place")
    documents: int = Field(description="how many it was computed from")
    digest: str = Field(description="SHA-256 of what it was computed from, whatever ids the documents have")
    analysis: AnalysisMethod
    libraries: dict[str, str] = Field(description="versions that computed it")
    computed_at: datetime
    result: dict[str, Any]

    example: ClassVar[Any] = {
        "pipeline": "students",
        "revision": 3,
        "documents": 649,
        "digest": "9f2b7c1e5d3a48608c1f0e7d6b5a49382716f5e4d3c2b1a0998877665544a3c1",
        "analysis": {"module": "pipelines.analyses.students", "version": 1},
        "libraries": {"python": "3.11.9", "statsmodels": "0.15.0", "scikit-learn": "1.9.1"},
        "computed_at": EXAMPLE_TIME,
        "result": {
            "regression": {
                "target": "G3",
                "confidence": 0.95,
                "background": {
                    "rows": 649,
                    "r_squared": 0.36,
                    "terms": [{"term": "failures", "coefficient": -1.41, "low": -1.84, "high": -0.98}],
                },
            }
        },
    }
