"""send, get, tail: what goes out, what comes back, and with which exit code."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

from tests.cli.stand_in import PIPELINE, TOKEN, Ended, StandIn, ended, start

Run = Callable[..., Awaitable[Ended]]


def lines(*documents: object) -> bytes:
    return b"".join(json.dumps(document).encode() + b"\n" for document in documents)


async def test_each_line_gets_its_id(run: Run, gateway: StandIn) -> None:
    result = await run("send", PIPELINE, "-", stdin=lines({"a": 1}, {"a": 2}))

    assert result.code == 0
    assert [(line["line"], line["status"]) for line in result.lines] == [(1, "accepted"), (2, "accepted")]
    assert len({line["id"] for line in result.lines}) == 2
    assert gateway.posts[0][2] == [{"a": 1}, {"a": 2}]


async def test_a_refused_line_comes_back_with_its_rules_and_exit_1(run: Run) -> None:
    result = await run("send", PIPELINE, "-", stdin=b'{"a":1}\n\n{"bad":true}\nnot json\n')

    assert result.code == 1
    assert [line["line"] for line in result.lines] == [1, 3, 4]
    assert result.lines[1]["errors"] == [{"pointer": "/bad", "code": "forbidden", "message": "Be good."}]
    assert "1 accepted, 2 refused" in result.err


async def test_all_refused_is_told_line_by_line(run: Run) -> None:
    result = await run("send", PIPELINE, "-", stdin=lines({"bad": True}))

    assert result.code == 1
    assert [line["status"] for line in result.lines] == [422]


async def test_a_document_over_several_lines_is_one(run: Run, gateway: StandIn, tmp_path: Path) -> None:
    (tmp_path / "one.json").write_text(json.dumps({"a": 1}, indent=2))
    result = await run("send", PIPELINE, "one.json")

    assert (result.code, [line["item"] for line in result.lines]) == (0, [1])
    assert gateway.posts[0][2] == [{"a": 1}]


async def test_an_array_is_its_items(run: Run, gateway: StandIn, tmp_path: Path) -> None:
    (tmp_path / "many.json").write_text(json.dumps([{"a": 1}, {"bad": True}, {"a": 3}], indent=1))
    result = await run("send", PIPELINE, "many.json")

    assert (result.code, [line["item"] for line in result.lines]) == (1, [1, 2, 3])
    assert gateway.posts[0][2] == [{"a": 1}, {"bad": True}, {"a": 3}]


async def test_an_array_that_is_no_json_is_one_line_of_talk(run: Run, gateway: StandIn) -> None:
    result = await run("send", PIPELINE, "-", stdin=b'[{"a":1},')

    assert (result.code, result.out) == (1, "")
    assert result.err.startswith("headrace: The array is not JSON")
    assert len(result.err.splitlines()) == 1
    assert gateway.posts == []


async def test_the_same_input_under_a_prefix_has_the_same_ids(run: Run, gateway: StandIn) -> None:
    command = ("send", PIPELINE, "-", "--key-prefix", "batch-7")
    first = await run(*command, stdin=lines({"a": 1}, {"a": 2}))
    second = await run(*command, stdin=lines({"a": 1}, {"a": 2}))

    assert first.code == second.code == 0
    assert first.out == second.out
    assert [post[0] for post in gateway.posts] == ["batch-7-1", "batch-7-1"]


async def test_a_line_goes_at_once_while_the_pipe_stays_open(tmp_path: Path, gateway: StandIn) -> None:
    environment = {"HEADRACE_URL": gateway.url, "HEADRACE_TOKEN": TOKEN}
    process = await start(tmp_path, "send", PIPELINE, "-", stdin=asyncio.subprocess.PIPE, environment=environment)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(lines({"a": 1}))
    await process.stdin.drain()
    answer = json.loads(await asyncio.wait_for(process.stdout.readline(), 30))

    # And Ctrl-C ends a command that waits for more.
    process.send_signal(signal.SIGINT)
    result = await ended(process)
    assert answer["line"] == 1
    assert result.code == 130
    assert "Traceback" not in result.err


async def test_a_pipeline_without_a_key_gets_one_a_run_so_that_a_retry_is_safe(run: Run, gateway: StandIn) -> None:
    gateway.failures = [503, 429]
    result = await run("send", PIPELINE, "-", stdin=lines({"a": 1}))

    assert result.code == 0
    assert len(gateway.posts) == 1
    assert (gateway.posts[0][0] or "").startswith("send-")
    assert "Trying again" in result.err


async def test_documents_with_a_key_of_their_own_get_no_other(run: Run, gateway: StandIn) -> None:
    gateway.natural_key = ["a"]
    await run("send", PIPELINE, "-", stdin=lines({"a": 1}))

    assert gateway.posts[0][0] is None


async def test_what_is_too_large_together_goes_alone_under_the_same_keys(run: Run, gateway: StandIn) -> None:
    gateway.most_bytes = 60
    sent = lines({"a": "x" * 40}, {"a": "y" * 40}, {"a": "z" * 100})
    result = await run("send", PIPELINE, "-", "--key-prefix", "k", stdin=sent)

    assert result.code == 1
    assert [post[0] for post in gateway.posts] == ["k-1/0", "k-1/1"]
    assert [(line["line"], line["status"]) for line in result.lines] == [(1, "accepted"), (2, "accepted"), (3, 413)]


async def test_wait_tells_where_the_documents_are(run: Run) -> None:
    result = await run("send", PIPELINE, "-", "--wait", "5", stdin=lines({"a": 1}))

    assert [line["status"] for line in result.lines] == ["stored"]
    assert "1 stored" in result.err


async def test_nothing_to_send_is_said(run: Run) -> None:
    result = await run("send", PIPELINE, "-", stdin=b"\n \n")

    assert (result.code, result.out, result.err) == (0, "", "There was no document to send.\n")


async def test_what_a_user_gets_wrong_is_one_line(run: Run) -> None:
    cases: list[tuple[list[str], dict[str, str], int, str]] = [
        (["send", PIPELINE, "nofile"], {}, 1, "nofile: No such file or directory"),
        (["send", PIPELINE, "."], {}, 1, ".: Is a directory"),
        (["send", "nope", "-"], {}, 1, "There is no pipeline 'nope'; there are: things."),
        (["get", PIPELINE, "x"], {"HEADRACE_TOKEN": "wrong"}, 1, "--token or HEADRACE_TOKEN"),
        (["get", PIPELINE, "x"], {"HEADRACE_TOKEN": "a b"}, 2, "no token has"),
        (["get", PIPELINE, "x"], {"HEADRACE_URL": "http://127.0.0.1:1"}, 1, "connection refused"),
        (["get", PIPELINE, "x"], {"HEADRACE_URL": "127.0.0.1:1"}, 2, "http://HOST:PORT"),
        (["get", PIPELINE, "x"], {"HEADRACE_URL": ""}, 2, "`headrace up`"),
        (["get", PIPELINE, "x"], {}, 1, "has accepted no document of this id"),
        (["tail", PIPELINE, "--since", "soon"], {}, 2, "--since 'soon' is neither"),
    ]
    results = await asyncio.gather(*(run(*arguments, **environment) for arguments, environment, _, _ in cases))

    for (arguments, _, code, words), result in zip(cases, results, strict=True):
        assert (arguments, result.code, result.out) == (arguments, code, "")
        assert words in result.err
        assert len(result.err.splitlines()) == 1


async def test_a_document_is_shown_as_json(run: Run, gateway: StandIn) -> None:
    found = gateway.store(1, a=1)
    result = await run("get", PIPELINE, found)

    assert (result.code, result.lines[0]["id"], result.lines[0]["status"]) == (0, found, "stored")


async def test_tail_follows_what_is_stored_from_now_on_until_interrupted(tmp_path: Path, gateway: StandIn) -> None:
    for seconds in range(5):
        gateway.store(seconds, old=seconds)
    environment = {"HEADRACE_URL": gateway.url, "HEADRACE_TOKEN": TOKEN}
    process = await start(tmp_path, "tail", environment=environment)
    assert process.stderr is not None
    assert process.stdout is not None
    assert b"Following things" in await asyncio.wait_for(process.stderr.readline(), 30)
    found = [gateway.store(6, new=1), gateway.store(7, new=2)]
    shown = [json.loads(await asyncio.wait_for(process.stdout.readline(), 30)) for _ in found]
    process.send_signal(signal.SIGINT)
    result = await ended(process)

    assert [one["id"] for one in shown] == found
    assert shown[0]["pipeline"] == PIPELINE
    assert (result.code, result.out, result.err) == (130, "", "")
