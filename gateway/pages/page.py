"""HTML for people: templates, the headers of every page, and errors as pages."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from starlette.exceptions import HTTPException

from gateway.body import ClientGoneError
from gateway.pages.session import Session, SignedOutError
from gateway.pages.shown import number, when, words
from gateway.problems import internal, retry_after
from headrace import telemetry
from headrace.errors import TITLES, HeadraceError

log = telemetry.logger(__name__)

_HERE: Final = Path(__file__).parent
STYLE: Final = (_HERE / "pages.css").read_bytes()
ICON: Final = (_HERE / "icon.svg").read_bytes()
# In the address, so that a browser keeps a file for as long as it is this one.
_STYLE_VERSION: Final = hashlib.sha256(STYLE).hexdigest()[:12]

# There is no script and nothing inline, so whatever a document holds, nothing of it runs.
HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'"
    ),
    # Not no-referrer, with which browsers send `Origin: null` from our own forms.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
# Where a sign-in may lead: our own pages, and nothing that a browser could take for another host.
_PAGE: Final = re.compile(r"/(?:forms|results)(?:/[a-z][a-z0-9_]{0,39}(?:/[0-9a-f-]{36})?)?")
HOME: Final = "/forms"

_templates = Environment(
    loader=FileSystemLoader(_HERE / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
# Types and helps of HTML's inputs, for each kind that is one.
_INPUTS: Final = {
    "text": 'type="text"',
    "email": 'type="email"',
    "url": 'type="url"',
    "integer": 'type="number" step="1" inputmode="numeric"',
    "number": 'type="number" step="any" inputmode="decimal"',
    "decimal": 'type="text" inputmode="decimal"',
    "date": 'type="date"',
    "moment": 'type="datetime-local" step="any"',
    "time": 'type="time" step="any"',
}
_templates.filters |= {"words": words, "number": number, "when": when, "html_type": lambda kind: Markup(_INPUTS[kind])}


def page(request: Request, template: str, *, status: int = 200, **shown: Any) -> Response:
    """Return a page; `shown` is what its template needs."""
    session: Session | None = getattr(request.state, "session", None)
    text = _templates.get_template(template).render(
        session=session, style_version=_STYLE_VERSION, section=request.url.path.split("/")[1], **shown
    )
    return Response(text, status, HEADERS, "text/html; charset=utf-8")


def see(path: str) -> Response:
    """Return a redirect to a page of ours, to be fetched with GET."""
    return Response(status_code=303, headers={**HEADERS, "Location": path})


def page_path(asked: str) -> str:
    """Return a path to go to after the sign-in: the one that is asked for where it is a page of ours."""
    return asked if _PAGE.fullmatch(asked) else HOME


class PageRoute(APIRoute):
    """A route whose errors are pages, and that sends who is not signed in to the sign-in."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                return await handle(request)
            except SignedOutError as error:
                return _signed_out(request, error)
            except HeadraceError as error:
                return error_page(request, error)
            except (ClientGoneError, RequestValidationError, HTTPException):
                raise
            except Exception:
                # A bug of ours: told to people as a page, too, and never more of it than where the log has it.
                log.exception("request_failed", request_id=request.state.request_id, route=self.path)
                return error_page(request, internal(request.state.request_id))

        return answer


def error_page(request: Request, error: HeadraceError) -> Response:
    title = TITLES.get(error.status, "Error")
    return tell_when(page(request, "error.html", status=error.status, title=title, error=error), error)


def tell_when(answer: Response, error: HeadraceError) -> Response:
    """Return the answer, with when to try again where that may do."""
    if (seconds := retry_after(error)) is not None:
        answer.headers["Retry-After"] = seconds
    return answer


def _signed_out(request: Request, error: SignedOutError) -> Response:
    # Browsers keep a SameSite=Strict cookie back when a link on another site is followed, and send it when our own
    # page then asks for itself again.
    if request.method == "GET" and not request.cookies and request.headers.get("sec-fetch-site") == "cross-site":
        return page(request, "again.html", path=request.url.path)
    over = "&over=1" if error.code == "session_over" else ""
    return see(f"/login?next={quote(page_path(request.url.path), safe='')}{over}")
