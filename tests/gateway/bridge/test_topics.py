"""Topic templates: what is subscribed to, and which pipeline a topic means."""

from __future__ import annotations

import pytest

from gateway.bridge.topics import TopicTemplate


@pytest.mark.parametrize(
    ("template", "wanted", "topic", "pipeline"),
    [
        ("ingest/{pipeline}", "ingest/+", "ingest/invoices", "invoices"),
        ("{pipeline}", "+", "invoices", "invoices"),
        ("plant/+/{pipeline}/+", "plant/+/+/+", "plant/7/invoices/new", "invoices"),
        ("/site/{pipeline}", "/site/+", "/site/invoices", "invoices"),
        ("in/{pipeline}/#", "in/+/#", "in/invoices", "invoices"),
        ("in/{pipeline}/#", "in/+/#", "in/invoices/a/b", "invoices"),
        # What could not be one token of a subject.
        ("ingest/{pipeline}", "ingest/+", "ingest/a.b", None),
        ("ingest/{pipeline}", "ingest/+", "ingest/>", None),
        ("ingest/{pipeline}", "ingest/+", "ingest/", None),
        ("ingest/{pipeline}", "ingest/+", "ingest", None),
        ("ingest/{pipeline}", "ingest/+", "ingest/" + "x" * 65, None),
    ],
)
def test_a_topic_names_its_pipeline(template: str, wanted: str, topic: str, pipeline: str | None) -> None:
    found = TopicTemplate(template)

    assert found.filter == wanted
    assert found.pipeline_of(topic) == pipeline


@pytest.mark.parametrize(
    "template",
    [
        "",
        "ingest",
        "ingest/#",
        "{pipeline}/{pipeline}",
        "a{pipeline}",
        "{pipeline",
        "a+/{pipeline}",
        "#/{pipeline}",
        "a//{pipeline}",
    ],
)
def test_a_template_that_cannot_name_a_pipeline_is_refused(template: str) -> None:
    with pytest.raises(ValueError, match="topic"):
        TopicTemplate(template)
