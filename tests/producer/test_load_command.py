"""`headrace load` as a program: exit codes, what goes to stdout, the files it writes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

from aiohttp import web

from tests.producer.stand_in import PIPELINE, stand_in

_COMMAND = [sys.executable, "-c", "import typer; from cli.load import load; typer.run(load)"]


async def started(url: str, *arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *_COMMAND,
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "HEADRACE_URL": url, "HEADRACE_TOKEN": "t"},
    )


async def ran(url: str, *arguments: str) -> tuple[int, str, str]:
    process = await started(url, *arguments)
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_a_run_within_its_thresholds_ends_with_0_and_writes_both_reports(tmp_path: Path) -> None:
    async with stand_in() as server:
        code, out, err = await ran(
            server.url,
            *(PIPELINE, "-n", "50", "-t", "lost==0", "-t", "accepted==50"),
            *("--json", str(tmp_path / "run.json"), "--html", str(tmp_path / "run.html")),
        )

    assert code == 0, err
    assert "0 lost, 0 duplicated" in out
    assert "✓  lost==0" in out
    assert "\x1b[" not in out + err
    assert "sent 50" in err
    assert json.loads((tmp_path / "run.json").read_text())["counts"]["accepted"] == 50
    assert "<svg" in (tmp_path / "run.html").read_text() or "Sent" in (tmp_path / "run.html").read_text()


async def test_a_missed_threshold_ends_with_99() -> None:
    async with stand_in() as server:
        code, out, _ = await ran(server.url, PIPELINE, "-n", "20", "-t", "accepted>20", "-t", "lost==0")

    assert code == 99
    assert "✗  accepted>20" in out


async def test_books_that_do_not_balance_end_with_1() -> None:
    async with stand_in() as server:
        server.double = 3
        code, out, _ = await ran(server.url, PIPELINE, "-n", "20", "--settle-seconds", "0")

    assert code == 1
    assert "3 duplicated" in out


async def test_json_on_stdout_is_all_that_is_on_stdout() -> None:
    async with stand_in() as server:
        code, out, err = await ran(server.url, PIPELINE, "-n", "20", "--json", "-")

    assert code == 0
    assert json.loads(out)["proof"]["stored"] == 20
    assert "0 lost" in err


async def test_a_command_that_makes_no_sense_ends_with_2_and_a_hint() -> None:
    async with stand_in() as server:
        answers = [
            await ran(server.url, PIPELINE, *arguments)
            for arguments in (
                ["-t", "speed>9000"],
                ["--rate", "fast"],
                ["--client", "curl"],
                ["--file", "/nowhere.csv"],
            )
        ]

    assert [code for code, _, _ in answers] == [2, 2, 2, 2]
    assert ["no metric 'speed'" in answers[0][2], "100..1000" in answers[1][2], "aiohttp" in answers[2][2]] == [
        True
    ] * 3
    assert not any("Traceback" in err for _, _, err in answers)


async def test_a_gateway_that_is_away_ends_with_1_and_a_hint() -> None:
    async with stand_in() as server:
        url = server.url
    code, out, err = await ran(url, PIPELINE, "-n", "20")

    assert code == 1
    assert "headrace up" in err
    assert not out


async def test_ctrl_c_ends_the_sending_and_still_proves() -> None:
    enough = asyncio.Event()

    async def count(number: int, _: web.Request) -> None:
        if number == 100:
            enough.set()

    async with stand_in(count) as server:
        process = await started(server.url, PIPELINE, "-d", "600", "-c", "4")
        await enough.wait()
        process.send_signal(signal.SIGINT)
        out, _ = await process.communicate()

    assert process.returncode == 0
    assert "0 lost, 0 duplicated" in out.decode()
