"""The security headers of every answer, whichever part of the gateway writes it. A route may say otherwise."""

from __future__ import annotations

from typing import Final

# Answers are JSON, which no page may frame, sniff or run. Strict-Transport-Security is for whoever ends TLS to say.
HEADERS: Final[tuple[tuple[bytes, bytes], ...]] = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cache-control", b"no-store"),
)
# The same as they are written, for who writes an answer in one piece.
LINES: Final = b"".join(b"%b: %b\r\n" % header for header in HEADERS)
