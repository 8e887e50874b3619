"""What `check` runs inside an environment with Airflow: the DAGs are imported, and run against a gateway."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from airflow.dag_processing.dagbag import DagBag

DAGS = Path(__file__).parent / "dags"
EXPECTED = {
    *("license_data_pipeline", "User_counter", "CountCleaner", "student_analysis", "reconciliation"),
    "headrace_housekeeping",
}
TOKEN = "stand-in"


class StandIn(http.server.BaseHTTPRequestHandler):
    """A gateway whose jobs end at the second look; licenses_fetch fails always, students_analysis is off."""

    keys: dict[str, int] = {}  # noqa: RUF012  # shared on purpose

    def do_POST(self) -> None:
        job = self.path.split("/")[3]
        key = self.headers["Idempotency-Key"]
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            self._answer(401, {"code": "invalid_token", "detail": "Not a token of ours."})
        elif job == "students_analysis":
            self._answer(409, {"code": "job_off", "detail": "Job students_analysis is off: not installed."})
        else:
            self.keys[key] = self.keys.get(key, 0) + 1
            # As Headrace does: what was asked for under the same key is told as it ended.
            known = self.keys[key] > 1
            self._answer(202, self._run(job, _outcome(job) if known else "queued"))

    def do_GET(self) -> None:
        job = self.path.split("/")[3]
        self._answer(200, self._run(job, _outcome(job)))

    def _run(self, job: str, outcome: str) -> dict[str, Any]:
        failed = outcome == "failed"
        about = {"id": "r1", "job": job, "outcome": outcome, "attempt": 2 if failed else 1}
        told = {"result": None if failed else {"count": 7}, "error": "exit code 1: no portal" if failed else None}
        return {**about, **told, "links": {"self": f"/v1/jobs/{job}/runs/r1"}}

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def _outcome(job: str) -> str:
    return "failed" if job == "licenses_fetch" else "succeeded"


@contextlib.contextmanager
def stand_in() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), StandIn)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()


def imported() -> dict[str, Any]:
    """Return the DAGs as Airflow itself imports them."""
    bag = DagBag(str(DAGS))
    assert not bag.import_errors, bag.import_errors
    assert set(bag.dags) == EXPECTED, set(bag.dags)
    fetch = bag.dags["license_data_pipeline"].tasks[0]
    assert (fetch.retries, fetch.retry_delay.total_seconds()) == (1, 300)
    assert (fetch.depends_on_past, fetch.email_on_failure) == (False, False)
    print(f"imported {', '.join(sorted(bag.dags))}")
    return dict(bag.dags)


def state_of(dag: Any) -> str:
    """Run a DAG as `airflow dags test` does; return how it ended."""
    return str(dag.test().state)


def main() -> None:
    dags = imported()
    if url := os.environ.get("HEADRACE_URL"):
        assert state_of(dags["User_counter"]) == "success"
        print(f"User_counter ran users_count at {url}: success")
        return
    with stand_in() as url:
        os.environ.update(HEADRACE_URL=url, HEADRACE_TOKEN=TOKEN)
        for dag_id, expected in (
            ("User_counter", "success"),
            ("headrace_housekeeping", "success"),
            # The run failed after Headrace's own retries, or can never be: neither is tried again.
            ("license_data_pipeline", "failed"),
            ("student_analysis", "failed"),
        ):
            found = state_of(dags[dag_id])
            assert found == expected, (dag_id, found)
            print(f"{dag_id}: {found}, as it should be")
        assert set(StandIn.keys.values()) == {1}, StandIn.keys
        os.environ["HEADRACE_TOKEN"] = "another"
        assert state_of(dags["CountCleaner"]) == "failed"
        print("CountCleaner with a wrong token: failed, as it should be")


if __name__ == "__main__":
    main()
