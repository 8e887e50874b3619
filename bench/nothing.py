"""FastAPI's least: a route that takes a JSON object and does nothing with it. What its framework alone costs."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

app = FastAPI()


@app.post("/v1/documents/invoices")
async def nothing(document: dict[str, Any]) -> dict[str, bool]:
    return {"accepted": True}
