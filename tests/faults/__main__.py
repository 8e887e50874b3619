"""`make faults`: everything goes wrong in turn while documents are sent, then every one of them is accounted for.

    python -m tests.faults --minutes 20 --seed 7 --documents 200000

Prints the seed, the faults by kind, the outcomes and what the checker says; exits 1 at a violation. The report is
also written as JSON to reports/.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import random
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.faults.checker import Observed, Violation, check
from tests.faults.cluster import cluster_run
from tests.faults.journal import read
from tests.faults.observe import observe
from tests.faults.overload import overload_run
from tests.faults.producer import Producer, open_producers
from tests.faults.report import outcomes
from tests.faults.schedule import Fault, inject
from tests.faults.stack import ROOT, Stack, open_stack
from tests.servers import reachable_directory

# From the last fault until all is ready and drained; the backlog of the last faults is part of it.
CAUGHT_UP_SECONDS = 60.0
_LOOK_SECONDS = 2.0
_MORE_SECONDS = 120.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="make faults ARGS=…", description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=None, help="how long; 20, of a cluster 2, of an overload 1")
    parser.add_argument("--seed", type=int, default=None, help="of documents and faults; a new one by default")
    parser.add_argument("--documents", type=int, default=200_000, help="sent at least, spread over the time")
    parser.add_argument("--faults", type=int, default=100_000, help="at most")
    parser.add_argument("--cluster", action="store_true", help="three NATS servers, their leader killed and paused")
    parser.add_argument("--overload", action="store_true", help="three times the peak for a minute, no faults")
    parser.add_argument("--report", type=Path, default=ROOT / "reports", help="folder of the JSON report")
    parser.add_argument("--keep-logs", action="store_true", help="also where nothing is wrong")
    options = parser.parse_args()
    options.report.mkdir(exist_ok=True)
    seed = random.SystemRandom().randrange(1, 10**6) if options.seed is None else options.seed
    say(f"seed {seed}")
    if options.cluster:
        report = asyncio.run(cluster_run(seed, options.minutes or 2.0, say))
    elif options.overload:
        report = asyncio.run(overload_run(seed, options.minutes or 1.0, say))
    else:
        run = random_run(
            seed, options.minutes or 20.0, options.documents, options.faults, options.report, keep=options.keep_logs
        )
        report = asyncio.run(run)
    kind = "cluster" if options.cluster else "overload" if options.overload else "faults"
    path = options.report / f"{kind}-{seed}.json"
    path.write_text(json.dumps(report, indent=2, default=str) + "\n")
    print(json.dumps(report, indent=2, default=str))
    say(f"report: {path}")
    return 1 if report["violations"] else 0


async def random_run(
    seed: int, minutes: float, documents: int, most_faults: int, folder: Path, *, keep: bool
) -> dict[str, Any]:
    with reachable_directory() as directory:
        workers: dict[str, tuple[str, ...]] = {"workers": (), "sinks": ("documents", "facts")}
        violations: list[Violation] | None = None
        try:
            async with open_stack(directory, workers=workers) as stack:
                report, observed = await _run(stack, directory, seed, minutes, documents, most_faults)
            violations = check(observed)
        finally:
            # Also where the run itself came to grief.
            if keep or violations is None or violations:
                kept = folder / f"logs-{seed}"
                for part in filter(lambda name: (directory / name).is_dir(), ("logs", "journals")):
                    shutil.copytree(directory / part, kept / part, dirs_exist_ok=True)
                say(f"logs and journals: {kept}")
    return {**report, "violations": [str(one) for one in violations]}


async def _run(
    stack: Stack, directory: Path, seed: int, minutes: float, documents: int, most_faults: int
) -> tuple[dict[str, Any], Observed]:
    faults: list[Fault] = []
    began = time.monotonic()

    def told(fault: Fault) -> None:
        faults.append(fault)
        say(f"{time.monotonic() - began:7.1f} s  {fault.kind:<12} {fault.target:<24} {fault.lasts_seconds:.1f} s")

    journals = directory / "journals"
    journals.mkdir()
    # Sent by most producers one by one, since blocks are then made of many; by some in bulks of several blocks.
    async with open_producers(journals, seed, stack.url, stack.token, singles=12, bulks=2, gives_up=True) as producers:
        stop = asyncio.Event()
        looking = asyncio.create_task(_look(stack))
        share = 1.25 * documents / (60 * minutes) / 2
        async with asyncio.TaskGroup() as tasks:
            for one in producers:
                single = one.bulk == (1, 1)
                tasks.create_task(one.run(stop, per_second=share / (12 if single else 2)))
            injected = await inject(stack, seed, began + 60 * minutes, told, most_faults)
            stack.heal()
            say(f"{time.monotonic() - began:7.1f} s  healed")
            # The load goes on while all comes back, and until enough has been sent.
            healed = time.monotonic()
            while _sent(producers) < documents and time.monotonic() - healed < _MORE_SECONDS:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
            stop.set()
        caught_up = await stack.caught_up(3 * CAUGHT_UP_SECONDS)
        looking.cancel()
    books = await stack.books_of_now() if caught_up is not None else {}
    lines = list(read(one.journal.path for one in producers))
    observed = await observe(
        stack.stores,
        seed,
        lines,
        caught_up_seconds=caught_up,
        caught_up_limit_seconds=CAUGHT_UP_SECONDS,
        usages=stack.usages,
        balanced=bool(books.get("balanced")) and books["in_flight"] == 0,
    )
    report = {
        "seed": seed,
        "minutes": round((time.monotonic() - began) / 60, 1),
        "machine": f"{platform.machine()}, {platform.release()}",
        "faults": {"total": sum(injected.values()), **dict(sorted(injected.items()))},
        **outcomes(lines, observed),
        "caught_up_seconds": None if caught_up is None else round(caught_up, 1),
        "redelivered": await stack.redelivered(),
        "books": books,
        "injected": [asdict(fault) for fault in faults],
    }
    return report, observed


def _sent(producers: Sequence[Producer]) -> int:
    return sum(one.sent for one in producers)


async def _look(stack: Stack) -> None:
    while True:
        stack.look()
        await asyncio.sleep(_LOOK_SECONDS)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
