"""Airflow DAGs that run Headrace's jobs over its API: each starts a run, waits for its end, and fails with its error.

For teams whose schedules live in Airflow 3. Needs nothing but Airflow itself; where Headrace is and who asks comes from
the Airflow connection `headrace` (host with http:// or https://, the API key as password), else from HEADRACE_URL and
HEADRACE_TOKEN. The key needs the scope `admin`.
"""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

from airflow.providers.standard.operators.python import PythonOperator
from airflow.sdk import DAG
from airflow.sdk.bases.hook import BaseHook
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowNotFoundException

# DAG, its schedule and the jobs that it runs, one after the other.
DAGS: dict[str, tuple[str, tuple[str, ...]]] = {
    "license_data_pipeline": ("@hourly", ("licenses_fetch",)),
    "User_counter": ("* * * * *", ("users_count",)),
    "CountCleaner": ("@hourly", ("users_count_cleaner",)),
    "student_analysis": ("15 * * * *", ("students_analysis",)),
    "reconciliation": ("25 * * * *", ("reconcile",)),
    "headrace_housekeeping": ("40 3 * * *", ("ledger_check", "reconcile_all", "history_trim", "audit_trim")),
}
ENDED = ("succeeded", "failed", "missed")
POLL_SECONDS = 2.0
TIMEOUT_SECONDS = 30.0


def run_job(job: str, **context: Any) -> dict[str, Any] | None:
    """Run a job and return its result, which becomes the task's XCom.

    Raises:
        AirflowFailException: the run failed, after the retries that Headrace makes itself; Airflow does not retry it.
        AirflowException: Headrace is away or refuses; tried again, Airflow asks for the same run.
    """
    # Airflow tries again where no answer came, and is to find the run that it began; but where that one has failed
    # already, somebody cleared the task to have another.
    path = f"/v1/jobs/{quote(job, safe='')}/runs"
    key = f"airflow/{context['dag'].dag_id}/{context['run_id']}/{job}"
    run = ask("POST", path, {"Idempotency-Key": key})
    if run["outcome"] in ("failed", "missed"):
        run = ask("POST", path, {"Idempotency-Key": f"{key}/{context['ti'].try_number}"})
    print(f"Run {run['id']} of {job}")
    while run["outcome"] not in ENDED:
        time.sleep(POLL_SECONDS)
        run = ask("GET", run["links"]["self"])
    if run["outcome"] != "succeeded":
        raise AirflowFailException(f"{job} {run['outcome']} after {run['attempt']} attempts: {run['error']}")
    result: dict[str, Any] | None = run["result"]
    return result


def ask(method: str, path: str, headers: dict[str, str] | None = None) -> dict[str, Any]:
    """Return what Headrace answers."""
    url, token = headrace()
    request = urllib.request.Request(url + path, method=method, headers=headers or {})
    request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
            answer: dict[str, Any] = json.load(response)
            return answer
    except urllib.error.HTTPError as error:
        problem = _problem(error)
        # What the caller did wrong does not get better by trying again; 408 and 429 do.
        kind = AirflowFailException if 400 <= error.code < 500 and error.code not in (408, 429) else AirflowException
        raise kind(f"Headrace answered {error.code} {problem}") from None
    except (OSError, ValueError) as error:
        raise AirflowException(f"No Headrace answers at {url}: {error}") from None


def headrace() -> tuple[str, str]:
    """Return where Headrace is, and a token for it."""
    try:
        connection = BaseHook.get_connection("headrace")
    except AirflowNotFoundException:
        return os.environ.get("HEADRACE_URL", "http://127.0.0.1:8080").rstrip("/"), os.environ.get("HEADRACE_TOKEN", "")
    host = connection.host or "http://127.0.0.1"
    url = host if "://" in host else f"{connection.schema or 'http'}://{host}"
    return (f"{url}:{connection.port}" if connection.port else url).rstrip("/"), connection.password or ""


def _problem(error: urllib.error.HTTPError) -> str:
    try:
        problem = json.load(error)
        return f"{problem['code']}: {problem['detail']}"
    except (OSError, ValueError, KeyError, TypeError):
        return str(error.reason)


def dag_of(dag_id: str, schedule: str, jobs: tuple[str, ...]) -> DAG:
    """Return a DAG that runs jobs one after the other."""
    dag = DAG(
        dag_id,
        schedule=schedule,
        start_date=datetime(2023, 1, 1, tzinfo=UTC),
        catchup=False,
        max_active_runs=1,
        tags=["headrace"],
        default_args={
            "owner": "headrace",
            "depends_on_past": False,
            "retries": 1,
            "retry_delay": timedelta(minutes=5),
            "email_on_failure": False,
            "email_on_retry": False,
        },
        doc_md=f"Runs Headrace's {', '.join(jobs)} over its API.",
    )
    before = None
    for job in jobs:
        task = PythonOperator(task_id=job, python_callable=run_job, op_kwargs={"job": job}, dag=dag)
        if before is not None:
            before >> task
        before = task
    return dag


for _dag_id, (_schedule, _jobs) in DAGS.items():
    globals()[_dag_id] = dag_of(_dag_id, _schedule, _jobs)
