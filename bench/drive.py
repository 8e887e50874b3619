"""Runs the load generator against a server of the stack and judges whether the run counts."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import sys
import uuid
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Final

from bench.client import Plan, Sent
from bench.stack import PATH, ROOT, BenchError, Stack
from embedded.state import LOOPBACK
from producer import generators

CONNECTIONS: Final = 64
BULK_CONNECTIONS: Final = 8
BULK_DOCUMENTS: Final = 1000
# Many different documents, so that neither side can live off a hot key; the same ones for all.
_DOCUMENTS: Final = 10_000
_SEED: Final = 1


async def drive(
    stack: Stack,
    name: str,
    *,
    seconds: float | None = None,
    requests: int | None = None,
    rate: float | None = None,
    keyed: bool = False,
    lines: int = 1,
    connections: int = CONNECTIONS,
) -> Sent:
    """Send to a server, by its name; see `bench.client.Plan`.

    Raises:
        BenchError: an answer was missing or no 200 or 202, so the run does not count.
    """
    plan = Plan(
        host=LOOPBACK,
        port=stack.ports[name],
        path=PATH,
        headers=stack.headers(name),
        bodies=str(_bodies(stack)),
        lines=lines,
        connections=connections,
        seconds=seconds,
        requests=requests,
        rate=rate,
        key=uuid.uuid4().hex[:8] if keyed else None,
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.client"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    try:
        output, _ = await process.communicate(json.dumps(asdict(plan)).encode())
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    stack.pid(name)
    if process.returncode:
        raise BenchError(f"the load generator failed against {name}; its words are above")
    sent = Sent(**json.loads(output))
    if not sent.statuses or set(sent.statuses) - {"200", "202"}:
        raise BenchError(f"{name} answered {sent.statuses}; see {stack.logs / name}.log")
    return sent


async def wrk_rate(stack: Stack, name: str, seconds: float) -> float | None:
    """Return the requests/s that wrk gets from a server, another client's word; None where there is no wrk."""
    wrk = shutil.which("wrk")
    if wrk is None:
        return None
    script = stack.state.directory / "post.lua"
    body = next(generators.bodies("invoices", _SEED)).decode()
    headers = {"Content-Type": "application/json", **stack.headers(name)}
    script.touch(mode=0o600)
    script.write_text(
        f"wrk.method = 'POST'\nwrk.body = [==[{body}]==]\n"
        + "".join(f"wrk.headers['{header}'] = '{value}'\n" for header, value in headers.items())
    )
    options = (f"-d{max(1, round(seconds))}s", f"-c{CONNECTIONS}", "-t1", "-s", str(script))
    process = await asyncio.create_subprocess_exec(
        *(wrk, *options, f"http://{LOOPBACK}:{stack.ports[name]}{PATH}"),
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    found = re.search(rb"Requests/sec: *([0-9.]+)", output)
    if found is None or b"Non-2xx" in output or b"Socket errors" in output:
        raise BenchError(f"wrk failed against {name}: {output.decode(errors='replace')}")
    return float(found[1])


def _bodies(stack: Stack) -> Path:
    path = stack.state.directory / "bodies.ndjson"
    if not path.exists():
        path.write_bytes(b"\n".join(islice(generators.bodies("invoices", _SEED), _DOCUMENTS)))
    return path
