"""What an API process and a worker take: memory (PSS, with children) and connections to PostgreSQL."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import orjson

from bench.load import Connection, Request
from bench.server import COMMAND, Running, free_port, running

_SLOTS = 2
_MIB = 1024**2
_REST_SECONDS, _WORK_SECONDS = 5.0, 8.0


def processes(folder: Path, url: str, connections: Callable[[], int]) -> list[str]:
    """Start an API process and a worker on the store at ``url``, look, run jobs, look again; one line for each figure.

    connections   how many there are to the database
    """
    with _process(folder / "api", url, "serve", "--no-workers") as api:
        time.sleep(_REST_SECONDS)  # at rest is what is measured
        of_api = connections()
        with _process(folder / "worker", url, "worker", "--slots", str(_SLOTS)) as worker:
            time.sleep(_REST_SECONDS)
            empty = worker.pss_bytes()
            _submit(api.port, 4 * _SLOTS)
            time.sleep(_WORK_SECONDS)
            child = (worker.pss_bytes() - empty) / _SLOTS
            return [
                f"serve --no-workers: {api.pss_bytes() / _MIB:.0f} MiB, {of_api} connections",
                f"worker --slots {_SLOTS}: {empty / _MIB:.0f} MiB, {connections() - of_api} connections",
                f"each warm child of it: {child / _MIB:.0f} MiB",
            ]


def _submit(port: int, jobs: int) -> None:
    params = {"stages": 1, "stage_seconds": 1}
    body = orjson.dumps(
        {"analysis": "selftest", "params": params, "options": {"async_mode": {"requested": True}}}
    )
    with Connection(port) as connection:
        for _ in range(jobs):
            answer = connection.ask(Request("/analyze", "POST", {"Content-Type": "application/json"}, body))
            assert answer.status == 202, answer.body


def _process(folder: Path, url: str, *arguments: str) -> AbstractContextManager[Running]:
    port = free_port()
    options = ["--port", str(port), "--store-url", url, "--log-level", "error"]
    command = [str(COMMAND), *arguments, *options, "--store-file", str(folder / "store.v1.json")]
    return running(command, port, folder, "/health/ready")
