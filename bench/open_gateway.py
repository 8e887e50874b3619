"""The gateway's own process with authentication off, to know what authentication costs. The product has no such switch.

    python -m bench.open_gateway

All else is the same: the Authorization header is read, the scope is looked at, and everything after that.
"""

from __future__ import annotations

import sys

import gateway.service
from gateway.authenticate import Authenticator
from headrace.process import run_service
from headrace.settings import Settings
from headrace.tokens import Principal

_ANYBODY = Principal("anybody", frozenset({"documents:write"}), token_id="", session_id="", expires_at=sys.maxsize)


class NoAuthenticator(Authenticator):
    """Everybody is the same principal."""

    def cached(self, authorization: bytes) -> Principal | None:
        return _ANYBODY


if __name__ == "__main__":
    gateway.service.Authenticator = NoAuthenticator  # type: ignore[attr-defined]
    sys.exit(run_service("gateway", Settings(), gateway.service.run))
