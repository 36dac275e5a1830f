"""The demo (``make demo``): one real analysis from submit to cleanup, on a server and a store of its own.

Everything happens in a temporary folder and is gone afterwards. Ends with 0 only if every step was as it should be.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from async_delivery.analyses.data import PENGUINS
from async_delivery.cli.output import clean, emit_pairs, say
from async_delivery.cli.progress import Follower, follower
from async_delivery.cli.results import show_table
from async_delivery.client import Client, ClientError, Job, Result
from async_delivery.domain.job import JobStatus
from async_delivery.settings import ENV_PREFIX

START_SECONDS = 60.0
STOP_SECONDS = 30.0
JOB_SECONDS = 120.0
ORG = "default-org"
PROGRAM = (sys.executable, "-m", "async_delivery")


class DemoError(Exception):
    """A step did not go as it should."""


def main() -> int:
    """Run it; the exit code."""
    began = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="async-delivery-demo-") as folder:
            _play(Path(folder))
    except (DemoError, ClientError, OSError, subprocess.SubprocessError) as exc:
        say(f"demo: {exc}")
        return 1
    except KeyboardInterrupt:
        say("demo: interrupted")
        return 130
    print(
        f"\nAll of it in {time.monotonic() - began:.1f} s. Next: make serve, then async-delivery submit YOUR.csv"
    )
    return 0


def _play(folder: Path) -> None:
    _heading("A server with a store of its own")
    with _server(folder) as address, Client(address, org_id=ORG) as client:
        _heading(f"Submit {PENGUINS.name} to the analysis `profile`")
        job = _run(client)
        _heading("The result")
        result = _show_result(client, job)
        _heading("The permalink")
        print(f"curl -H 'X-Org-Id: {ORG}' '{client.base_url}/analyze/results/{result.result_id}?view=latest'")
        _heading("The notification, written in the same transaction as the end of the job")
        _show_notification(client, job)
        _heading("What a cleanup with TTL 0 would delete now (dry run, beside the server)")
        _show_cleanup(folder)
        _heading("SIGTERM: the server drains and ends")


@contextmanager
def _server(folder: Path) -> Iterator[str]:
    """A real server process; its address. Stopped at the end, and that must go well too."""
    command = [*PROGRAM, "serve", "--port", "0", "--store-file", str(folder / "store.v1.json")]
    command += ["--log-level", "warning"]
    server = subprocess.Popen(
        command, cwd=folder, env=_environment(), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    said: list[str] = []
    ready = threading.Event()
    reader = threading.Thread(target=_listen, args=(server, said, ready), daemon=True)
    reader.start()
    try:
        if not ready.wait(START_SECONDS) or not (
            found := re.search(r"http://[^\s,]+", said[-1] if said else "")
        ):
            server.kill()
            raise DemoError(f"the server did not start: {' / '.join(said) or 'it said nothing'}")
        print(clean(said[-1]))
        yield found[0]
        server.send_signal(signal.SIGTERM)
        if (code := server.wait(STOP_SECONDS)) != 0:
            raise DemoError(f"the server ended with {code}: {' / '.join(said[1:])}")
        print("it ended with exit code 0")
    finally:
        if server.poll() is None:
            server.kill()
        server.wait()
        reader.join()
        if server.stderr:
            server.stderr.close()


def _listen(server: subprocess.Popen[str], said: list[str], ready: threading.Event) -> None:
    for line in server.stderr or ():
        said.append(line.rstrip())
        if "http://" in line:
            ready.set()
    # It has ended: whoever waits for its address need not wait longer.
    ready.set()


def _environment() -> dict[str, str]:
    """As found, but for settings of another server."""
    return {name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)}


def _run(client: Client) -> Job:
    with follower(stream=sys.stdout) as show:
        submitted = client.submit_file({"analysis": "profile", "query": "Palmer penguins"}, PENGUINS)
        show.note(f"accepted as job {submitted.job.job_id}")
        seen = 0

        def told(job: Job) -> None:
            nonlocal seen
            show.show(job)
            for event in client.events(job.job_id, after=seen):
                seen = event.event_seq
                _tell(client, show, event.event_type, event.payload)

        job = client.wait(submitted.job.job_id, timeout_seconds=JOB_SECONDS, changed=told)
    if job.status is not JobStatus.COMPLETED:
        raise DemoError(f"the job ended as {job.status}: {job.error_code}: {job.error_message}")
    return job


def _tell(client: Client, show: Follower, event_type: str, payload: Any) -> None:
    if event_type == "job.partial":
        partial = client.result(payload["result_id"], view="requested")
        tables = ", ".join(table["title"] for table in partial.result["tables"])
        show.note(clean(f"{event_type} {partial.result['stage']}: {tables}"))
    elif event_type != "job.progress":
        show.note(clean(event_type))


def _show_result(client: Client, job: Job) -> Result:
    result = client.result(job.result_id or "")
    if not result.is_final:
        raise DemoError("a completed job has no final result")
    dataset = result.result["dataset"]
    print(f"{dataset['rows']} rows, {dataset['columns']} columns, {len(result.result['charts'])} charts\n")
    for number, table in enumerate(result.result["tables"][:2]):
        print("\n" if number else "", end="")
        show_table(table)
    return result


def _show_notification(client: Client, job: Job) -> None:
    told = client.notifications(job.job_id, channel="in_app")
    if [each["template_key"] for each in told] != ["async.job.completed"]:
        raise DemoError(f"expected one notification async.job.completed, found {told}")
    emit_pairs((name, told[0][name]) for name in ("template_key", "delivery_status", "dedupe_key"))


def _show_cleanup(folder: Path) -> None:
    command = [*PROGRAM, "cleanup", "--store-file", str(folder / "store.v1.json"), "--dry-run", "--json"]
    command += ["--results-ttl-seconds", "0", "--events-ttl-seconds", "0"]
    done = subprocess.run(
        command, cwd=folder, env=_environment(), capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise DemoError(f"the cleanup ended with {done.returncode}: {done.stderr.strip()}")
    report = json.loads(done.stdout)
    for kind in ("results", "events"):
        section = report[kind]
        print(f"{kind:<8} {section['delete_count']} of {section['total']}, {section['bytes']} bytes")
    if report["terminal_job_count"] != 1 or report["results"]["delete_count"] < 1:
        raise DemoError("the cleanup did not see the job")


def _heading(text: str) -> None:
    print(f"\n== {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
