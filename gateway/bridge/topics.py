"""Which pipeline a topic is about, and what to subscribe to. Pure."""

from __future__ import annotations

import re
from typing import Final

_PLACE: Final = "{pipeline}"
# What can stand in a subject and be the name of a pipeline; anything else is refused where it is read.
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


class TopicTemplate:
    """A topic with `{pipeline}` as one of its levels, such as `ingest/{pipeline}` or `plant/+/{pipeline}`.

    Attributes:
        filter: what to subscribe to.

    Raises:
        ValueError: the template cannot say which pipeline is meant.
    """

    def __init__(self, template: str) -> None:
        levels = template.split("/")
        if levels.count(_PLACE) != 1 or template.count("{") != 1:
            raise ValueError(f"the topic {template!r} must have {_PLACE} as one of its levels, as in ingest/{_PLACE}")
        if any(("+" in level or "#" in level) and len(level) > 1 for level in levels) or "#" in levels[:-1]:
            raise ValueError(f"the topic {template!r}: + stands for a whole level, # for all levels after the last /")
        if "" in levels[1:]:
            raise ValueError(f"the topic {template!r} has an empty level; remove the second /")
        self.filter = template.replace(_PLACE, "+")
        self._place = levels.index(_PLACE)

    def pipeline_of(self, topic: str) -> str | None:
        """Return the name of a pipeline, which need not exist; None where it can be the name of none."""
        levels = topic.split("/")
        name = levels[self._place] if self._place < len(levels) else ""
        return name if _NAME.fullmatch(name) else None
