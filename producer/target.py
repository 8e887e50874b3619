"""Which Headrace to talk to: what was asked for, else the environment, else the one `headrace up` runs here."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
from pydantic import SecretStr

from headrace.broker import Broker, broker_of
from headrace.settings import Settings

_UP: Final = Path(".headrace/up.json")


@dataclass(frozen=True, slots=True)
class Headrace:
    """A running Headrace; the stores' URLs are None where they are not known."""

    url: str
    token: str = field(default="", repr=False)
    mongo_url: str | None = field(default=None, repr=False)
    postgres_url: str | None = field(default=None, repr=False)


def find_headrace(
    url: str | None = None,
    token: str | None = None,
    mongo_url: str | None = None,
    postgres_url: str | None = None,
    *,
    up_file: Path = _UP,
) -> Headrace:
    """Return the Headrace to use.

    Raises:
        ValueError: nothing says where one is.
    """
    url = url or os.environ.get("HEADRACE_URL")
    up = _read(up_file)
    # The file speaks of the Headrace it names, not of another one elsewhere.
    if url and up.get("url", "").rstrip("/") != url.rstrip("/"):
        up = {}
    url = url or up.get("url")
    if not url:
        raise ValueError("No Headrace is known: start one here with `headrace up`, or give --url or HEADRACE_URL.")
    return Headrace(
        url.rstrip("/"),
        token or os.environ.get("HEADRACE_TOKEN") or up.get("token") or "",
        mongo_url or up.get("mongo_url"),
        postgres_url or up.get("postgres_url"),
    )


def bus_settings(*, up_file: Path = _UP) -> Settings:
    """Return the settings with the servers of the `up` that runs here where no other is named."""
    settings, up = Settings(), _read(up_file)
    named = {
        name: SecretStr(up[name])
        for name in ("nats_url", "redis_url")
        if name not in settings.model_fields_set and isinstance(up.get(name), str)
    }
    return settings.model_copy(update=named)


def find_broker(url: str, *, up_file: Path = _UP) -> Broker:
    """Return the broker that a URL names; `up` names the listener of the `up` that runs here.

    Raises:
        HeadraceError: the URL is none.
        ValueError: no `up` with a listener runs here.
    """
    if url != "up":
        return broker_of(url)
    told = _read(up_file).get("mqtt_url")
    if not isinstance(told, str):
        raise ValueError("No `headrace up` with an MQTT listener runs in this folder; give its URL.")
    return broker_of(told)


def _read(path: Path) -> dict[str, Any]:
    try:
        found = msgspec.json.decode(path.read_bytes())
    except (OSError, msgspec.DecodeError):
        return {}
    return found if isinstance(found, dict) else {}
