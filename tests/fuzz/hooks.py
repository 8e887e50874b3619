"""What schemathesis cannot know of our API: how NDJSON is written, and that no header may be undocumented."""

from __future__ import annotations

from typing import Any, Final

import schemathesis
from schemathesis.transport.requests import REQUESTS_TRANSPORT

from gateway.hardened import HEADERS

# What HTTP itself says, and what every answer has; OpenAPI has `X-Request-Id` too.
_ALWAYS: Final = frozenset(
    {"date", "content-length", "content-type", "connection", "x-request-id", *(name.decode() for name, _ in HEADERS)}
)


@REQUESTS_TRANSPORT.serializer("application/x-ndjson")
def ndjson(_context: Any, value: Any) -> dict[str, Any]:
    """Write one line a document, or text as it is."""
    return {"data": value if isinstance(value, bytes) else str(value).encode(errors="surrogatepass")}


@schemathesis.check
def documented_headers(_context: Any, response: Any, case: Any) -> None:
    """Fail on a header that the operation does not promise with this status."""
    found = case.operation.definition.raw["responses"].get(str(response.status_code), {})
    promised = {name.lower() for name in found.get("headers", {})}
    # `Allow` comes with the methods that an operation, being another, cannot speak of.
    spare = {"allow"} if response.status_code == 405 else set()
    unknown = {name.lower() for name in response.headers} - _ALWAYS - promised - spare
    assert not unknown, f"{response.status_code} has undocumented headers: {', '.join(sorted(unknown))}"
