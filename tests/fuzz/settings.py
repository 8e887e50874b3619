"""How much is tried: little and always the same in `make test`, much and each time another in `make fuzz`."""

from __future__ import annotations

import os
from typing import Any, Final

# Set by `make fuzz`: examples an operation or a decoder. Its seed is printed, and repeats the run.
EXAMPLES: Final = int(os.environ.get("FUZZ_EXAMPLES", "0"))
SEED: Final = int(os.environ.get("FUZZ_SEED", "1"))


def bounded(few: int) -> dict[str, Any]:
    """Return Hypothesis settings for so many examples, or as many as `make fuzz` wants."""
    return {"max_examples": EXAMPLES or few, "derandomize": not EXAMPLES, "deadline": None, "database": None}
