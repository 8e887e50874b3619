"""An MQTT broker as a URL names it. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote, urlsplit

from headrace.errors import HeadraceError

_PORTS: Final = {"mqtt": 1883, "mqtts": 8883}


@dataclass(frozen=True, slots=True)
class Broker:
    """Where to connect, and as whom.

    Attributes:
        secure: whether to speak TLS.
    """

    host: str
    port: int
    username: str | None
    password: str | None = field(repr=False)
    secure: bool


def broker_of(url: str) -> Broker:
    """Return the broker of `mqtt://user:password@host:port`, or `mqtts://` for TLS.

    Raises:
        HeadraceError: the URL is none; it is not repeated, since it may hold a password.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise _unusable() from None
    if parts.scheme not in _PORTS or not parts.hostname or parts.path.strip("/") or parts.query:
        raise _unusable()
    return Broker(
        parts.hostname,
        port or _PORTS[parts.scheme],
        unquote(parts.username) if parts.username else None,
        unquote(parts.password) if parts.password else None,
        parts.scheme == "mqtts",
    )


def _unusable() -> HeadraceError:
    return HeadraceError(
        "The broker's URL is not like mqtt://user:password@host:1883, or mqtts:// for TLS. Correct it.",
        code="invalid_value",
    )
