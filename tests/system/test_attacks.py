"""A whole Headrace under attack: whatever is sent it answers as promised, loses no process and tells no secret."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import quote, urlsplit

import aiohttp
import nats
import pytest
from yarl import URL

from headrace.registry import load_pipelines
from tests.fuzz.settings import EXAMPLES, SEED
from tests.system.system import ROOT, System

_PATIENCE_SECONDS = 150


# Bytes that some decoder or store behind would choke on, under the name of what is wrong with them.
POISON: Final[dict[str, bytes]] = {
    "nothing": b"",
    "white space": b" \n\t",
    "a number": b"17",
    "null": b"null",
    "a text": b'"hello"',
    "half of a document": b'{"InvoiceNo":"536365","StockCode":',
    "two documents": b"{} {}",
    "a comment": b"{/**/}",
    "single quotes": b"{'InvoiceNo':'1'}",
    "a byte order mark": b"\xef\xbb\xbf{}",
    "UTF-16": "{}".encode("utf-16"),
    "Latin-1": '{"Description":"caf\xe9"}'.encode("latin-1"),
    "gzip": gzip.compress(b"{}"),
    "zeros": bytes(1000),
    "every byte": bytes(range(256)),
    "brackets, 100,000 deep": b"[" * 100_000,
    "objects, 100,000 deep": b'{"a":' * 100_000,
    "objects, 65 deep and closed": b'{"a":' * 65 + b"1" + b"}" * 65,
    "a text that does not end": b'{"a":"' + b"\\" * 100_001,
    "10,000 keys": b"{%b}" % b",".join(b'"k%d":1' % number for number in range(10_000)),
    "a key of 200 KB": b'{"%b":1}' % (b"k" * 200_000),
    "not a number": b'{"Quantity":NaN}',
    "without end": b'{"UnitPrice":Infinity}',
    "an exponent beyond a double": b'{"UnitPrice":1e400}',
    "an exponent of 10,000 digits": b'{"UnitPrice":1e%b}' % (b"9" * 10_000),
    "an integer of 10,000 digits": b'{"Quantity":%b}' % (b"9" * 10_000),
    "an integer beyond 64 bits": b'{"Quantity":9223372036854775808}',
    "U+0000 in a text": b'{"Country":"a\\u0000b"}',
    "U+0000 in a key": b'{"a\\u0000b":1}',
    "half of a surrogate pair": b'{"Country":"\\ud800"}',
    "an operator of MongoDB": b'{"$where":"sleep(10000)"}',
    "an operator as a value": b'{"InvoiceNo":{"$ne":null}}',
    "a key with a dot": b'{"InvoiceNo.x":1}',
    "a prototype": b'{"__proto__":{"admin":true}}',
    "SQL": b'{"InvoiceNo":"1\'); DROP TABLE facts.invoices; --"}',
    "a time that is none": b'{"InvoiceNo":"1","InvoiceDate":"9999-99-99T99:99:99Z"}',
    "a time before all": b'{"InvoiceNo":"1","InvoiceDate":"0000-00-00T00:00:00Z"}',
}
# Values of filters, sorts and cursors that would be more than values in a careless query.
INJECTIONS: Final = (
    *("' OR '1'='1", "1; DROP TABLE facts.invoices", "1 UNION SELECT usename, passwd FROM pg_shadow --", "%27"),
    *('{"$ne": null}', '{"$gt": ""}', "[$ne]", "$where", '";sleep(10000);"', "this.password"),
    *(
        "(a+)+" * 2000,
        ".*" * 5000,
        "\\",
        "\x00",
        "a\r\nSet-Cookie: admin=1",
        "../../etc/passwd",
        "{{7*7}}",
        "${jndi:ldap://x}",
    ),
    *("NaN", "1e309", "9" * 400, "-0", "\u202e", "\U0001f600" * 500, "<script>alert(1)</script>"),
)


REFUSALS: Final = frozenset({"malformed_json", "invalid_document", "too_deep", "too_large"})


@pytest.fixture(scope="module")
async def system(own_system: System) -> System:
    return own_system


async def test_poison_is_refused_at_the_door_and_dead_lettered_behind_it(system: System) -> None:
    before, pids = await system.books("invoices"), system.pids()
    for name, body in POISON.items():
        for pipeline in ("invoices", "licenses", "deliveries"):
            for headers in ({}, {"Idempotency-Key": secrets.token_hex(8)}):
                async with system.session.post(
                    f"{system.url}/v1/documents/{pipeline}",
                    data=body,
                    headers={"Content-Type": "application/json", **headers},
                ) as answer:
                    problem = await answer.json(content_type=None)
                    assert 400 <= answer.status < 500, (name, pipeline, answer.status)
                    assert problem["code"] in {"malformed_json", "invalid_document", "too_deep", "too_large"}, (
                        name,
                        problem,
                    )

    client = await nats.connect(system.facts["nats_url"])
    stream = client.jetstream()
    for body in POISON.values():
        await stream.publish("ingest.invoices", body)
    # What claims to be a block and is none ends there, too.
    for body in POISON.values():
        await stream.publish("raw.invoices", body)
    await client.close()
    after = await system.drained("invoices")

    assert after["dead"] - before.get("dead", 0) == 2 * len(POISON)
    assert after["balanced"]
    assert system.pids() == pids
    await system.ready()


async def test_no_value_of_a_filter_becomes_more_than_a_value(system: System) -> None:
    asked: list[tuple[str, dict[str, str]]] = []
    for value in INJECTIONS:
        asked += [
            ("/v1/documents/invoices", {"country": value}),
            ("/v1/documents/invoices", {"quantity": value}),
            ("/v1/documents/invoices", {value: "1"}),
            ("/v1/documents/invoices", {"country[$ne]": value}),
            ("/v1/documents/invoices", {"sort": value}),
            ("/v1/documents/invoices", {"cursor": value}),
            ("/v1/documents/licenses", {"license_nbr": value}),
            ("/api/licenses/trend", {"granularity": value}),
            ("/v1/dead-letters", {"pipeline": value}),
            ("/v1/dead-letters", {"code": value}),
            ("/v1/dead-letters", {"cursor": value}),
            ("/v1/audit", {"actor": value}),
            ("/v1/audit", {"since": value}),
        ]
        segment = quote(value, safe="")
        asked += [
            (f"/v1/documents/invoices/{segment}", {}),
            (f"/v1/analytics/invoices/{segment}", {}),
            (f"/v1/dead-letters/{segment}", {}),
            (f"/v1/jobs/{segment}", {}),
        ]
    for path, params in asked:
        url = URL(f"{system.url}{path}", encoded=True).with_query(params)
        async with system.session.get(url) as answer:
            found = await answer.json(content_type=None)
            assert answer.status in (200, 400, 404, 414, 422, 431), (path, params, answer.status)
            # As a value it matches nothing.
            if answer.status == 200 and "items" in found:
                assert found["items"] == [], (path, params)
            assert "Set-Cookie" not in answer.headers
    assert (await system.get("/v1/ledger"))["pipelines"]["invoices"]["balanced"]


async def test_many_logins_at_once_hold_up_no_document(system: System) -> None:
    document = json.dumps(dict(load_pipelines()["searches"].example)).encode()
    over = asyncio.Event()

    async def ingest() -> list[int]:
        statuses = []
        while not over.is_set():
            status, _ = await system.post("searches", document)
            statuses.append(status)
        return statuses

    async def log_in(number: int) -> int:
        body = {"username": f"nobody{number % 40}" if number % 2 else "admin", "password": f"guess number {number}"}
        async with session.post(f"{system.url}/v1/auth/token", json=body) as answer:
            problem = await answer.json()
            assert problem["code"] in {"invalid_credentials", "too_many_logins", "logins_saturated"}, problem
            assert ("Retry-After" in answer.headers) == (answer.status in (429, 503))
            return answer.status

    connector = aiohttp.TCPConnector(limit=200)
    async with aiohttp.ClientSession(connector=connector) as session, asyncio.TaskGroup() as tasks:
        ingesting = [tasks.create_task(ingest()) for _ in range(4)]
        logins = await asyncio.gather(*(log_in(number) for number in range(200)))
        over.set()
    statuses = [task.result() for task in ingesting]

    # How many there are says how busy the machine is.
    assert all(set(of_one) == {202} for of_one in statuses)
    # Most are turned away before they cost anything.
    assert logins.count(401) < 150
    assert set(logins) <= {401, 429, 503}


async def test_no_request_gets_an_answer_that_openapi_does_not_know(system: System) -> None:
    few = ("--phases", "fuzzing", "--max-examples", "5")
    whole = ("--phases", "examples,coverage,fuzzing,stateful", "--max-examples", str(EXAMPLES))
    said = await _tried(system, *(whole if EXAMPLES else few))

    assert int(re.search(r"Tested: (\d+)", said)[1]) > 40  # type: ignore[index]  # the line has to be there


async def test_no_border_case_of_a_parameter_or_body_gets_an_unknown_answer(system: System) -> None:
    # It takes every field of every body and filter: one pipeline stands for the others.
    some = "^/v1/(auth|audit|dead|analytics|pipelines|jobs|schemas)|^/api/|/searches"
    wanted = ("--include-path-regex", some, "--max-examples", "1")
    said = await _tried(system, "--phases", "coverage", *wanted)

    assert int(re.search(r"(\d+) generated", said)[1]) > 300  # type: ignore[index]


async def test_no_secret_and_no_document_is_in_a_log_an_argument_or_a_child_s_environment(system: System) -> None:
    """The last of this file: the logs hold all that was tried before, too."""
    mark = secrets.token_hex(8)
    account = {"username": f"user{mark}", "password": f"password-{mark}"}
    told: list[str] = [f"password-{mark}", f"body-{mark}", f"wrong-{mark}", f"token-{mark}", f"header-{mark}"]
    async with aiohttp.ClientSession(system.url) as session:
        await session.post("/v1/auth/register", json=account)
        async with session.post("/v1/auth/token", json=account) as answer:
            pair = await answer.json()
        bearer = {"Authorization": f"Bearer {pair['access_token']}"}
        async with session.post(
            "/v1/auth/keys", json={"name": "k", "scopes": ["documents:write"]}, headers=bearer
        ) as answer:
            key = (await answer.json())["key"]
        async with session.post("/v1/auth/refresh", json={"refresh_token": pair["refresh_token"]}) as answer:
            second = await answer.json()
        told += [pair["access_token"], pair["refresh_token"], key, second["access_token"], second["refresh_token"]]
        # Wrong in every way: a refused login, a name that is a password, a token that is none, headers, bodies.
        await session.post("/v1/auth/token", json={**account, "password": f"wrong-{mark}"})
        await session.post("/v1/auth/token", json={"username": f"wrong-{mark}", "password": "x"})
        await session.get("/v1/auth/me", headers={"Authorization": f"Bearer token-{mark}"})
        await session.get(f"/v1/pipelines/body-{mark}", headers={"X-Request-Id": f"header-{mark} "})
        for body in (f'{{"Country":"body-{mark}"}}', f'{{"body-{mark}":1}}', f"body-{mark}"):
            await session.post("/v1/documents/invoices", data=body, headers={"Authorization": f"Bearer {key}"})
    example = dict(load_pipelines()["invoices"].example)
    accepted = json.dumps({**example, "Description": f"body-{mark}"}).encode()
    await system.submit("invoices", accepted, key=f"key-{mark}")
    client = await nats.connect(system.facts["nats_url"])
    await client.jetstream().publish("ingest.invoices", f'{{"body-{mark}":"body-{mark}"}}'.encode())
    await client.close()
    await system.drained("invoices")

    state = json.loads((system.directory / "state.json").read_text())
    kept = [*_texts(state), *(urlsplit(system.facts[f"{name}_url"]).password or "" for name in ("nats", "redis"))]
    told += [secret for secret in kept if len(secret) >= 16]
    assert len(told) > 14
    logs = {path.name: path.read_text(errors="replace") for path in (system.directory / "logs").iterdir()}
    assert {"gateway.log", "auth.log", "workers.log", "analytics.log"} <= set(logs)
    assert any(f"user{mark}" in text for text in logs.values())
    for name, text in logs.items():
        assert [secret[:12] for secret in told if secret in text] == [], name
    for name, pid in {**system.pids(), "up": system.process.pid}.items():
        assert [secret[:12] for secret in told if secret in _of_process(pid, "cmdline")] == [], name
        environment = _of_process(pid, "environ")
        if name in ("nats", "mongo", "postgres", "valkey"):
            assert "HEADRACE" not in environment
        if name == "gateway":
            assert not any(scheme in environment for scheme in ("postgresql://", "mongodb://", "redis://"))
    for name in ("state.json", "up.json", "logs", "nats", "mongo", "postgres", "valkey"):
        mode = (system.directory / name).stat().st_mode
        assert mode & 0o077 == 0, (name, oct(mode))


def _of_process(pid: int, what: str) -> str:
    return Path(f"/proc/{pid}/{what}").read_text(errors="replace")


def _texts(value: object) -> Iterator[str]:
    """Yield every text in a JSON value."""
    match value:
        case str():
            yield value
        case dict():
            for one in value.values():
                yield from _texts(one)
        case list():
            for one in value:
                yield from _texts(one)


async def _tried(system: System, *arguments: str) -> str:
    """Run schemathesis; return what it says where it finds nothing."""
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).with_name("schemathesis")),
        *("--config-file", "tests/fuzz/schemathesis.toml", "run", f"{system.url}/openapi.json"),
        *("--header", f"Authorization: {system.session.headers['Authorization']}", "--seed", str(SEED), "--no-color"),
        *arguments,
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        told, _ = await asyncio.wait_for(process.communicate(), None if EXAMPLES else _PATIENCE_SECONDS)
    finally:
        if process.returncode is None:
            process.kill()
    said = told.decode()
    assert process.returncode == 0, said
    return said
