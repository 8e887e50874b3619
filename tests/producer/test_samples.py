"""The samples that ship with the product: real forms, made-up content, and the faults that a demo needs."""

from __future__ import annotations

from pathlib import Path

import pytest

from producer.samples import sample
from producer.samples.__main__ import write
from producer.sources import read


@pytest.mark.parametrize(
    ("pipeline", "rows"),
    [("deliveries", 102), ("invoices", 200), ("licenses", 120), ("searches", 177), ("students", 240)],
)
def test_a_sample_is_read_by_the_pipelines_source(pipeline: str, rows: int) -> None:
    path = sample(pipeline)

    assert path is not None
    assert len(list(read(pipeline, path))) == rows


def test_the_samples_are_what_the_generators_make(tmp_path: Path) -> None:
    write(tmp_path)

    for path in tmp_path.iterdir():
        found = sample(path.stem)
        assert found is not None
        assert found.read_bytes() == path.read_bytes()


def test_a_pipeline_may_have_no_sample() -> None:
    assert sample("mine") is None
    assert sample("__init__") is None
