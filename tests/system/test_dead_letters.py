"""The story of docs/dead-letters.md: a wrong column name, straight to NATS, and nothing is lost by it."""

from __future__ import annotations

import asyncio
import csv
import itertools
import json
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import nats
import pytest
from pydantic import ValidationError

from pipelines.invoices import invoices
from tests.system.system import ROOT, System

REAL = ROOT.parent / "shared" / "data" / "invoices" / "OnlineRetail_semicolon.csv"
SAMPLE = ROOT / "producer" / "samples" / "invoices.csv"
# The sample stands for the real file where that is not on this machine.
SOURCE = REAL if REAL.exists() else SAMPLE
AT_ONCE = 500
WHERE = ["--pipeline", "invoices", "--code", "invalid_document", "--pointer", "/Quantity"]


def rows(source: Path, count: int) -> list[dict[str, str]]:
    """Return so many valid rows, their quantity under another name; a file that is over begins again."""
    with source.open(encoding="utf-8-sig", newline="") as lines:
        valid = list(filter(_valid, csv.DictReader(lines, delimiter=";")))
    found = [dict(row) for row in islice(itertools.cycle(valid), count)]
    for row in found:
        row["Qty"] = row.pop("Quantity")
    return found


def _valid(row: dict[str, str]) -> bool:
    try:
        invoices.accepts.model_validate(row)
    except ValidationError:
        return False
    return True


async def headrace(system: System, *arguments: str, code: int = 0) -> Any:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cli", "dead", *arguments, "--json", "--url", system.url),
        *("--token", system.facts["token"]),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    out, err = await process.communicate()
    assert process.returncode == code, err.decode()
    return [json.loads(line) for line in out.splitlines()]


@pytest.mark.parametrize("count", [300, pytest.param(5000, marks=pytest.mark.long)])
async def test_a_wrong_column_name_is_found_tried_out_mended_and_audited(
    system: System, tmp_path: Path, count: int
) -> None:
    wrong = rows(SOURCE, count)
    before = await system.books("invoices")
    client = await nats.connect(system.facts["nats_url"])
    stream = client.jetstream()
    for some in range(0, len(wrong), AT_ONCE):
        part = wrong[some : some + AT_ONCE]
        await asyncio.gather(*(stream.publish("ingest.invoices", json.dumps(row).encode()) for row in part))
    await client.close()
    await system.drained("invoices")

    [groups] = await headrace(system, "groups", *WHERE)
    assert [(group["stage"], group["count"]) for group in groups] == [("refine", len(wrong))]
    [one] = await headrace(system, "ls", *WHERE, "-n", "1")
    [tried] = await headrace(system, "replay", *WHERE, "--rename", "/Qty=/Quantity", "--dry-run")
    assert (tried["would_pass"], tried["would_fail"]) == (len(wrong), 0)
    [unmended] = await headrace(system, "replay", *WHERE, "--dry-run", code=1)
    assert (unmended["would_pass"], unmended["would_fail"]) == (0, len(wrong))

    # The first by a function of the user's own, the rest by a patch.
    (tmp_path / "mend.py").write_text("def mend(row):\n    row['Quantity'] = row.pop('Qty')\n    return row\n")
    [by_function] = await headrace(system, "replay", one["id"], "--function", f"{tmp_path}/mend.py:mend")
    [by_patch] = await headrace(
        system, "replay", *WHERE, "--rename", "/Qty=/Quantity", "--reason", "the export wrote Qty"
    )

    assert (by_function["replayed"], by_patch["replayed"]) == (1, len(wrong) - 1)
    after = await system.drained("invoices")
    assert after["balanced"]
    assert after["accepted"] - before["accepted"] == len(wrong)
    assert after["dead"] == before["dead"]
    assert after["stored"]["facts"] - before["stored"]["facts"] == len(wrong)
    audited = (await headrace(system, "audit", "-n", "1"))[0]
    assert (audited["by"], audited["reason"], audited["replayed"]) == ("admin", "the export wrote Qty", len(wrong) - 1)
    assert audited["patch"] == [{"op": "move", "from": "/Qty", "path": "/Quantity"}]
    state = await system.get(f"/v1/documents/invoices/{one['id']}")
    assert (state["status"], state["problem"]) == ("stored", None)
    assert await headrace(system, "ls", *WHERE) == []
