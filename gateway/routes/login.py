"""/login and /logout: the signed-in session of the pages, and the few files that pages need."""

from __future__ import annotations

from typing import Final

import msgspec
from fastapi import Request, Response

from gateway.access import EVERYBODY, session_of, signed_in
from gateway.pages.page import ICON, STYLE, page, page_path, see, tell_when
from gateway.pages.posted import Posted, posted
from gateway.pages.session import SignedOutError, Tokens, csrf_of, new_secret, secret_in
from gateway.routing import Routes
from headrace.errors import AccessError, HeadraceError, RequestError
from headrace.messaging.mesh import REQUEST_ID_HEADER
from headrace.tokens import CLIENT_HEADER

_FORM_MAX_BYTES: Final = 16 << 10
_FILES: Final = {"pages.css": (STYLE, "text/css; charset=utf-8"), "icon.svg": (ICON, "image/svg+xml")}
_CACHED: Final = {"Cache-Control": "public, max-age=3600"}


def add(routes: Routes) -> None:
    door, sessions = routes.door, routes.sessions

    def shown(request: Request, *, status: int = 200, error: str = "", username: str = "", asked: str) -> Response:
        """Return the sign-in, bound to this visitor, so that no other site can sign somebody in."""
        visitor = secret_in(request.cookies, sessions.visitor_cookie)
        secret = visitor or new_secret()
        answer = page(
            request,
            "login.html",
            status=status,
            error=error,
            over="over" in request.query_params,
            username=username,
            next=page_path(asked),
            csrf=csrf_of(secret),
        )
        if visitor is None:
            answer.headers.append("Set-Cookie", sessions.set_cookie(sessions.visitor_cookie, secret))
        return answer

    async def tokens_for(request: Request, form: Posted) -> Tokens:
        headers = {REQUEST_ID_HEADER: request.state.request_id}
        if request.client is not None:
            headers[CLIENT_HEADER] = request.client.host[:64]
        login = {"username": form.text("username"), "password": form.text("password")}
        reply = await door.ask("auth", "token", login, headers=headers)
        return msgspec.json.decode(reply.body, type=Tokens)

    @routes.page("GET", "/login", "showSignIn", EVERYBODY)
    async def sign_in_page(request: Request) -> Response:
        asked = request.query_params.get("next", "")
        try:
            await sessions.of(request.cookies)
        except SignedOutError:
            return shown(request, asked=asked)
        return see(page_path(asked))

    @routes.page("POST", "/login", "signIn", EVERYBODY)
    async def sign_in(request: Request) -> Response:
        form = await posted(request, _FORM_MAX_BYTES)
        asked, username = form.text("next"), form.text("username")[:64]
        if not form.is_of(secret_in(request.cookies, sessions.visitor_cookie)):
            told = "Your browser sent this without our cookie, or from an old page. Allow cookies, and try again."
            return shown(request, status=403, error=told, username=username, asked=asked)
        try:
            secret = await sessions.begin(await tokens_for(request, form))
        except HeadraceError as error:
            answer = shown(request, status=error.status, error=error.detail, username=username, asked=asked)
            return tell_when(answer, error)
        answer = see(page_path(asked))
        answer.headers.append("Set-Cookie", sessions.set_cookie(sessions.cookie, secret))
        answer.headers.append("Set-Cookie", sessions.set_cookie(sessions.visitor_cookie, ""))
        return answer

    @routes.page("POST", "/logout", "signOut", signed_in())
    async def sign_out(request: Request) -> Response:
        session = session_of(request)
        form = await posted(request, _FORM_MAX_BYTES)
        if not form.is_of(session.secret):
            raise AccessError("This page is of an earlier sign-in; open it again.", code="stale_form", status=403)
        await sessions.end(session)
        answer = see("/login")
        answer.headers.append("Set-Cookie", sessions.set_cookie(sessions.cookie, ""))
        return answer

    @routes.page("GET", "/pages/{file}", "showPagesFile", EVERYBODY)
    async def asset(request: Request, file: str) -> Response:
        if file not in _FILES:
            raise RequestError(f"There is nothing at {request.url.path[:200]}.", code="not_found", status=404)
        body, media_type = _FILES[file]
        return Response(body, headers=_CACHED, media_type=media_type)
