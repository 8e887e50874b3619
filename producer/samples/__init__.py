"""A small made-up source for each pipeline, in the form and with the faults of the real files.

`python -m producer.samples` writes them anew; they follow from the generators alone.
"""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).parent


def sample(pipeline: str) -> Path | None:
    """Return the pipeline's sample file, or None where there is none."""
    return next((path for path in sorted(_FOLDER.iterdir()) if path.stem == pipeline and path.suffix != ".py"), None)
