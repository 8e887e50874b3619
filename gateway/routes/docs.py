"""/openapi.json and /docs: Swagger UI from our own files, so that it works where there is no internet."""

from __future__ import annotations

import mimetypes
from pathlib import Path
from typing import Final

from fastapi import Request, Response

from gateway.access import EVERYBODY
from gateway.routing import JSON, Routes
from headrace.errors import RequestError

_STATIC: Final = Path(__file__).parent.parent / "static"
_SWAGGER_UI: Final = _STATIC / "swagger-ui-5.35.0"
_FILES: Final = {
    path.name: path
    for path in (
        _STATIC / "docs.css",
        _STATIC / "docs.js",
        _SWAGGER_UI / "favicon-32x32.png",
        _SWAGGER_UI / "swagger-ui-bundle.js",
        _SWAGGER_UI / "swagger-ui.css",
    )
}
# Swagger UI sets inline styles and has its icons in data: URLs.
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_CACHED: Final = {"Cache-Control": "public, max-age=3600"}


def add(routes: Routes) -> None:
    page = (_STATIC / "docs.html").read_bytes()
    files = {name: path.read_bytes() for name, path in _FILES.items()}

    @routes.add(
        "GET",
        "/openapi.json",
        "showOpenApi",
        tag="operations",
        summary="This description",
        access=EVERYBODY,
        content={JSON: {"schema": {"type": "object"}}},
    )
    async def openapi(request: Request) -> Response:
        """OpenAPI 3.1."""
        # Of all routes, so it is made once they all are there (gateway/app.py).
        return Response(request.app.state.openapi, media_type=JSON)

    @routes.add(
        "GET",
        "/docs",
        "showDocs",
        tag="operations",
        summary="This description to read and try",
        access=EVERYBODY,
        content={"text/html": {"schema": {"type": "string"}}},
    )
    async def docs() -> Response:
        """Swagger UI; it asks no other server for anything."""
        return Response(page, headers={"Content-Security-Policy": _POLICY}, media_type="text/html; charset=utf-8")

    @routes.add("GET", "/docs/{file}", "showDocsFile", tag="operations", summary="", access=EVERYBODY, shown=False)
    async def asset(request: Request, file: str) -> Response:
        if file not in files:
            path = request.url.path[:200]
            raise RequestError(f"There is nothing at {path}; /docs lists what there is.", code="not_found", status=404)
        media_type = mimetypes.guess_type(file)[0]
        return Response(files[file], headers=_CACHED, media_type=media_type)
