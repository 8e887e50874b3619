"""The arithmetic of the benchmark's report; nothing is measured here."""

from __future__ import annotations

import pytest

from bench.report import BEGIN, END, Bar, Row, Section, as_json, as_markdown, costs, growth, ratios, rewritten


def test_a_ratio_is_taken_round_by_round() -> None:
    row = ratios("ours : theirs", [100, 10, 60], [10, 5, 10])

    assert row.rounds == (10, 2, 6)
    assert row.median == 6


def test_rounds_that_do_not_pair_are_an_error() -> None:
    with pytest.raises(ValueError, match="shorter"):
        ratios("ours : theirs", [1, 2], [1])


def test_a_cost_is_the_part_of_the_rate_that_is_gone() -> None:
    assert costs("tokens", without=[100, 200], having=[97, 202]).rounds == pytest.approx((3, -1))


def test_growth_is_in_percent() -> None:
    assert growth("gateway", before=80, after=84).median == pytest.approx(5)


@pytest.mark.parametrize(
    ("bar", "value", "holds"),
    [
        (Bar(8), 8, True),
        (Bar(8), 7.99, False),
        (Bar(3, at_most=True), 3, True),
        (Bar(3, at_most=True), 3.01, False),
        (Bar(3, at_most=True), -2, True),
    ],
)
def test_a_bar_is_kept_at_its_limit(bar: Bar, value: float, holds: bool) -> None:
    assert bar.holds(value) is holds


def test_the_median_decides_about_a_bar() -> None:
    assert Row("r", "×", (1, 9, 9), Bar(8)).passed is True
    assert Row("r", "×", (7, 7, 90), Bar(8)).passed is False
    assert Row("r", "×", (1,)).passed is None


def test_a_section_says_why_it_is_not_to_be_trusted() -> None:
    assert Section("s", (), client_share=0.5, others_share=0.05).warnings == []
    assert Section("s", (), client_share=0.95).warnings == ["the load generator was the limit (95% of a core)"]
    assert Section("s", (), others_share=0.4).warnings == ["the machine was busy with other things (40% of it)"]


def test_ratios_are_shown_before_the_figures_they_come_from() -> None:
    section = Section("accept", (Row("ours", "requests/s", (9000, 10000, 12500)), Row("a : b", "×", (9.5,), Bar(8))))

    text = as_markdown([section], {"python": "3"})

    assert text.index("| a : b") < text.index("| ours")
    assert "| 9.50×  |          | at least 8× | ✓ |" in text
    assert "10,000 requests/s | 9,000..12,500" in text


def test_json_holds_every_round_and_verdict() -> None:
    section = Section("auth", (Row("cost", "%", (2.0, 4.0), Bar(3, at_most=True)),))

    found = as_json([section], {"python": "3"})

    assert found["machine"] == {"python": "3"}
    assert found["sections"][0]["rows"] == [
        {"name": "cost", "unit": "%", "median": 3.0, "rounds": [2.0, 4.0], "bar": "at most 3", "passed": True}
    ]


def test_only_what_stands_between_the_markers_is_rewritten() -> None:
    document = f"before\n{BEGIN}\nold\n{END}\nafter\n"

    once = rewritten(document, "new")

    assert once == f"before\n{BEGIN}\n\nnew\n\n{END}\nafter\n"
    assert rewritten(once, "new") == once


def test_a_document_without_markers_is_left_alone() -> None:
    with pytest.raises(ValueError, match="lacks"):
        rewritten(f"{END} {BEGIN}", "new")
