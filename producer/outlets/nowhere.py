"""Rows to nowhere: each is validated and transformed as the gateway and refine would, and nothing is sent."""

from __future__ import annotations

import msgspec

from headrace.errors import FieldError, RequestError
from headrace.pipeline import Pipeline
from headrace.schema import validate
from producer.upload import Chunk, Progress, RefusedRow


class Nowhere:
    """The outlet of a dry run."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    async def send(self, chunk: Chunk, progress: Progress) -> list[RefusedRow]:
        refused = []
        for number, body in zip(chunk.numbers, chunk.bodies, strict=True):
            try:
                self._pipeline.apply(validate(self._pipeline, body))
            except RequestError as error:
                refused.append(RefusedRow(number, rules(error)))
            except ValueError as error:
                refused.append(
                    RefusedRow(number, [{"pointer": "", "code": "transform_refused", "message": str(error)}])
                )
        return refused


def rules(error: RequestError) -> list[dict[str, str]]:
    """Return the rules that a refused document breaks."""
    errors = error.errors or (FieldError("", error.code, error.detail),)
    return [msgspec.structs.asdict(one) for one in errors]
