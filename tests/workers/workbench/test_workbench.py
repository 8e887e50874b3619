"""Replays and discards on real servers: what becomes of the documents, of the books, and of who breaks off."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from headrace.document import new_id
from headrace.errors import RequestError
from headrace.messaging.mesh import ask
from headrace.messaging.publisher import open_publisher
from headrace.registry import load_pipelines
from headrace.settings import DeadLetterSettings, Settings
from headrace.storage.dead_letters import NewAction, Selection, count
from headrace.storage.postgres import open_facts
from headrace.tokens import PRINCIPAL_HEADER, Principal
from tests.analytics.system import PIPELINES, System, open_system
from tests.invariants import assert_balanced
from tests.servers import in_own_task
from workers.workbench.actions import Actions

ADA = Principal("ada", frozenset({"dead:write"}), "key1", "", 253402300799).encode()
MOVE = [{"op": "move", "from": "/Product", "path": "/product"}]


@pytest.fixture
async def system(settings: Settings) -> AsyncIterator[System]:
    """A system whose workers run."""
    own = settings.model_copy(
        update={
            "pipelines": PIPELINES,
            "block": settings.block.model_copy(update={"max_documents": 4}),
            "dead_letters": DeadLetterSettings(max_ids=5, max_replays=2),
        }
    )
    async with in_own_task(_open(own)) as system:
        yield system


@contextlib.asynccontextmanager
async def _open(settings: Settings) -> AsyncIterator[System]:
    async with open_system(settings) as system, system.workers():
        yield system


async def decide(system: System, what: str, **payload: Any) -> Any:
    """Ask the workbench as Ada."""
    reply = await ask(
        system.bus,
        system.settings.namespace,
        "workers",
        f"dead.{what}",
        json.dumps(payload).encode(),
        headers={PRINCIPAL_HEADER: ADA},
        timeout_seconds=10,
    )
    return json.loads(reply.body)


async def replay(system: System, **payload: Any) -> Any:
    """Replay, and return what was answered once all is settled."""
    answer = await decide(system, "replay", **payload)
    await system.until("dead.replay", {"state": "done"}, id=answer["id"])
    await system.drained()
    return answer


async def sql(system: System, query: str, *arguments: Any) -> list[Any]:
    async with open_facts(system.settings.postgres_url.get_secret_value(), 10) as facts:
        return await facts.fetch(query, *arguments)


async def balanced(system: System, pipeline: str = "orders", **expected: Any) -> None:
    """Check the books, by the ledger and by the stores."""
    await system.until("ledger", {"pipelines": {pipeline: {"in_flight": 0, "balanced": True, **expected}}})
    await assert_balanced(system.settings)


async def test_a_wrong_name_is_mended_by_one_patch_tried_out_first(system: System) -> None:
    ids = await system.submit("orders", *({"Product": "tea", "quantity": n, "price": "1.50"} for n in range(9)))
    [odd] = await system.submit("orders", {"prod": "tea"})
    await system.drained()
    chosen = {"filter": {"pipeline": "orders", "code": "invalid_document", "pointer": "/product"}}

    tried = await decide(system, "replay", **chosen, patch=MOVE, dry_run=True)

    assert (tried["would_pass"], tried["would_fail"], tried["matched"], tried["next"]) == (9, 1, 10, None)
    assert tried["reasons"] == [{"code": "patch_failed", "pointer": "/Product", "count": 1}]
    assert [(sample["id"], sample["errors"][0]["pointer"]) for sample in tried["samples"]] == [(odd, "/Product")]
    assert (await system.line("orders"))["dead"] == 10
    unpatched = await decide(system, "replay", **chosen, dry_run=True)
    assert (unpatched["would_pass"], unpatched["would_fail"]) == (0, 10)
    assert unpatched["samples"][0]["errors"][0]["code"] == "missing"

    done = await replay(system, **chosen, patch=MOVE, reason="the export wrote Product")

    assert (done["state"], done["matched"], done["replayed"], done["left_out"]) == ("done", 10, 9, 1)
    assert done["samples"][0]["id"] == odd
    await balanced(system, accepted=10, stored={"documents": 9, "facts": 9}, dead=1, discarded=0, duplicates=0)
    state = await system.ask("document", pipeline="orders", id=ids[3])
    assert (state["status"], state["document"]["quantity"], state["problem"]) == ("stored", 3, None)
    shown = await system.ask("dead.show", id=ids[3])
    assert shown["state"] == "replayed"
    assert shown["history"][0]["decided"]["by"] == "ada"
    [audited] = (await system.ask("dead.audit"))["items"]
    assert (audited["by"], audited["token_id"], audited["selection"]) == ("ada", "key1", chosen)
    assert (audited["patch"], audited["reason"]) == (MOVE, "the export wrote Product")
    assert (audited["replayed"], audited["left_out"], audited["state"]) == (9, 1, "done")


async def test_what_fails_again_keeps_its_history_and_is_not_replayed_for_ever(system: System) -> None:
    [bad] = await system.submit("orders", {"bad": 1})
    await system.drained()
    everything = {"filter": {"pipeline": "orders"}}

    await replay(system, **everything, patch=[{"op": "add", "path": "/worse", "value": 1}])
    again = await replay(system, **everything)
    assert (again["matched"], again["replayed"]) == (1, 1)
    left_out = await replay(system, **everything)

    assert (left_out["replayed"], left_out["left_out"]) == (0, 1)
    assert left_out["samples"][0]["code"] == "replayed_too_often"
    shown = await system.ask("dead.show", id=bad)
    assert (shown["replays"], shown["state"]) == (2, "dead")
    assert json.loads(shown["body"]) == {"bad": 1, "worse": 1}
    assert [one["state"] for one in shown["history"]] == ["replayed", "replayed", "dead"]
    assert [bool(one["decided"] and one["decided"]["patch_sha256"]) for one in shown["history"]] == [True, False, False]
    await balanced(system, accepted=1, dead=1)
    # By its name, or with force.
    assert (await replay(system, ids=[bad]))["replayed"] == 1
    assert (await replay(system, **everything, force=True))["replayed"] == 1
    await balanced(system, accepted=1, dead=1)


async def test_discarded_letters_stay_in_the_books_and_in_the_audit(system: System) -> None:
    ids = await system.submit("orders", *({"bad": n} for n in range(3)))
    await system.drained()

    discarded = await decide(system, "discard", ids=ids[:2], reason="a test")

    assert (discarded["discarded"], discarded["state"]) == (2, "done")
    await balanced(system, accepted=3, dead=1, discarded=2)
    with pytest.raises(RequestError) as nothing:
        await decide(system, "discard", ids=ids[:2], reason="once more")
    assert (nothing.value.status, nothing.value.code) == (404, "dead_letter_not_found")
    [audited] = (await system.ask("dead.audit"))["items"]
    assert (audited["action"], audited["discarded"], audited["reason"]) == ("discard", 2, "a test")
    assert {item["id"] for item in (await system.ask("dead.list"))["items"]} == {ids[2]}


async def test_patches_of_single_documents_are_theirs_alone(system: System) -> None:
    tea, mug = await system.submit("orders", {"a": "tea"}, {"b": "mug"})
    await system.drained()

    await replay(
        system,
        patches={
            tea: [{"op": "move", "from": "/a", "path": "/product"}],
            mug: [{"op": "move", "from": "/b", "path": "/product"}, {"op": "add", "path": "/price", "value": 2.50}],
        },
    )

    found = {row["product"]: str(row["price"]) for row in await sql(system, "SELECT product, price FROM facts.orders")}
    assert found == {"tea": "1.00", "mug": "2.5"}
    await balanced(system, accepted=2)


async def test_a_letter_of_one_store_goes_back_to_that_store_alone(system: System) -> None:
    await sql(system, "ALTER TABLE facts.orders ADD CONSTRAINT no_tea CHECK (product <> 'tea')")
    [tea] = await system.submit("orders", {"product": "tea", "shop": "a"})
    await system.submit("orders", {"product": "mug", "shop": "a"})
    await system.drained()
    await balanced(system, accepted=2, stored={"documents": 2, "facts": 1}, dead=1)
    chosen = {"filter": {"stage": "facts", "code": "store_refused"}}
    refused = await decide(system, "replay", **chosen, patch=MOVE, dry_run=True)
    assert (refused["would_pass"], refused["reasons"][0]["code"]) == (0, "patch_failed")

    # The store refuses it still: another letter of the same block.
    await replay(system, **chosen)
    await balanced(system, accepted=2, stored={"documents": 2, "facts": 1}, dead=1)
    assert len((await system.ask("dead.show", id=tea))["history"]) == 2

    await sql(system, "ALTER TABLE facts.orders DROP CONSTRAINT no_tea")
    assert (await decide(system, "replay", **chosen, dry_run=True))["would_pass"] == 1
    await replay(system, **chosen)

    await balanced(system, accepted=2, stored={"documents": 2, "facts": 2}, dead=0, duplicates=0)
    assert (await system.ask("document", pipeline="orders", id=tea))["status"] == "stored"


async def test_a_conflict_is_left_out_and_an_id_that_is_taken_is_told_before(system: System) -> None:
    taken = new_id()
    await system.submit("orders", {"Product": "tea"}, ids=[taken])
    await system.submit("orders", {"product": "mug"}, ids=[taken])
    await system.submit("orders", {"product": "cup"}, ids=[taken])
    await system.drained()
    await balanced(system, accepted=3, dead=2)

    tried = await decide(system, "replay", ids=[taken], dry_run=True)
    by_patch = await decide(system, "replay", filter={"stage": "refine"}, patch=MOVE, dry_run=True)
    done = await replay(system, filter={"code": "idempotency_conflict"})

    assert tried["would_pass"] == 0
    assert {reason["code"] for reason in tried["reasons"]} == {"invalid_document", "idempotency_conflict"}
    assert by_patch["reasons"] == [{"code": "idempotency_conflict", "pointer": "", "count": 1}]
    assert (done["replayed"], done["left_out"]) == (0, 2)
    # Patched into a conflict all the same, and a conflict by force: each is refused once more.
    await replay(system, filter={"stage": "refine"}, patch=MOVE)
    await replay(system, filter={"code": "idempotency_conflict"}, force=True)
    await balanced(system, accepted=3, dead=2)


async def test_an_entity_keeps_its_newest_version_whatever_is_replayed(system: System) -> None:
    old, new = new_id(), new_id()
    await system.submit("members", {"nr": 1, "city": "Graz"}, ids=[old])
    await system.submit("members", {"number": 1, "city": "Wien"}, ids=[new])
    await system.drained()

    await replay(system, ids=[old], patch=[{"op": "move", "from": "/nr", "path": "/number"}])

    assert [row["city"] for row in await sql(system, "SELECT city FROM facts.members")] == ["Wien"]
    await balanced(system, "members", accepted=2, stored={"documents": 2, "facts": 2}, dead=0)


async def test_two_who_replay_the_same_at_once_replay_each_document_once(system: System) -> None:
    await system.submit("orders", *({"Product": "tea"} for _ in range(30)))
    await system.drained()

    both = await asyncio.gather(*(replay(system, filter={"pipeline": "orders"}, patch=MOVE) for _ in range(2)))

    ends = [await system.ask("dead.replay", id=one["id"]) for one in both]
    assert sum(one["replayed"] for one in ends) == 30
    await balanced(system, accepted=30, stored={"documents": 30, "facts": 30}, dead=0, duplicates=0)


class Crash(BaseException):
    """A process that is no more."""


@pytest.mark.parametrize("seam", ["marked", "published"])
async def test_a_replay_that_breaks_off_is_ended_by_another_and_loses_and_doubles_nothing(
    system: System, seam: str
) -> None:
    await system.submit("orders", *({"Product": "tea", "quantity": n} for n in range(10)))
    await system.submit("orders", {"bad": 1})
    await system.drained()
    action = await _crashed(system, Selection(pipeline="orders"), MOVE, seam)
    [row] = await sql(system, "SELECT count(*) AS n FROM dead_letters WHERE state = 'replaying'")
    assert row["n"] > 0
    on_its_way = await sql(system, "SELECT document_id FROM dead_letters WHERE state = 'replaying'")
    await system.until("document", {"problem": None}, pipeline="orders", id=str(on_its_way[0]["document_id"]))
    await system.until("ledger", {"pipelines": {"orders": {"accepted": 11, "balanced": True}}})

    await sql(system, "UPDATE dead_actions SET lease = now()")

    await system.until("dead.replay", {"state": "done", "replayed": 10, "left_out": 1}, id=action)
    await system.drained()
    await balanced(system, accepted=11, stored={"documents": 10, "facts": 10}, dead=1, duplicates=0)


async def _crashed(system: System, selection: Selection, patch: Any, seam: str) -> str:
    """Begin a replay in a process that is no more when it comes to a seam; return its id."""

    async def crash(where: str) -> None:
        if where == seam:
            raise Crash

    settings = system.settings
    async with (
        open_facts(settings.postgres_url.get_secret_value(), 10) as facts,
        open_publisher(system.bus, 5) as publisher,
    ):
        matched, last = await count(facts, selection)
        action = NewAction(
            id=new_id(),
            kind="replay",
            made_by="ada",
            token_id="key1",
            selection=json.dumps({"filter": {"pipeline": selection.pipeline}}),
            patch=json.dumps(patch),
            patch_sha256="",
            reason=None,
            rate=1000.0,
            force=False,
            matched=matched,
            last=last,
        )
        pipelines = load_pipelines(settings.pipelines)
        doomed = Actions(facts, publisher, system.topology, pipelines, settings.block, settings.dead_letters, crash)
        assert await doomed.begin(action, 10)
    return action.id
