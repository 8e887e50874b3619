"""What other services may ask: one struct per endpoint, and how a payload becomes one."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from headrace.errors import DocumentError, FieldError, RequestError

Asked = TypeVar("Asked")

PageLimit = Annotated[int, Meta(ge=1, le=1000)]
RowLimit = Annotated[int, Meta(ge=1, le=100_000)]

# A field, and what in it is wrong: `$.filters[...]`.
_PATH = re.compile(r" - at `\$\.?(\w*).*`$")


class Nothing(msgspec.Struct):
    pass


class AskMetrics(msgspec.Struct):
    pipeline: str
    limit: RowLimit = 10


class AskMetric(msgspec.Struct):
    pipeline: str
    metric: str
    limit: RowLimit | None = None
    # Where it is to be kept for long: from Postgres, and nothing that was kept before.
    fresh: bool = False


class AskMetricKey(msgspec.Struct):
    pipeline: str
    metric: str
    key: list[str | None]


class AskAnalysis(msgspec.Struct):
    pipeline: str


class AskDocument(msgspec.Struct):
    pipeline: str
    id: str


class AskDocuments(msgspec.Struct):
    pipeline: str
    limit: PageLimit = 100
    cursor: str | None = None
    sort: str | None = None
    filters: dict[str, str] = {}


class AskRows(msgspec.Struct):
    pipeline: str
    limit: PageLimit
    sort: str
    skip: Annotated[int, Meta(ge=0)] = 0
    filters: dict[str, str] = {}
    present: list[str] = []
    fields: list[str] = []


class AskDeadGroups(msgspec.Struct):
    pipeline: str | None = None
    stage: str | None = None
    code: str | None = None
    pointer: str | None = None
    after: datetime | None = None
    before: datetime | None = None


class AskDeadList(AskDeadGroups):
    cursor: str | None = None
    limit: PageLimit | None = None
    body: bool = False


class AskDeadShow(msgspec.Struct):
    id: str


class AskDeadReplay(msgspec.Struct):
    id: str


class AskDeadAudit(msgspec.Struct):
    cursor: str | None = None
    limit: PageLimit = 100


class AskJob(msgspec.Struct):
    name: str


class AskJobRuns(msgspec.Struct):
    name: str
    cursor: str | None = None
    limit: PageLimit = 20


class AskJobRun(msgspec.Struct):
    name: str
    id: str


class AskRunJob(msgspec.Struct):
    """Of a key, the run is made once; `by` is who asks."""

    name: str
    by: str | None = None
    key: str | None = None


def decoded(payload: bytes, kind: type[Asked]) -> Asked:
    """Return a request's payload.

    Raises:
        DocumentError: a field is missing or out of its range (422 `invalid_value`).
        RequestError: it is not JSON.
    """
    try:
        return msgspec.json.decode(payload or b"{}", type=kind)
    except msgspec.ValidationError as error:
        text = str(error)
        found = _PATH.search(text)
        pointer = f"/{found[1]}" if found and found[1] else ""
        rule = _PATH.sub("", text)
        raise DocumentError(
            f"The request is not valid: {rule}.",
            code="invalid_value",
            errors=[FieldError(pointer, "invalid_value", rule + ".")],
        ) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RequestError(f"The request is not JSON: {error}.", code="malformed_json") from None
