"""The reports: JSON for programs, HTML that needs nothing but itself, and what a terminal shows."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from html.parser import HTMLParser

import msgspec
import pytest
from rich.console import Console

from producer.figures import count, duration, share
from producer.latency import Histogram
from producer.live import line, screen, sparkline
from producer.load_config import LoadConfig, Progress
from producer.load_result import LoadResult
from producer.proof import Proof
from producer.report import html_report
from producer.schedule import Rate
from producer.summary import summary
from producer.tally import ACCEPT, SERVICE, STORED, Counts, Interval, Totals
from producer.target import Headrace
from producer.thresholds import Verdict

NASTY = "</script><script>alert(1)</script>"


def encoded(*milliseconds: float) -> str:
    histogram = Histogram()
    for value in milliseconds:
        histogram.record(value / 1000)
    return histogram.encode()


def result_of(*, proof: Proof | None = None, limits: list[str] | None = None) -> LoadResult:
    totals = Totals()
    latencies: Mapping[str, str] = {
        ACCEPT: encoded(*range(1, 90)),
        SERVICE: encoded(*range(1, 90)),
        STORED: encoded(80),
    }
    for second in (1, 2, 3):
        totals.add(
            Interval(
                0,
                float(second),
                Counts(requests=100, sent=100, accepted=89, refused=9, failed=2, unknown=1),
                {f"invalid_document /{NASTY} missing": 9},
                {"timeout": 2},
                dict(latencies),
                0.1,
                0.0,
            )
        )
    config = LoadConfig(Headrace("http://127.0.0.1:8080", token="s3cret"), "things", rate=Rate(100, 100))
    return LoadResult(
        config=config,
        run_id="r1",
        started_at="2026-01-01T00:00:00.000Z",
        elapsed_seconds=3.0,
        processes=1,
        total_requests=300,
        totals=totals,
        proof=proof
        or Proof("ids", 267, 267, {"documents": 267, "facts": 267}, 0, 0, 0, 0, settled=True, balanced=True),
        limits=limits or [],
        notes=["A note."],
        server_version="1",
        thresholds=[Verdict("accept.p99<50ms", 0.089, False), Verdict("lost==0", 0, True)],
    )


class Page(HTMLParser):
    """Collects what a browser would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loaded += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]


def test_the_html_report_needs_nothing_from_the_network() -> None:
    text = html_report(result_of())
    page = Page(text)

    assert page.loaded == []
    assert not {"link", "img", "iframe", "object", "embed", "base"} & set(page.tags)
    # The gateway's address is there to be read, not to be fetched.
    assert set(re.findall(r"(?:https?:)?//[\w.:-]+", text)) <= {"http://127.0.0.1:8080", "//127.0.0.1:8080"}
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest|import\(", text)


def test_what_a_server_says_cannot_become_part_of_the_page() -> None:
    text = html_report(result_of())

    assert NASTY not in text
    assert "&lt;/script&gt;" in text


def test_the_html_report_draws_its_charts_and_shows_the_books() -> None:
    text = html_report(result_of())

    assert text.count("<svg") == 3
    assert "accepted 267 = stored 267 + dead 0 + in flight 0" in text
    assert "0 lost, 0 duplicated" in text
    assert "nan" not in text.lower().replace("nanosecond", "")


def test_where_the_client_was_the_limit_no_latency_is_drawn() -> None:
    text = html_report(result_of(limits=["Client process 1 used 99% of a CPU."]))

    assert "The client was the limit" in text
    assert text.count("<svg") == 1


def test_a_run_without_a_single_answer_has_a_report() -> None:
    result = result_of(proof=Proof("none", 0))
    result.totals = Totals()
    result.elapsed_seconds = 0.0

    assert "not proven" in html_report(result)
    assert "not proven" in printed(result)


@pytest.mark.parametrize(
    ("proof", "said"),
    [
        (Proof("ids", 5, 4, {}, 0, 0, 1, 0), "does not balance: 1 lost"),
        (Proof("ids", 5, 5, {}, 0, 0, 0, 2), "2 duplicated"),
        (Proof("ids", 5, 3, {}, 0, 2, 0, 0, balanced=True), "2 still in flight"),
        (Proof("none", 5), "not proven"),
    ],
)
def test_nothing_lost_is_said_only_where_the_books_balance(proof: Proof, said: str) -> None:
    for text in (printed(result_of(proof=proof)), html_report(result_of(proof=proof))):
        assert said in text
        assert "0 lost, 0 duplicated" not in text


def printed(result: LoadResult) -> str:
    out = io.StringIO()
    Console(file=out, width=120).print(summary(result))
    return out.getvalue()


def test_the_terminal_shows_thresholds_first_then_books_and_latencies() -> None:
    text = printed(result_of())

    places = [text.index(word) for word in ("✗", "✓", "sent", "accepted 267 = stored 267", "accept to 202", "A note.")]
    assert places == sorted(places)
    assert "89.0 ms" in text


def test_the_json_report_says_all_and_no_secret() -> None:
    report = result_of().to_json()
    text = json.dumps(report)

    assert report["schema"] == "headrace.load/1"
    assert report["config"]["model"] == "open"
    assert report["counts"]["sent"] == 300
    assert report["latencies"]["accept"]["max"] == pytest.approx(0.089, rel=0.01)
    assert [second["accepted"] for second in report["seconds"]] == [89, 89, 89]
    assert report["proof"]["lost"] == 0
    assert report["client_limited"] is False
    assert "s3cret" not in text


def test_histograms_of_the_json_report_can_be_added_up_again() -> None:
    report = result_of().to_json()
    again = Histogram()
    again.add_encoded(report["latencies"]["accept"]["hdr"])

    assert again.count == report["latencies"]["accept"]["count"] == 267


@pytest.mark.parametrize("phase", ["prepare", "send", "sample", "prove"])
def test_every_phase_has_a_live_line_and_a_live_screen(phase: str) -> None:
    result = result_of()
    progress = Progress(result.config, phase, result.totals, 3.0, "66 in flight" if phase == "prove" else "")
    out = io.StringIO()
    Console(file=out, width=120).print(screen(progress))

    assert "things" in out.getvalue()
    assert ("accepted 267" in line(progress)) is (phase == "send")
    assert ("66 in flight" in line(progress)) is (phase == "prove")


def test_a_sparkline_is_as_high_as_its_values() -> None:
    assert sparkline([0, 4, 8]) == " ▄█"
    assert sparkline([]) == ""
    assert sparkline([0, 0]) == "  "


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.0000015, "1.50 µs"), (0.0123, "12.3 ms"), (0.9999, "1000 ms"), (75.0, "75.0 s")]
)
def test_durations_have_three_digits_and_a_fitting_unit(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_shares_do_not_round_something_to_nothing_or_all() -> None:
    assert [share(0, 9), share(1, 100_000), share(99_999, 100_000), share(9, 9), share(1, 3)] == [
        "0 %",
        "<0.1 %",
        ">99.9 %",
        "100 %",
        "33.3 %",
    ]
    assert (count(None), count(1234567)) == ("?", "1,234,567")


def test_intervals_of_several_senders_add_up() -> None:
    totals = Totals()
    for sender in (0, 1):
        interval = Interval(
            sender, 1.01, Counts(sent=5, accepted=5), {"a": 1}, {}, {ACCEPT: encoded(1, 2, 3)}, 0.1, 0.0
        )
        # As it travels between processes.
        totals.add(msgspec.json.decode(msgspec.json.encode(interval), type=Interval))

    assert totals.counts.accepted == 10
    assert totals.latencies[ACCEPT].count == 6
    assert [second.accepted for second in totals.seconds] == [10]


def test_a_long_run_keeps_its_seconds_but_not_their_histograms() -> None:
    totals = Totals()
    for second in range(1, 601):
        totals.add(Interval(0, float(second), Counts(accepted=1), {}, {}, {ACCEPT: encoded(5)}, 0.1, 0.0))

    assert len(totals.seconds) == 600
    assert all(second.p99 == pytest.approx(0.005, rel=0.01) for second in totals.seconds)
    assert len(totals._recent) <= 10


def test_waiting_for_samples_does_not_lower_the_last_seconds_rate() -> None:
    totals = Totals()
    totals.add(Interval(0, 1.0, Counts(accepted=100), {}, {}, {}, 0.1, 0.0))
    totals.add(Interval(0, 1.4, Counts(accepted=1), {}, {}, {}, 0.1, 0.0, sending=False, final=True))

    assert [(second.accepted, second.span_seconds) for second in totals.seconds] == [(101, 1.0)]
    assert totals.last[0].until_seconds == 1.0
