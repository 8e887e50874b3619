"""What may be declared as a job, and when it is due."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from headrace.job import Job, JobDeclarationError, Missed, Run, is_missed, parse_schedule, retry_after, run_id


async def nothing(_run: Run) -> None:
    return None


def job(when: str = "@hourly", **more: Any) -> Job:
    return Job(name="mill", about="Grinds.", when=when, work=nothing, **more)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("when", "cron"),
    [
        ("* * * * *", "0 * * * * *"),
        ("*/2 * * * * *", "*/2 * * * * *"),
        ("@every 1s", "* * * * * *"),
        ("@every 60s", "0 * * * * *"),
        ("@every 5m", "0 */5 * * * *"),
        ("@every 24h", "0 0 0 * * *"),
        ("@hourly", "0 0 * * * *"),
        ("30 6 * * MON-FRI", "0 30 6 * * MON-FRI"),
    ],
)
def test_a_schedule_becomes_the_brokers_six_fields(when: str, cron: str) -> None:
    assert parse_schedule(when).cron == cron


@pytest.mark.parametrize(
    ("when", "zone", "said"),
    [
        ("bad", "UTC", "has 1 fields"),
        ("61 * * * *", "UTC", "bad minute"),
        ("0 0 31 2 *", "UTC", "bad day-of-month"),
        ("0 0 L * *", "UTC", "the broker does not take 'L' as day of month"),
        ("0 0 * * 7", "UTC", "0 or SUN for Sunday"),
        ("0 0 */2 * 1", "UTC", "not both"),
        ("@every 7s", "UTC", "does not divide a minute evenly"),
        ("@every 0s", "UTC", "is unknown"),
        ("@reboot", "UTC", "is unknown"),
        ("", "UTC", "has 0 fields"),
        ("@hourly", "Mars/Olympus", "no time zone 'Mars/Olympus'"),
        ("@hourly", "../etc/passwd", "no time zone"),
    ],
)
def test_a_schedule_that_is_none_is_refused_with_what_would_do(when: str, zone: str, said: str) -> None:
    with pytest.raises(JobDeclarationError, match="Job mill: ") as refused:
        job(when, zone=zone)

    assert said in refused.value.detail


@pytest.mark.parametrize(
    "wrong",
    [{"retries": -1}, {"backoff_seconds": 0}, {"grace_seconds": 0}, {"timeout_seconds": 0}, {"missed": "all"}],
)
def test_a_declaration_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(JobDeclarationError, match=f"Job mill: {next(iter(wrong))} is "):
        job(**wrong)


@pytest.mark.parametrize("name", ["", "Mill", "a.b", "a-b", "1a", "x" * 49])
def test_a_name_that_no_subject_could_hold_is_refused(name: str) -> None:
    with pytest.raises(JobDeclarationError, match="a name is"):
        Job(name=name, about="", when="@hourly", work=nothing)


@pytest.mark.parametrize(
    ("fired", "following", "due"),
    [
        # On time, a moment late, a moment early by the broker's clock, and hours late after a downtime.
        ("2026-11-25T22:00:00.000600", "2026-11-25T23:00:00", "2026-11-25T22:00:00"),
        ("2026-11-25T22:00:03", "2026-11-25T23:00:00", "2026-11-25T22:00:00"),
        ("2026-11-25T21:59:59.999900", "2026-11-25T23:00:00", "2026-11-25T22:00:00"),
        ("2026-11-25T22:41:07", "2026-11-25T23:00:00", "2026-11-25T22:00:00"),
        # Nobody said what is next.
        ("2026-11-25T22:41:07", None, "2026-11-25T22:00:00"),
    ],
)
def test_a_run_is_named_by_the_time_it_was_due_not_by_when_it_was_told(
    fired: str, following: str | None, due: str
) -> None:
    schedule = job().schedule

    assert schedule.due_at(at(fired), at(following) if following else None) == at(due)


def test_a_tick_each_second_that_comes_late_is_not_taken_for_the_next() -> None:
    schedule = parse_schedule("@every 1s")

    assert schedule.due_at(at("2026-11-25T22:00:00.900000"), at("2026-11-25T22:00:01")) == at("2026-11-25T22:00:00")


def test_hours_are_those_of_the_zone_in_summer_and_in_winter() -> None:
    schedule = parse_schedule("30 6 * * *", "Europe/Berlin")

    assert schedule.after(at("2026-07-01T00:00:00")) == at("2026-07-01T04:30:00")
    assert schedule.after(at("2026-12-01T00:00:00")) == at("2026-12-01T05:30:00")


def test_an_hour_that_comes_twice_in_autumn_has_two_runs_and_they_have_two_names() -> None:
    schedule = parse_schedule("30 2 * * *", "Europe/Berlin")
    first = schedule.after(at("2026-10-24T12:00:00"))

    assert run_id("mill", first) != run_id("mill", schedule.after(first))
    assert run_id("mill", first) == run_id("mill", first.astimezone(UTC))


@pytest.mark.parametrize(
    ("missed", "scheduled", "now", "gone"),
    [
        ("skip", "2026-11-25T22:00:00", "2026-11-25T22:00:59", False),
        ("skip", "2026-11-25T22:00:00", "2026-11-25T22:01:01", True),
        # Of the five that are late, the newest stands for all.
        ("once", "2026-11-25T18:00:00", "2026-11-25T22:30:00", True),
        ("once", "2026-11-25T21:00:00", "2026-11-25T22:30:00", True),
        ("once", "2026-11-25T22:00:00", "2026-11-25T22:30:00", False),
        # The next is due, but not late: it comes by itself.
        ("once", "2026-11-25T21:00:00", "2026-11-25T22:00:30", False),
    ],
)
def test_what_is_late_is_dropped_or_made_up_for_once(missed: Missed, scheduled: str, now: str, gone: bool) -> None:
    assert is_missed(job(missed=missed), at(scheduled), at(now)) is gone


def test_retries_wait_longer_each_time_and_end() -> None:
    tried = job(retries=3, backoff_seconds=300)

    assert [retry_after(tried, failures) for failures in (1, 2, 3, 4)] == [300, 600, 1200, None]
    assert retry_after(job(retries=20), 20) == 3600


def test_a_downtime_is_counted_without_its_ends_and_not_for_ever() -> None:
    schedule = job().schedule
    start = at("2026-11-25T18:00:00")

    assert schedule.between(start, start + timedelta(hours=5)) == 4
    assert schedule.between(start, start + timedelta(hours=1)) == 0
    assert schedule.between(start, start + timedelta(days=400)) == 1000
