"""A store whose disk is really full: its stage waits, nobody is blamed, and with room again all is stored by itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr

from embedded.disk import free_bytes
from headrace import telemetry
from headrace.settings import Settings
from tests.invariants import assert_balanced
from tests.servers import running
from tests.waiting import eventually
from tests.workers.plant import open_plant, quick, until_projected


@pytest.mark.long
@pytest.mark.parametrize(
    ("setting", "store"), [("mongo_url", "mongo"), ("postgres_url", "postgres"), ("redis_url", "redis")]
)
async def test_a_store_whose_disk_was_full_has_everything_once_there_is_room(
    settings: Settings, small_disk: Path, setting: str, store: str
) -> None:
    async with running(small_disk, [setting]) as servers:
        own = settings.model_copy(update={setting: SecretStr(getattr(servers, setting))})
        async with open_plant(quick(own)) as plant, plant.workers():
            sent = await plant.submit("things", {"name": "a"})
            await plant.drained()
            ballast = small_disk / "ballast"
            ballast.write_bytes(b"\0" * (free_bytes(small_disk) - (256 << 10)))

            async def refused() -> bool:
                sent.extend(
                    await plant.submit("things", *({"name": "b" * 20_000, "tags": [str(n)]} for n in range(20)))
                )
                return bool(telemetry.store_up.labels(store)._value.get() == 0)

            await eventually(refused)
            ballast.unlink()
            await plant.drained()
            await until_projected(plant)

            assert sorted(await plant.stored("things")) == sorted(sent)
            assert await plant.letters() == []
            await assert_balanced(plant.settings)
