"""A 202 means on disk: nats-server's own system calls show an fsync of the stream's file before every answer."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.system.system import System
from tests.system.test_exactly_once import body

STRACE = shutil.which("strace")


@dataclass(frozen=True)
class Call:
    """One system call of nats-server on a stream's file, or a PubAck that it sent, in order of their end."""

    kind: str
    file: str = ""


@pytest.fixture
async def trace(system: System, tmp_path: Path) -> AsyncIterator[Path]:
    """Follow nats-server's writes and fsyncs while the test runs; returns strace's file."""
    if STRACE is None:
        pytest.skip("strace is not installed; .ci/run installs it")
    output = tmp_path / "strace.txt"
    pid = system.pids()["nats"]
    calls = "trace=write,pwrite64,writev,sendto,sendmsg,fsync,fdatasync"
    process = await asyncio.create_subprocess_exec(
        STRACE, "-f", "-y", "-s", "400", "-e", calls, "-o", str(output), "-p", str(pid), stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr
    said = await asyncio.wait_for(process.stderr.readline(), 10)
    if b"attached" not in said:
        process.kill()
        pytest.skip(f"strace cannot follow nats-server here: {said.decode().strip()}")
    try:
        yield output
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGINT)
            await process.wait()


async def test_every_202_comes_after_an_fsync_of_the_streams_file(system: System, trace: Path) -> None:
    for number in range(5):
        status, _ = await system.post("invoices", body(f"D-{number}"))
        assert status == 202
    calls = await _calls(trace, acks=5)

    _check_each_ack_is_synced(calls, acks=5)


async def test_a_bulk_is_on_disk_before_its_202(system: System, trace: Path) -> None:
    many = b"\n".join(body(f"DB-{number}") for number in range(300))
    status, answer = await system.post("invoices", many, bulk=True)
    assert (status, answer["accepted"]) == (202, 300)
    calls = await _calls(trace, acks=1)

    _check_each_ack_is_synced(calls, acks=1)


def _check_each_ack_is_synced(calls: list[Call], *, acks: int) -> None:
    """Between a write to RAW's message file and the PubAck that follows it, that file is synced."""
    unsynced: set[str] = set()
    seen = 0
    for call in calls:
        if call.kind == "write":
            unsynced.add(call.file)
        elif call.kind == "sync":
            unsynced.discard(call.file)
        else:
            assert not unsynced, f"answered before fsync of {unsynced}"
            seen += 1
    assert seen >= acks, "strace saw no PubAck: the test proves nothing"
    assert any(call.kind == "write" for call in calls)
    assert any(call.kind == "sync" for call in calls)


async def _calls(trace: Path, *, acks: int) -> list[Call]:
    """Return the calls once strace has written as many PubAcks of RAW."""
    async with asyncio.timeout(20):
        while True:
            calls = _read(trace)
            if sum(call.kind == "ack" for call in calls) >= acks:
                return calls
            await asyncio.sleep(0.05)


def _read(trace: Path) -> list[Call]:
    return parse(trace.read_text(errors="replace"))


_FILE = re.compile(r"(?:write|pwrite64|writev|fsync|fdatasync)\(\d+<([^>]*)>")
_RAW_BLOCK = re.compile(r"/streams/RAW/msgs/\d+\.blk$")
_PUB_ACK = r"{\"stream\":\"RAW\""


def parse(text: str) -> list[Call]:
    """Return what matters of a trace. A call that another thread interrupts ends where it is resumed."""
    calls: list[Call] = []
    begun: dict[str, str] = {}
    for entry in text.splitlines():
        pid, _, rest = entry.partition(" ")
        rest = rest.strip()
        if rest.endswith("<unfinished ...>"):
            begun[pid] = rest
            continue
        if rest.startswith("<... "):
            rest = begun.pop(pid, "") + rest
        if _PUB_ACK in rest and ("socket:" in rest or "TCP" in rest):
            calls.append(Call("ack"))
            continue
        found = _FILE.search(rest)
        if found and _RAW_BLOCK.search(found[1]):
            kind = "sync" if "sync(" in rest else "write"
            calls.append(Call(kind, os.path.basename(found[1])))
    return calls


def test_the_check_sees_an_answer_that_came_too_early() -> None:
    write = '7 pwrite64(12</d/jetstream/$G/streams/RAW/msgs/1.blk>, "x", 1, 0) = 1'
    sync = "7 fsync(12</d/jetstream/$G/streams/RAW/msgs/1.blk>) = 0"
    ack = '8 write(9<TCP:[127.0.0.1:1->127.0.0.1:2]>, "MSG i 1 20\\r\\n{\\"stream\\":\\"RAW\\",\\"seq\\":1}", 40) = 40'

    _check_each_ack_is_synced(parse("\n".join([write, sync, ack])), acks=1)
    with pytest.raises(AssertionError, match="answered before fsync"):
        _check_each_ack_is_synced(parse("\n".join([write, ack, sync])), acks=1)
