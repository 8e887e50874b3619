"""The `headrace up` that runs in this folder, for commands that need its servers rather than its gateway."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from headrace.settings import Settings

_FILE: Final = Path(".headrace/up.json")
# Somebody waits for the answer.
_PATIENCE_SECONDS: Final = 5.0


def reached(settings: Settings) -> Settings:
    """Return the settings with the NATS of the `up` that runs in this folder, unless they name another."""
    from pydantic import SecretStr

    impatient = settings.nats.model_copy(update={"down_seconds": _PATIENCE_SECONDS})
    changes: dict[str, object] = {"nats": impatient}
    if "nats_url" not in settings.model_fields_set and (url := told().get("nats_url")):
        changes["nats_url"] = SecretStr(url)
    return settings.model_copy(update=changes)


def told() -> dict[str, Any]:
    """Return what the `up` of this folder has told; nothing where none runs."""
    import msgspec

    with contextlib.suppress(OSError, msgspec.MsgspecError):
        return msgspec.json.decode(_FILE.read_bytes(), type=dict[str, Any])
    return {}
