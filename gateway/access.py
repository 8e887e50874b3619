"""Who may use a route: declared with the route, checked before anything else of it runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from fastapi import Request

from gateway.door import Door, require
from gateway.pages.session import Session, Sessions
from headrace.tokens import Principal


@dataclass(frozen=True)
class Access:
    """What a caller needs.

    Attributes:
        token: whether a token is needed at all.
        scope: which one its principal has to have, or None where any token will do.
        pipeline: whose narrowed scope is enough; by default the one that the path names.
        session: whether it is a page, which asks for a signed-in session in place of a token. No other route looks at
            cookies, so no other site can make a browser use the API.
    """

    token: bool = True
    scope: str | None = None
    pipeline: str | None = None
    session: bool = False


EVERYBODY: Final = Access(token=False)
ANY_TOKEN: Final = Access()


def scoped(scope: str, pipeline: str | None = None) -> Access:
    return Access(scope=scope, pipeline=pipeline)


def signed_in(scope: str | None = None) -> Access:
    return Access(token=False, scope=scope, session=True)


class Guard:
    """A route's dependency that lets in whom its access allows; leaves `request.state.principal`."""

    def __init__(self, door: Door, sessions: Sessions, access: Access) -> None:
        self._door = door
        self._sessions = sessions
        self.access = access

    async def __call__(self, request: Request) -> None:
        """Let the request pass.

        Raises:
            AccessError: 401 without a good token or session, 403 without the scope.
            UnavailableError: the token is not known here and auth is away.
        """
        if self.access.session:
            request.state.session = session = await self._sessions.of(request.cookies)
            principal = session.principal
        elif self.access.token:
            header = next((value for name, value in request.headers.raw if name == b"authorization"), None)
            principal = await self._door.principal(header)
        else:
            return
        if self.access.scope is not None:
            pipeline = self.access.pipeline or request.path_params.get("pipeline")
            require(principal, self.access.scope, pipeline)
        request.state.principal = principal


def principal_of(request: Request) -> Principal:
    """Return who was let in by this request's guard."""
    principal: Principal = request.state.principal
    return principal


def session_of(request: Request) -> Session:
    """Return the session that this request's guard found."""
    session: Session = request.state.session
    return session
