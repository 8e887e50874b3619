"""What all answers share, and what goes wrong."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

# Of the examples.
EXAMPLE_ID = "019aae5e-7c1b-7d23-9c3f-6a52f4a6a001"
EXAMPLE_DEAD_ID = "019aae5e-9d07-7b10-8f0e-1d3b9c2a4f02"
EXAMPLE_TIME = "2026-11-23T08:15:30.123456Z"


class Answer(BaseModel):
    model_config = ConfigDict(frozen=True)

    example: ClassVar[Any]


class FieldProblem(BaseModel):
    """One broken rule."""

    pointer: str = Field(description="RFC 6901 pointer to what breaks it; empty for the whole")
    code: str
    message: str


class ProblemDetails(Answer):
    """What went wrong, by RFC 9457."""

    type: str = Field(description="URI of this kind of problem")
    title: str
    status: int
    detail: str
    code: str = Field(description="stable name of this kind of problem, snake_case")
    request_id: str = Field(description="what the logs call this request; the header X-Request-Id has it too")
    errors: list[FieldProblem] | None = Field(None, description="every rule that the input breaks, up to 20")
    retry_after_seconds: float | None = Field(None, description="when it makes sense to try again")

    example: ClassVar[Any] = {
        "type": "urn:headrace:problem:scope_missing",
        "title": "Not allowed",
        "status": 403,
        "detail": "The token lacks the scope dead:read.",
        "code": "scope_missing",
        "request_id": EXAMPLE_ID,
    }
