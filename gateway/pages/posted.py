"""What a browser's form sent, read within limits, and whether it was a form of ours that sent it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from fastapi import Request

from gateway.body import read_body
from gateway.headers import read_headers
from gateway.pages.session import is_csrf_of
from headrace.errors import AccessError, DocumentError, RequestError

_FORM: Final = b"application/x-www-form-urlencoded"
_MOST_FIELDS: Final = 5_000


@dataclass(frozen=True)
class Posted:
    """The fields of a form.

    Attributes:
        texts: {name: texts in order}.
    """

    texts: Mapping[str, list[str]]

    def text(self, name: str) -> str:
        return self.texts.get(name, [""])[-1]

    def is_of(self, secret: str | None) -> bool:
        """Return whether it holds the token that only forms of this session, or visitor, hold."""
        return secret is not None and is_csrf_of(secret, self.text("csrf"))


async def posted(request: Request, limit_bytes: int) -> Posted:
    """Return the form of a request that a page of ours sent.

    Raises:
        AccessError: another site sent it (403 `cross_site`).
        RequestError: it is too large, or no form.
        DocumentError: it is not URL-encoded UTF-8, or has more fields than any form.
    """
    _check_origin(request)
    headers = read_headers(request.headers.raw)
    if headers.media_type != _FORM:
        raise RequestError(f"Send {_FORM.decode()}.", code="unsupported_media_type", status=415)
    body = await read_body(request.receive, headers, limit_bytes)
    texts: dict[str, list[str]] = {}
    try:
        for name, text in parse_qsl(
            body.decode("ascii"),
            keep_blank_values=True,
            encoding="utf-8",
            errors="strict",
            max_num_fields=_MOST_FIELDS,
        ):
            texts.setdefault(name, []).append(text)
    except ValueError:
        raise DocumentError(
            f"The form is not URL-encoded UTF-8, or has more than {_MOST_FIELDS} fields.", code="invalid_request"
        ) from None
    return Posted(texts)


def _check_origin(request: Request) -> None:
    """Refuse what another site's page sends; a form's token would stop it too, and neither relies on the other."""
    site = request.headers.get("sec-fetch-site")
    origin = request.headers.get("origin")
    host = request.headers.get("host", "")
    if site not in (None, "same-origin", "none") or (origin is not None and not _is_of_host(origin, host)):
        raise AccessError(
            "Another site sent this form, or a proxy before us changed the header Host.", code="cross_site", status=403
        )


def _is_of_host(origin: str, host: str) -> bool:
    """Return whether an origin is this host; which scheme a browser used, only a proxy that ends TLS knows."""
    try:
        return urlsplit(origin).netloc.lower() == host.lower()
    except ValueError:
        return False
