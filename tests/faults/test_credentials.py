"""What opens the door changes under load: the signing key rotates, a session is revoked."""

from __future__ import annotations

import asyncio
import json
import sys

import asyncpg
from jose import jwt

from tests.faults.conftest import SEED, Books
from tests.faults.journal import FAIL, OK
from tests.faults.producer import open_producers, sending
from tests.faults.stack import ROOT, Stack
from tests.faults.test_links import answers
from tests.servers import until


async def test_a_rotated_key_refuses_nobody_and_a_revoked_token_opens_nothing_any_more(
    stack: Stack, books: Books
) -> None:
    pids = dict(stack.pids)
    async with books.producers(singles=3) as producers, sending(producers, per_second=50):
        kid = await rotated(stack)
        await let_it_sign(stack)
        fresh = await stack.log_in()
        assert jwt.get_unverified_header(fresh)["kid"] == kid != jwt.get_unverified_header(stack.token)["kid"]
        async with open_producers(books.folder, SEED, stack.url, fresh, singles=1, bulks=0, prefix="revoked-") as [
            holder
        ]:
            assert await holder.send() == OK
            async with stack.session.post(f"{stack.url}/v1/auth/revoke", json={"token": fresh}) as answer:
                assert answer.status == 204
            async with asyncio.timeout(10):
                while await holder.send(deadline_seconds=0) == OK:
                    pass
            assert {await holder.send(deadline_seconds=0) for _ in range(20)} == {FAIL}
            assert (answers(holder)[-1].status, answers(holder)[-1].code) == (401, "token_revoked")
        # Those with the old key's token go on all the while.
        since = [one.accepted for one in producers]
        await until(lambda: all(one.accepted > before for one, before in zip(producers, since, strict=True)))
    refused = [one for producer in producers for one in answers(producer) if one.result != OK]

    assert refused == []
    assert dict(stack.pids) == pids
    await books.hold(meant={"token_revoked"})


async def rotated(stack: Stack) -> str:
    """Rotate the signing key as an operator does; return the new one's id."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cli.main", "key", "rotate-signing", "--json"),
        cwd=ROOT,
        env={"HEADRACE_NATS_URL": stack.servers.nats_url, "PATH": ""},
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    return str(json.loads(output)["kid"])


async def let_it_sign(stack: Stack) -> None:
    """Let the time be over that a new key waits for the gateways to learn of it."""
    connection = await asyncpg.connect(stack.stores.postgres_url)
    await connection.execute("UPDATE auth.signing_keys SET signs_from = now() WHERE signs_from > now()")
    await connection.close()
