"""How routes are declared: each with its access, its answer and its problems, so that none is open or undocumented."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlencode

import msgspec
from fastapi import Depends, FastAPI, Response
from fastapi.routing import APIRoute
from starlette.routing import compile_path

from gateway.access import Access, Guard
from gateway.answers.common import Answer
from gateway.codes import problem_responses
from gateway.door import Door
from gateway.pages.page import PageRoute
from gateway.pages.session import Sessions
from headrace.messaging.mesh import Reply
from headrace.views import ErrorShape

JSON: Final = "application/json"
Handler = Callable[..., Awaitable[Response]]

_TOKEN_PROBLEMS: Final = ("token_missing", "invalid_token", "token_expired", "token_revoked", "auth_unavailable")
_DESCRIPTIONS: Final = {200: "As asked.", 201: "Made.", 202: "Taken on.", 204: "Done; there is nothing more to say."}


class _Page(msgspec.Struct):
    """Of a page, what makes its link to the next."""

    next: str | None = None


class Routes:
    """Adds routes to the application."""

    def __init__(self, app: FastAPI, door: Door) -> None:
        self.app = app
        self.door = door
        self.sessions = Sessions(door)

    def add(
        self,
        method: str,
        path: str,
        operation_id: str,
        *,
        tag: str,
        summary: str,
        access: Access,
        answer: type[Answer] | None = None,
        many: bool = False,
        example: Any = None,
        status: int = 200,
        also: Mapping[int, type[Answer]] | None = None,
        content: Mapping[str, Any] | None = None,
        body: Mapping[str, Any] | None = None,
        cached: bool = False,
        headers: Sequence[str] = (),
        problems: Sequence[str] = (),
        errors: Sequence[ErrorShape] = (),
        parameters: Sequence[Mapping[str, Any]] = (),
        shown: bool = True,
    ) -> Callable[[Handler], Handler]:
        """Declare a route; its handler's docstring is its description.

        Args:
            answer: what it answers with `status`, as JSON.
            many: whether the answer is a JSON array of these.
            example: of the answer, where the answer's own will not do.
            also: what it may answer instead, by status.
            content: the answer in OpenAPI's words, where it is none of `gateway/answers`.
            body: the request body in OpenAPI's words.
            cached: whether it has an ETag and answers 304.
            headers: more that the answer may have, by their names in OpenAPI's components.
            problems: codes that it may answer, besides those of its access.
            errors: which of them it answers in a shape of its own.
            parameters: what it reads from the request itself, in OpenAPI's words.
            shown: whether OpenAPI has it; routes that are told there pipeline by pipeline are not.
        """
        codes = [*problems]
        if access.token:
            codes += _TOKEN_PROBLEMS
        if access.scope:
            codes.append("scope_missing")
        success: dict[str, Any] = {"description": _DESCRIPTIONS[status]}
        if content is not None:
            success["content"] = dict(content)
        elif answer is not None:
            success["model"] = list[answer] if many else answer  # type: ignore[valid-type]
            success["content"] = {JSON: {"example": _example(answer, example, many=many)}}
        of_answer = header_refs(*headers, *(("ETag",) if cached else ()))
        if of_answer:
            success["headers"] = of_answer
        extra: dict[str, Any] = {}
        if body:
            extra["requestBody"] = dict(body)
        if parameters:
            extra["parameters"] = [dict(one) for one in parameters]
        if errors:
            self.app.state.error_shapes[path] = errors

        def declare(handler: Handler) -> Handler:
            self.app.router.add_api_route(
                path,
                handler,
                methods=[method],
                operation_id=operation_id,
                name=operation_id,
                tags=[tag],
                summary=summary,
                status_code=status,
                response_class=Response,
                response_model=None,
                responses={
                    status: success,
                    **{other: _told(other, model) for other, model in (also or {}).items()},
                    **({304: {"description": "You have it already.", "headers": of_answer}} if cached else {}),
                    **problem_responses(codes, errors),
                },
                dependencies=[Depends(Guard(self.door, self.sessions, access))],
                include_in_schema=shown,
                openapi_extra=extra or None,
            )
            return handler

        return declare

    def page(self, method: str, path: str, operation_id: str, access: Access) -> Callable[[Handler], Handler]:
        """Declare a page for people. It is none of the API, so OpenAPI does not have it, and its errors are pages."""

        def declare(handler: Handler) -> Handler:
            self.app.router.add_api_route(
                path,
                handler,
                methods=[method],
                operation_id=operation_id,
                name=operation_id,
                response_class=Response,
                response_model=None,
                dependencies=[Depends(Guard(self.door, self.sessions, access))],
                include_in_schema=False,
                route_class_override=PageRoute,
            )
            return handler

        return declare

    def at(self, path: str) -> APIRoute | None:
        """Return a route that answers at a path, or at one that the path's parameters may make of it."""
        regex, _, _ = compile_path(path)
        return next(
            (route for route in declared(self.app) if route.path_regex.match(path) or regex.match(route.path)), None
        )


def header_refs(*names: str) -> dict[str, Any]:
    """Return headers in OpenAPI's words; its components describe them."""
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def declared(app: FastAPI) -> list[APIRoute]:
    return [route for route in app.routes if isinstance(route, APIRoute)]


def access_of(route: APIRoute) -> Access:
    """Return what a route asks of its callers.

    Raises:
        LookupError: it says nothing, so it may not be served.
    """
    for dependency in route.dependencies:
        if isinstance(dependency.dependency, Guard):
            return dependency.dependency.access
    raise LookupError(f"{route.path} does not declare who may use it")


def passed(reply: Reply, headers: Mapping[str, str] | None = None) -> Response:
    """Return a service's reply as it came, with more headers."""
    media = {"Content-Type": JSON} if reply.body else {}
    return Response(reply.body, reply.status, {**media, **reply.headers, **(headers or {})})


def page(reply: Reply, path: str, asked: Mapping[str, str]) -> Response:
    """Return a service's page of a list as it came, with a link to the next (RFC 8288).

    Args:
        asked: the parameters of this page, of which the next differs in its cursor.
    """
    following = msgspec.json.decode(reply.body, type=_Page).next
    if following is None:
        return passed(reply)
    return passed(reply, {"Link": f'<{path}?{urlencode({**asked, "cursor": following})}>; rel="next"'})


def _told(status: int, answer: type[Answer]) -> dict[str, Any]:
    return {
        "description": _DESCRIPTIONS[status],
        "model": answer,
        "content": {JSON: {"example": answer.example}},
    }


def _example(answer: type[Answer], example: Any, *, many: bool) -> Any:
    if example is not None:
        return example
    return [answer.example] if many else answer.example
