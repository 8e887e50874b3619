"""Fixtures of the analytics tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from headrace.settings import Settings
from tests.analytics.system import PIPELINES, System, open_system


@pytest.fixture
def own_settings(settings: Settings) -> Settings:
    """Settings with the pipelines of these tests besides the built-in ones."""
    return settings.model_copy(update={"pipelines": PIPELINES})


@pytest.fixture
async def system(own_settings: Settings) -> AsyncIterator[System]:
    async with open_system(own_settings) as system:
        yield system
