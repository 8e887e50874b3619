"""Job: work that runs on a schedule; what may be declared, when it is due, and how long to wait after a failure. Pure.

A job is declared next to what it serves, in `<service>/jobs.py`, and run by that service. The broker keeps its
schedule (`headrace/messaging/schedules.py`), Postgres its history (`headrace/storage/job_runs.py`).
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, Final, Literal
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from headrace.document import derived_id, rfc3339
from headrace.errors import HeadraceError

SCHEDULED: Final = "schedule"
MANUAL: Final = "manual"
Cause = Literal["schedule", "manual"]
Missed = Literal["skip", "once"]
# What a run came to; the first three are not the last word.
QUEUED: Final = "queued"
RUNNING: Final = "running"
WAITING: Final = "waiting"
SUCCEEDED: Final = "succeeded"
FAILED: Final = "failed"
MISSED: Final = "missed"
ENDED: Final = frozenset({SUCCEEDED, FAILED, MISSED})
OUTCOMES: Final = (QUEUED, RUNNING, WAITING, SUCCEEDED, FAILED, MISSED)
# A run that takes its worker with it so often is given up: it would kill them all.
MOST_DEATHS: Final = 3
# More of them are not counted one by one.
MOST_MISSED: Final = 1000

JOB_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,47}")
_ALIASES: Final[Mapping[str, str]] = {
    "@yearly": "0 0 0 1 1 *",
    "@annually": "0 0 0 1 1 *",
    "@monthly": "0 0 0 1 * *",
    "@weekly": "0 0 0 * * 0",
    "@daily": "0 0 0 * * *",
    "@midnight": "0 0 0 * * *",
    "@hourly": "0 0 * * * *",
}
_EVERY: Final = re.compile(r"@every ([1-9][0-9]{0,4})([smh])")
_FIELDS: Final = ("second", "minute", "hour", "day of month", "month", "day of week")
_FIELD: Final = re.compile(r"[0-9A-Za-z*/,-]+")
# How early the broker's clock may seem to have fired.
_EARLY: Final = timedelta(seconds=0.5)


class JobDeclarationError(HeadraceError):
    """A job cannot be declared like this; the message names the job, the rule and what would do."""

    default_code = "job_declaration"


class JobFailedError(HeadraceError):
    """A job's own word that it failed; `detail` becomes the run's error.

    Args:
        result: what the run has found all the same.
    """

    default_code = "job_failed"

    def __init__(self, detail: str, *, result: Mapping[str, Any] | None = None) -> None:
        super().__init__(detail)
        self.result = result


@dataclass(frozen=True, slots=True)
class Run:
    """One run, as the job's work sees it.

    Attributes:
        id: the same for each attempt; effects under this id are made once however often the run is begun.
        scheduled_at: when the schedule wanted it, or when it was asked for.
        attempt: 1 for the first.
    """

    id: str
    job: str
    cause: Cause
    scheduled_at: datetime
    attempt: int


Work = Callable[[Run], Awaitable[Mapping[str, Any] | None]]


@dataclass(frozen=True, slots=True)
class Schedule:
    """When a job is due.

    Attributes:
        cron: six fields, seconds first, as the broker takes them.
    """

    cron: str
    zone: str

    def before(self, moment: datetime) -> datetime:
        """Return the last time it was due strictly before a moment, UTC."""
        return self._next(moment, reverse=True)

    def after(self, moment: datetime) -> datetime:
        """Return the next time it is due strictly after a moment, UTC."""
        return self._next(moment, reverse=False)

    def due_at(self, fired_at: datetime, next_at: datetime | None) -> datetime:
        """Return which time it was due when the broker fired; late after a downtime, so never simply `fired_at`.

        Args:
            next_at: when the broker said it fires next.
        """
        bound = fired_at + _EARLY
        return self.before(bound if next_at is None else min(bound, next_at))

    def between(self, since: datetime, until: datetime) -> int:
        """Return how often it was due after `since` and before `until`; at most `MOST_MISSED`."""
        count, moment = 0, since
        while count < MOST_MISSED and (moment := self.after(moment)) < until:
            count += 1
        return count

    def _next(self, moment: datetime, *, reverse: bool) -> datetime:
        local = moment.astimezone(zone_of(self.zone))
        return next(CronSim(self.cron, local, reverse=reverse)).astimezone(UTC)


@dataclass(frozen=True)
class Job:
    """A job.

    Attributes:
        name: what it is called everywhere; snake_case.
        about: one sentence for those who look at the list.
        when: cron with five fields, or six with seconds first; `@every 10s|5m|2h`; `@hourly`, `@daily`, …
        zone: whose hours and days the schedule means, such as Europe/Berlin.
        retries: attempts after the first that failed.
        backoff_seconds: the wait before the first retry; it doubles with each, up to an hour.
        missed: what becomes of runs that nobody could start within `grace_seconds`: `skip` drops them, `once` makes up
            for all of them with one run.
        timeout_seconds: an attempt that takes longer is ended, and has failed.
        work: what it does; returns what the history is to keep. Begun at least once a run, so its effects have to bear
            repetition: use the run's id.
        off: why it does not run here, such as a setting that is missing.
    """

    name: str
    about: str
    when: str
    work: Work
    zone: str = "UTC"
    retries: int = 0
    backoff_seconds: float = 60.0
    missed: Missed = "skip"
    grace_seconds: float = 60.0
    timeout_seconds: float = 600.0
    off: str | None = None
    schedule: Schedule = field(init=False)

    def __post_init__(self) -> None:
        """Check the declaration.

        Raises:
            JobDeclarationError: something in it cannot be.
        """
        if not JOB_NAME.fullmatch(self.name):
            raise JobDeclarationError(
                f"Job {self.name[:60]!r}: a name is small letters, digits and _, a letter first, at most 48."
            )
        rules = {
            "retries is at least 0": self.retries >= 0,
            "backoff_seconds is above 0": self.backoff_seconds > 0,
            "grace_seconds is at least 1": self.grace_seconds >= 1,
            "timeout_seconds is above 0": self.timeout_seconds > 0,
            "missed is 'skip' or 'once'": self.missed in ("skip", "once"),
        }
        for rule, holds in rules.items():
            if not holds:
                raise JobDeclarationError(f"Job {self.name}: {rule}.")
        try:
            object.__setattr__(self, "schedule", parse_schedule(self.when, self.zone))
        except ValueError as error:
            raise JobDeclarationError(f"Job {self.name}: {error}") from None


def parse_schedule(when: str, zone: str = "UTC") -> Schedule:
    """Return a schedule.

    Raises:
        ValueError: it is none; the message says what is wrong and what would do.
    """
    zone_of(zone)
    cron = _cron_of(when.strip())
    try:
        moment = datetime(2024, 1, 1, tzinfo=UTC)
        # The first time it is due tells 31 February from a day that comes.
        next(CronSim(cron, moment))
    except CronSimError as error:
        reason = str(error)
        raise ValueError(f"the schedule {when[:80]!r} is no cron: {reason[:1].lower() + reason[1:]}. {_HELP}") from None
    except StopIteration:
        raise ValueError(f"the schedule {when[:80]!r} never comes due. {_HELP}") from None
    return Schedule(cron, zone)


_HELP: Final = (
    "Write five fields (minute hour day month weekday), six with seconds first, `@every 10s`, or `@hourly`; "
    "`*/5 * * * *` is every five minutes."
)


def _cron_of(when: str) -> str:
    if when in _ALIASES:
        return _ALIASES[when]
    if when.startswith("@"):
        return _cron_of_interval(when)
    fields = when.split()
    if len(fields) == 5:
        fields = ["0", *fields]
    if len(fields) != 6:
        raise ValueError(f"the schedule {when[:80]!r} has {len(fields)} fields. {_HELP}")
    for name, text in zip(_FIELDS, fields, strict=True):
        # cronsim knows more than the broker: L, W, # and a Sunday called 7.
        odd = not _FIELD.fullmatch(text) or (name == "day of month" and re.search(r"[A-Za-z]", text))
        if name == "day of week":
            odd = odd or re.search(r"7|[0-9]L|^L$", text, re.IGNORECASE)
        if odd:
            raise ValueError(
                f"the schedule {when[:80]!r}: the broker does not take {text[:20]!r} as {name}; "
                "use numbers, names, `*`, `,`, `-` and `/`, with 0 or SUN for Sunday."
            )
    day, weekday = fields[3], fields[5]
    if day != "*" and weekday != "*" and "*" in (day[0], weekday[0]):
        # Cron's implementations do not agree whether both or either has to hold.
        raise ValueError(f"the schedule {when[:80]!r}: give a step for the day of month or the weekday, not both.")
    return " ".join(fields)


def _cron_of_interval(when: str) -> str:
    """Return an interval as cron, so that it is aligned to the clock and each time it is due has a name."""
    found = _EVERY.fullmatch(when)
    if found is None:
        raise ValueError(f"the schedule {when[:80]!r} is unknown. {_HELP}")
    count, unit = int(found[1]), found[2]
    most = {"s": 60, "m": 60, "h": 24}[unit]
    if most % count:
        larger = {"s": "minute", "m": "hour", "h": "day"}[unit]
        fitting = ", ".join(str(n) for n in range(1, most + 1) if most % n == 0)
        raise ValueError(f"the schedule {when!r} does not divide a {larger} evenly; one of {fitting} does.")
    step = "*" if count == 1 else "0" if count == most else f"*/{count}"
    # A whole minute, hour or day is the next unit's every one.
    return {"s": f"{step} * * * * *", "m": f"0 {step} * * * *", "h": f"0 0 {step} * * *"}[unit]


def zone_of(name: str) -> tzinfo:
    """Return a time zone.

    Raises:
        ValueError: there is none of that name.
    """
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (OSError, ValueError, LookupError):
        raise ValueError(f"there is no time zone {name[:60]!r}; write one as Europe/Berlin or UTC.") from None


def run_id(job: str, scheduled_at: datetime) -> str:
    """Return the id of a scheduled run: the same for whoever is told of it, and however often."""
    return derived_id("job", job, rfc3339(scheduled_at))


def is_missed(job: Job, scheduled_at: datetime, now: datetime) -> bool:
    """Return whether a run that was not begun is to be let go, by the job's policy.

    Of many that are late, `once` keeps the newest, which stands for all.
    """
    grace = timedelta(seconds=job.grace_seconds)
    if now - scheduled_at <= grace:
        return False
    return job.missed == "skip" or job.schedule.after(scheduled_at) <= now - grace


def retry_after(job: Job, failures: int) -> float | None:
    """Return the wait before the next attempt, in seconds; None when that was the last.

    Args:
        failures: attempts that failed so far, at least 1; a worker's death is none.
    """
    if failures > job.retries:
        return None
    return min(3600.0, job.backoff_seconds * 2.0 ** (failures - 1))
