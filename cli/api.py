"""What the commands ask a gateway over HTTP; a failure is one of the error tree, in words for a terminal."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self
from urllib.parse import quote

import aiohttp
import msgspec

from cli.problems import EXIT_USAGE, fail
from headrace import __version__
from headrace.errors import HeadraceError, RequestError, UnavailableError, error_of
from producer.target import Headrace, find_headrace

_TOKEN_PROBLEMS: Final = frozenset({"token_missing", "invalid_token", "unknown_key", "token_expired", "token_revoked"})
_TIMEOUT_SECONDS: Final = 30.0
_CONNECT_SECONDS: Final = 5.0


class OutcomeUnknownError(UnavailableError):
    """The request may have had its effect: it was sent, and no answer came."""

    default_code = "outcome_unknown"


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer as it came; `body` is its JSON."""

    status: int
    body: Any
    retry_after_seconds: float | None = None

    @property
    def error(self) -> HeadraceError:
        """Return what a 4xx or 5xx says."""
        problem = self.body if isinstance(self.body, dict) else {}
        error = error_of({"status": self.status, "detail": f"The gateway answered {self.status}.", **problem})
        if error.code in _TOKEN_PROBLEMS:
            error.detail += " Give --token or HEADRACE_TOKEN; `headrace token` makes one."
        return error


def find(url: str | None, token: str | None) -> Headrace:
    """Return the Headrace that is meant; end the command where there is none, or its URL or token cannot be one."""
    try:
        found = find_headrace(url, token)
    except ValueError as error:
        fail(str(error), exit_code=EXIT_USAGE)
    if not found.url.startswith(("http://", "https://")):
        fail(f"{found.url!r} is no URL of a gateway; write it as http://HOST:PORT.", exit_code=EXIT_USAGE)
    if not found.token.isascii() or any(character.isspace() for character in found.token.strip()):
        fail("The token holds characters that no token has; copy it again.", exit_code=EXIT_USAGE)
    return found


def path(*parts: str) -> str:
    """Return a path under /v1 with its parts quoted."""
    return "/v1/" + "/".join(quote(part, safe="") for part in parts)


class Api:
    """Questions to one gateway; used within `async with`."""

    def __init__(self, headrace: Headrace) -> None:
        self.url = headrace.url
        self._token = headrace.token.strip()

    async def __aenter__(self) -> Self:
        headers = {"User-Agent": f"headrace/{__version__}"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        self._session = aiohttp.ClientSession(headers=headers)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def get(self, path: str, params: Mapping[str, str] | None = None) -> Any:
        """Return the JSON that a path answers.

        Raises:
            HeadraceError: what the gateway's problem says.
            UnavailableError: no gateway answers.
        """
        answer = await self.ask("GET", path, params=params)
        if answer.status >= 400:
            raise answer.error
        return answer.body

    async def ask(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_seconds: float = _TIMEOUT_SECONDS,
    ) -> Answer:
        """Return the answer, whatever its status.

        Raises:
            UnavailableError: no gateway answers; OutcomeUnknownError where it may have got the request.
        """
        try:
            async with self._session.request(
                method,
                self.url + path,
                params=params,
                data=body,
                headers=headers,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=timeout_seconds, sock_connect=_CONNECT_SECONDS),
            ) as response:
                raw = await response.read()
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise UnavailableError(
                f"No gateway answers at {self.url} ({_reason(error)}); `headrace up` starts one here."
            ) from None
        except aiohttp.InvalidURL:
            raise RequestError(f"{self.url!r} is no URL of a gateway; write it as http://HOST:PORT.") from None
        except TimeoutError:
            raise OutcomeUnknownError(f"{self.url} did not answer within {timeout_seconds:g} s.") from None
        except (aiohttp.ClientError, OSError) as error:
            raise OutcomeUnknownError(f"{self.url} broke off ({type(error).__name__}); is it a Headrace?") from None
        return Answer(response.status, self._json(raw, response.status), _seconds(response.headers.get("Retry-After")))

    def _json(self, raw: bytes, status: int) -> Any:
        try:
            return msgspec.json.decode(raw) if raw else None
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise HeadraceError(f"{self.url} answered {status}, and not in JSON: is this a Headrace?") from None


def _reason(error: Exception) -> str:
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    match cause:
        case socket.gaierror() | ssl.SSLError():
            return str(cause.strerror or cause.args[-1])
        case OSError() if cause.errno:
            return os.strerror(cause.errno).lower()
    return "no connection in time"


def _seconds(text: str | None) -> float | None:
    return float(text) if text and text.isdigit() else None
