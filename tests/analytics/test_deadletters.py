"""Dead letters: listed newest first, grouped by what they have in common, shown with their bytes."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from headrace.document import Block, new_id
from headrace.errors import DocumentError, RequestError
from tests.analytics.system import System


async def test_dead_letters_are_listed_newest_first_in_pages(system: System) -> None:
    bad = [(await system.submit("orders", {"n": n}))[0] for n in range(5)]
    [other] = await system.submit("members", {"number": "x"})
    await system.work()

    everything = await system.ask("dead.list")
    assert {item["id"] for item in everything["items"]} == {*bad, other}
    assert everything["next"] is None
    listed = []
    cursor = None
    while True:
        page = await system.ask("dead.list", pipeline="orders", code="invalid_document", limit=2, cursor=cursor)
        listed += page["items"]
        cursor = page["next"]
        if cursor is None:
            break
    assert sorted(item["id"] for item in listed) == sorted(bad)
    assert (await system.ask("dead.list", code="nothing"))["items"] == []
    item = next(one for one in listed if one["id"] == bad[0])
    assert item["errors"] == [{"pointer": "/product", "code": "missing", "message": item["errors"][0]["message"]}]
    del item["errors"], item["received_at"], item["dead_at"]
    assert item == {
        "id": bad[0],
        "pipeline": "orders",
        "stage": "refine",
        "code": "invalid_document",
        "reason": "The document breaks the schema of orders: /product.",
        "pointer": "/product",
        "attempts": 1,
        "sender": "me",
        "state": "dead",
        "replays": 0,
    }
    for cursor in ("x", "WzFd=", "W10", "WyIxIl0"):
        with pytest.raises(DocumentError) as refused:
            await system.ask("dead.list", cursor=cursor)
        assert refused.value.code == "invalid_cursor"


async def test_dead_letters_are_chosen_by_all_that_a_replay_chooses_by(system: System) -> None:
    [first] = await system.submit("orders", {"n": 1})
    await system.work()
    between = (await system.ask("dead.list"))["items"][0]["dead_at"]
    [second] = await system.submit("orders", {"product": "tea", "quantity": "many"})
    await system.work()

    async def found(**filters: Any) -> set[str]:
        listed = {item["id"] for item in (await system.ask("dead.list", **filters))["items"]}
        assert sum(group["count"] for group in await system.ask("dead.groups", **filters)) == len(listed)
        return listed

    assert await found(stage="refine") == {first, second}
    assert await found(stage="facts") == set()
    assert await found(pointer="/quantity") == {second}
    assert await found(after=between) == {second}
    assert await found(before=between) == set()
    with pytest.raises(DocumentError):
        await found(code="a\x00")


async def test_a_list_may_hold_the_bytes_and_ends_early_where_they_are_many(system: System) -> None:
    await system.submit("orders", b'{"\xc3\xbc":1}', b'"' + b"x" * 300_000 + b'"')
    for _ in range(15):
        await system.submit("orders", b'"' + b"x" * 300_000 + b'"')
    await system.work()

    pages = [await system.ask("dead.list", body=True)]
    while pages[-1]["next"]:
        pages.append(await system.ask("dead.list", body=True, cursor=pages[-1]["next"]))

    assert len(pages) == 2
    bodies = [item["body"] for page in pages for item in page["items"]]
    assert len(bodies) == 17
    assert '{"ü":1}' in bodies


async def test_dead_letters_are_grouped_by_stage_code_and_field(system: System) -> None:
    await system.submit("orders", {}, {"product": "tea", "quantity": "many"}, {})
    [last] = await system.submit("orders", {})
    await system.submit("members", {})
    await system.work()

    groups = await system.ask("dead.groups", pipeline="orders")

    assert [(group["pointer"], group["count"]) for group in groups] == [("/product", 3), ("/quantity", 1)]
    first = groups[0]
    assert (first["pipeline"], first["stage"], first["code"]) == ("orders", "refine", "invalid_document")
    assert first["first_at"] <= first["last_at"]
    sample = await system.ask("dead.show", id=first["sample_id"])
    assert sample["pointer"] == "/product"
    assert {group["pipeline"] for group in await system.ask("dead.groups")} == {"orders", "members"}
    assert last in {item["id"] for item in (await system.ask("dead.list"))["items"]}


async def test_a_dead_letter_is_shown_with_its_bytes_and_its_history(system: System) -> None:
    document_id = new_id()
    await system.submit("orders", {"product": "tea"}, ids=[document_id])
    await system.work()
    await system.submit("orders", b'{"product": 7}', ids=[document_id])
    await system.submit("orders", {"product": "mug"}, ids=[document_id])
    await system.work()

    shown = await system.ask("dead.show", id=document_id)

    assert len(shown["history"]) == 3
    refused = {(one["stage"], one["code"]) for one in shown["history"]}
    assert refused == {
        ("refine", "invalid_document"),
        ("documents", "idempotency_conflict"),
        ("facts", "idempotency_conflict"),
    }
    assert all(one["state"] == "dead" and one["attempts"] == 1 for one in shown["history"])
    [by_refine] = await system.submit("orders", '{"product": 7, "grüße": 1.00}'.encode())
    await system.work()
    shown = await system.ask("dead.show", id=by_refine)
    assert (shown["body"], shown["body_base64"]) == ('{"product": 7, "grüße": 1.00}', None)
    with pytest.raises(RequestError) as missing:
        await system.ask("dead.show", id=new_id())
    assert (missing.value.status, missing.value.code) == (404, "dead_letter_not_found")
    with pytest.raises(RequestError) as missing:
        await system.ask("dead.show", id="no id")
    assert missing.value.code == "dead_letter_not_found"


async def test_bytes_that_are_no_text_are_shown_in_base64(system: System) -> None:
    body = b"\xff\xfe no block at all"
    await system.publish(Block(new_id(), "orders", body, 1))
    await system.work()

    [item] = (await system.ask("dead.list"))["items"]
    shown = await system.ask("dead.show", id=item["id"])

    assert shown["body"] is None
    assert base64.b64decode(shown["body_base64"]) == body
    assert item["code"] == "malformed_json"
