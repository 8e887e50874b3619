"""`python -m bench`: every measurement in one run, side by side, and a table of what came of it.

Exit code 0 when everything ran, whatever the figures; 1 when something did not.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bench.machine import facts
from bench.measures import MEASURES, QUICK, Extent
from bench.report import BEGIN, Section, as_json, as_markdown, rewritten
from bench.stack import ROOT, BenchError, open_stack
from embedded.program import EmbeddedError
from headrace import telemetry
from headrace.settings import LogSettings

_JSON: Final = ROOT / "reports" / "bench.json"
# It begins with a fresh product, for what ran before would have grown it already.
_APART: Final = "memory"


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__, allow_abbrev=False)
    parser.add_argument("--quick", action="store_true", help="short rounds: a minute, and less to be trusted")
    parser.add_argument("--only", action="append", choices=list(MEASURES), help="one measurement; may be repeated")
    parser.add_argument("--memory", action="store_true", help="measure memory too, over a million documents: minutes")
    parser.add_argument("--json", action="store_true", help=f"write {_JSON.relative_to(ROOT)} too")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="put the figures between the markers of a file")
    return parser.parse_args(argv)


async def measure(names: Sequence[str], extent: Extent) -> tuple[list[Section], bool]:
    """Run measurements on one stack; return the sections and whether all ran."""
    sections: list[Section] = []
    async with open_stack() as stack:
        for name in names:
            print(f"{name} …", file=sys.stderr, flush=True)
            try:
                sections.append(await MEASURES[name](stack, extent))
            except BenchError as error:
                print(f"{name} did not run: {error}", file=sys.stderr)
                stack.failed = True
        return sections, not stack.failed


def main() -> int:
    options = arguments()
    telemetry.configure_logs(LogSettings(level="error"), "bench")
    if options.markdown and BEGIN not in options.markdown.read_text():
        print(f"{options.markdown} has no place for figures, which begins with {BEGIN}", file=sys.stderr)
        return 1
    wanted = options.only or [name for name in MEASURES if name != _APART or options.memory]
    # In their own order: those without workers come first.
    names = [name for name in MEASURES if name in wanted]
    extent = QUICK if options.quick else Extent()
    sections: list[Section] = []
    whole = True
    for group in ([name for name in names if name != _APART], [name for name in names if name == _APART]):
        if group:
            try:
                found, ran = asyncio.run(measure(group, extent))
            except EmbeddedError as error:
                print(f"Cannot measure: {error}", file=sys.stderr)
                return 1
            sections, whole = sections + found, whole and ran
    machine = facts()
    command = f"`python -m bench {' '.join(sys.argv[1:])}`".replace(" `", "`")
    figures = f"{command}\n\n{as_markdown(sections, machine)}"
    print(figures, end="")
    if options.json:
        _JSON.parent.mkdir(exist_ok=True)
        _JSON.write_text(json.dumps(as_json(sections, machine), indent=2, ensure_ascii=False) + "\n")
    if options.markdown:
        options.markdown.write_text(rewritten(options.markdown.read_text(), figures))
    return 0 if whole else 1


if __name__ == "__main__":
    sys.exit(main())
