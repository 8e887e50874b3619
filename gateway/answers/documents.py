"""Answers about documents: receipts, and what became of them."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, Field

from gateway.answers.common import EXAMPLE_DEAD_ID, EXAMPLE_ID, EXAMPLE_TIME, Answer, FieldProblem


class Link(BaseModel):
    self: str


class Receipt(Answer):
    """The document is on disk."""

    id: str
    status: Literal["accepted"]
    links: Link

    example: ClassVar[Any] = {
        "id": EXAMPLE_ID,
        "status": "accepted",
        "links": {"self": f"/v1/documents/invoices/{EXAMPLE_ID}"},
    }


class BulkItem(BaseModel):
    """What became of the document at this index: its id, or why it was refused."""

    id: str | None = None
    status: int | Literal["accepted", "stored", "dead"] | None = Field(
        None, description="422 where it was refused; after Prefer: wait, where the document is"
    )
    code: str | None = None
    errors: list[FieldProblem] | None = None


class BulkReceipt(Answer):
    """The accepted documents are on disk."""

    accepted: int
    rejected: int
    items: list[BulkItem] = Field(description="in the order of the request")

    example: ClassVar[Any] = {"accepted": 2, "rejected": 0, "items": [{"id": EXAMPLE_ID}, {"id": EXAMPLE_DEAD_ID}]}


class Sinks(BaseModel):
    documents: Literal["pending", "stored"]
    facts: Literal["pending", "stored"]


class StoredProblem(BaseModel):
    """Why the document was refused behind the door."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    stage: str
    dead_at: datetime
    errors: list[FieldProblem] | None = None


class DocumentState(Answer):
    """Where a document is."""

    id: str
    pipeline: str
    status: Literal["accepted", "stored", "dead"]
    received_at: datetime
    sinks: Sinks
    document: dict[str, Any] | None = Field(description="the stored form, once it is stored")
    problem: StoredProblem | None

    example: ClassVar[Any] = {
        "id": EXAMPLE_ID,
        "pipeline": "invoices",
        "status": "accepted",
        "received_at": EXAMPLE_TIME,
        "sinks": {"documents": "pending", "facts": "pending"},
        "document": None,
        "problem": None,
    }


class ListedDocument(BaseModel):
    id: str
    received_at: datetime
    document: dict[str, Any]


class DocumentPage(Answer):
    """Stored documents; `next` continues the list where it is not null."""

    items: list[ListedDocument]
    next: str | None

    example: ClassVar[Any] = {"items": [], "next": None}
