"""What a marker says of the deaths at a block."""

from __future__ import annotations

import pytest

from headrace.errors import UnavailableError
from tests.workers.plant import Plant
from workers.probe import WHOLE, Marker, open_probes


def test_a_fresh_block_is_tried_whole() -> None:
    marker = Marker().found_at(2)

    assert not marker.died_whole()
    assert marker.poison() == set()


def test_a_try_that_was_left_unfinished_is_a_death_to_the_next_delivery() -> None:
    assert Marker(2, WHOLE).found_at(3).died_whole()
    assert Marker(3, 7).found_at(4) == Marker(4, None, {7: 1})


def test_a_try_of_the_same_delivery_is_no_death() -> None:
    assert Marker(2, WHOLE).found_at(2) == Marker(2, None, {})
    assert Marker(3, 7, {WHOLE: 1}).found_at(3) == Marker(3, None, {WHOLE: 1})


@pytest.mark.parametrize(
    ("deaths", "poison"), [({}, set()), ({4: 1}, set()), ({4: 2}, {4}), ({WHOLE: 5, 1: 1, 2: 3}, {2})]
)
def test_a_document_at_which_workers_died_twice_is_the_poison(deaths: dict[int, int], poison: set[int]) -> None:
    assert Marker(5, None, deaths).poison() == poison


async def test_a_death_leaves_its_trace_and_an_error_does_not(plant: Plant) -> None:
    probes = await open_probes(plant.bus, plant.settings)
    marker = await probes.find("refine", "b", 2)
    assert marker == Marker(2)

    with pytest.raises(UnavailableError):
        async with probes.trying("refine", "b", marker, 4):
            raise UnavailableError("the store is away")
    assert await probes.find("refine", "b", 3) == Marker(3)

    # A worker that dies never leaves the body.
    await probes.trying("refine", "b", marker, 4).__aenter__()
    assert await probes.find("refine", "b", 2) == Marker(2)
    assert await probes.find("refine", "b", 3) == Marker(3, None, {4: 1})
    assert await probes.find("documents", "b", 3) == Marker(3)

    await probes.forget("refine", "b")
    assert await probes.find("refine", "b", 4) == Marker(4)


async def test_another_process_finds_the_same_bucket(plant: Plant) -> None:
    one, other = await open_probes(plant.bus, plant.settings), await open_probes(plant.bus, plant.settings)
    await one.trying("refine", "b", Marker(2), WHOLE).__aenter__()

    assert (await other.find("refine", "b", 3)).died_whole()
