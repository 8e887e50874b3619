"""The end of a load test on a terminal: thresholds first, then the books, the latencies and what limited the run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from producer.figures import count, duration, rate, share
from producer.latency import Histogram
from producer.load_config import LoadConfig
from producer.load_result import LoadResult
from producer.proof import Proof
from producer.tally import ACCEPT, BEHIND, FAIL, LATENCIES, REFUSE, SERVICE, STORED
from producer.thresholds import RATES, Verdict

LABELS: Final[Mapping[str, str]] = {
    ACCEPT: "accept to 202",
    SERVICE: "service time",
    STORED: "accept to stored, sampled",
    REFUSE: "refused",
    FAIL: "failed",
    BEHIND: "client behind schedule",
}
_PERCENTILES: Final = (50.0, 90.0, 99.0, 99.9)
_MOST_REASONS: Final = 12


def summary(result: LoadResult) -> RenderableType:
    """Return all of it, to be printed."""
    parts: list[RenderableType] = [Text(headline(result), "bold"), Text()]
    if result.thresholds:
        parts += [Text("thresholds", "bold"), Padding(_thresholds(result.thresholds), (0, 0, 1, 2))]
    parts += [Text("documents", "bold"), Padding(documents(result), (0, 0, 1, 2))]
    parts += [Text("proof", "bold"), Padding(_proof(result), (0, 0, 1, 2))]
    parts += [Text("latency", "bold"), Padding(latencies(result.totals.latencies), (0, 0, 0, 2))]
    parts += list(_remarks(result))
    return Group(*parts)


def headline(result: LoadResult) -> str:
    processes = f"{result.processes} client process{'es' if result.processes > 1 else ''}"
    return f"{result.config.pipeline} · {model(result.config)} · {result.elapsed_seconds:.1f} s · {processes}"


def model(config: LoadConfig) -> str:
    bulk = f" of {config.bulk} documents" if config.bulk > 1 else ""
    if config.rate is None:
        return f"closed model, {config.connections} requests{bulk} at once"
    return f"open model, {config.rate} requests{bulk} a second"


def verdict_value(one: Verdict) -> str:
    """Return what the run measured, in the unit of the threshold's metric."""
    if one.value is None:
        return "not measured"
    metric = one.text.split("<")[0].split(">")[0].split("=")[0].split("!")[0].strip()
    if metric.partition(".")[0] in LATENCIES:
        return duration(one.value)
    if "%" in one.text:
        return share(one.value, 1)
    return f"{one.value:,.1f}/s" if metric in RATES else count(one.value)


def proof_line(proof: Proof) -> str:
    """Return the equation that the proof is about."""
    return (
        f"accepted {count(proof.accepted)} = stored {count(proof.stored)} + dead {count(proof.dead)}"
        f" + in flight {count(proof.in_flight)}"
    )


def proof_verdict(proof: Proof) -> str:
    """Return what is proven. `0 lost` is said only where the books balance."""
    if proof.level == "none":
        return "not proven"
    if not proof.balanced:
        return f"does not balance: {count(proof.lost)} lost, {count(proof.duplicated)} duplicated"
    if proof.in_flight:
        return f"balances so far: {count(proof.in_flight)} still in flight"
    return "0 lost, 0 duplicated"


def proof_method(proof: Proof) -> str:
    match proof.level:
        case "ids":
            return f"every accepted id looked up in the stores, settled {duration(proof.settle_seconds)} after the run"
        case "ledger":
            return f"by the ledger's difference, settled {duration(proof.settle_seconds)} after the run"
    return "neither ledger nor stores could be asked"


def _thresholds(verdicts: list[Verdict]) -> Table:
    table = Table.grid(padding=(0, 2))
    for one in verdicts:
        style = "green" if one.passed else "red"
        table.add_row(Text("✓" if one.passed else "✗", style), one.text, verdict_value(one))
    return table


def documents(result: LoadResult) -> Table:
    counts, span = result.totals.counts, result.elapsed_seconds
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(justify="right")
    table.add_column()
    table.add_row("sent", count(counts.sent), f"{rate(counts.sent, span)} in {count(counts.requests)} requests")
    table.add_row(
        "accepted", count(counts.accepted), f"{rate(counts.accepted, span)}, {share(counts.accepted, counts.sent)}"
    )
    table.add_row("refused", count(counts.refused), share(counts.refused, counts.sent) if counts.refused else "")
    _reasons(table, result.totals.refused)
    unknown = f", {count(counts.unknown)} of them with unknown outcome" if counts.unknown else ""
    failed = share(counts.failed, counts.sent) + unknown if counts.failed else ""
    table.add_row("failed", count(counts.failed), failed, style="red" if counts.failed else "")
    _reasons(table, result.totals.failed)
    if counts.retried_requests:
        table.add_row("sent again", count(counts.retried_requests), "requests, under the same key")
    return table


def _reasons(table: Table, reasons: Mapping[str, int]) -> None:
    ordered = sorted(reasons.items(), key=lambda item: -item[1])
    for reason, number in ordered[:_MOST_REASONS]:
        table.add_row("", Text(count(number), "dim"), Text(reason, "dim"))
    if len(ordered) > _MOST_REASONS:
        rest = ordered[_MOST_REASONS:]
        table.add_row(
            "", Text(count(sum(number for _, number in rest)), "dim"), Text(f"{len(rest)} other reasons", "dim")
        )


def _proof(result: LoadResult) -> Group:
    proof = result.proof
    good = proof.balanced and not proof.in_flight
    style = "green" if good else "yellow" if proof.level == "none" or proof.balanced else "red"
    lines = [
        Text.assemble((proof_line(proof), ""), "   ", (f"{'✓' if good else '✗'} {proof_verdict(proof)}", style)),
        Text(proof_method(proof), "dim"),
    ]
    if proof.stored_by:
        words = [f"{name} {count(number)}" for name, number in proof.stored_by.items()]
        if stored_rate := result.numbers["stored_rate"]:
            words.append(f"{count(stored_rate)} a second from first sent to last stored")
        lines.append(Text(" · ".join(words), "dim"))
    lines += [Text(f"lost: {one}", "red") for one in proof.lost_examples]
    lines += [Text(note, "yellow") for note in proof.notes]
    return Group(*lines)


def latencies(histograms: Mapping[str, Histogram]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column()
    for _ in range(len(_PERCENTILES) + 2):
        table.add_column(justify="right", no_wrap=True)
    table.add_row("", *(f"p{one:g}" for one in _PERCENTILES), "max", "requests", style="dim")
    for name, label in LABELS.items():
        histogram = histograms[name]
        if histogram.count:
            values = [duration(histogram.at(one)) for one in _PERCENTILES]
            table.add_row(label, *values, duration(histogram.highest), count(histogram.count))
    return table


def _remarks(result: LoadResult) -> Iterator[RenderableType]:
    if result.limits:
        yield Text()
        yield Text("The client was the limit, so these numbers are no measure of the server:", "bold yellow")
        yield from (Text(f"  {limit}", "yellow") for limit in result.limits)
    if result.notes:
        yield Text()
        yield from (Text(note, "dim") for note in result.notes)
