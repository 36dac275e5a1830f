"""What it costs to convert the older document, to export a store and to import that: time, processor and memory.

    python -m bench.moves --jobs 100000

Each step is a command of its own, as an operator would run it; the document is laid out as the older service did.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

PROGRAM = Path(sys.executable).with_name("async-delivery")
_ROWS = 20
_AT = "2026-03-01T12:00:0{}.{:06d}+00:00"


@dataclass(frozen=True, slots=True)
class Cost:
    """What one step took. ``max_rss_bytes`` counts pages of a mapped file as well."""

    step: str
    seconds: float
    cpu_seconds: float
    max_rss_bytes: int
    file_bytes: int


def write_document(path: Path, jobs: int) -> None:
    """A document of version 5 with two results, four events and a notification for each job; one in forty runs."""
    chance = random.Random(1)
    ids = [_ids(chance) for _ in range(jobs)]
    with path.open("w", encoding="utf-8") as out:
        out.write("{\n")
        for section, records in (
            ("events", lambda: ((it["job"], _events(it)) for it in ids)),
            ("jobs", lambda: ((it["job"], _job(number, it)) for number, it in enumerate(ids))),
            (
                "notifications",
                lambda: ((it["told"], _told(it)) for number, it in enumerate(ids) if number % 40),
            ),
            ("results", lambda: (pair for it in ids for pair in _results(it))),
        ):
            _section(out, section, records)
        out.write('  "schema_version": 5\n}')


def _ids(chance: random.Random) -> dict[str, str]:
    names = ("job", "partial", "final", "told", "request")
    return {name: str(uuid.UUID(int=chance.getrandbits(128), version=4)) for name in names}


def _section(out: IO[str], name: str, records: Callable[[], Iterator[tuple[str, Any]]]) -> None:
    out.write(f'  "{name}": {{')
    first = True
    for key, value in records():
        out.write("\n    " if first else ",\n    ")
        text = json.dumps(value, ensure_ascii=False, sort_keys=True, indent=2)
        out.write(json.dumps(key) + ": " + text.replace("\n", "\n    "))
        first = False
    out.write("\n  },\n")


def _job(number: int, ids: dict[str, str]) -> dict[str, Any]:
    running = number % 40 == 0
    return {
        "job_id": ids["job"],
        "correlation_id": ids["request"],
        "org_id": f"org-{number % 7}",
        "owner_user_id": None,
        "owner_org_id": f"org-{number % 7}",
        "status": "running" if running else "completed",
        "request_payload_hash": "a" * 64,
        "request_payload_ref": f"inline:{ids['job']}",
        "request_payload_json": {"query": "Bahnhofstrasse 1", "options": {"async_mode": {"requested": True}}},
        "query": "Bahnhofstrasse 1",
        "intelligence_mode": "basic",
        "progress_percent": 10 if running else 100,
        "partial_count": 1,
        "error_count": 0,
        "result_id": ids["partial"] if running else ids["final"],
        "error_code": None,
        "error_message": None,
        "retryable": None,
        "retry_hint": None,
        "cancel_requested_at": None,
        "canceled_at": None,
        "canceled_by": None,
        "cancel_reason": None,
        "queued_at": _AT.format(0, number % 10**6),
        "started_at": _AT.format(1, number % 10**6),
        "finished_at": None if running else _AT.format(3, number % 10**6),
        "updated_at": _AT.format(3, number % 10**6),
    }


def _results(ids: dict[str, str]) -> Iterator[tuple[str, dict[str, Any]]]:
    for seq, kind in enumerate(("partial", "final"), start=1):
        yield (
            ids[kind],
            {
                "result_id": ids[kind],
                "job_id": ids["job"],
                "result_kind": kind,
                "result_seq": seq,
                "schema_version": "v1",
                "result_payload": {"rows": [{"a": row, "b": f"text {row}"} for row in range(_ROWS)]},
                "summary_json": {"status": "running"},
                "created_at": _AT.format(2, 0),
            },
        )


def _events(ids: dict[str, str]) -> list[dict[str, Any]]:
    return [
        {
            "event_id": f"{ids['request']}-{seq}",
            "job_id": ids["job"],
            "event_type": word,
            "event_seq": seq,
            "occurred_at": _AT.format(seq - 1, 0),
            "actor_type": "system",
            "payload_json": {"status": word, "progress_percent": 10, "result_id": None, "error_code": None},
        }
        for seq, word in enumerate(("job.queued", "job.running", "job.partial", "job.completed"), start=1)
    ]


def _told(ids: dict[str, str]) -> dict[str, Any]:
    return {
        "notification_id": ids["told"],
        "job_id": ids["job"],
        "channel": "in_app",
        "template_key": "async.job.completed",
        "delivery_status": "pending",
        "attempt_count": 0,
        "last_error": None,
        "dedupe_key": f"{ids['job']}:in_app:async.job.completed",
        "scheduled_at": _AT.format(3, 0),
        "sent_at": None,
        "created_at": _AT.format(3, 0),
        "payload_json": {"job_id": ids["job"], "status": "completed", "result_id": ids["final"]},
    }


def measure(step: str, folder: Path, file: str, *arguments: str) -> Cost:
    """Run one command of the program and say what it took. Raises RuntimeError if it fails."""
    began = time.perf_counter()
    child = subprocess.Popen(
        [PROGRAM, *arguments], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    assert child.stderr is not None
    said = child.stderr.read()
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    child.stderr.close()
    if child.returncode != 0:
        raise RuntimeError(f"{step} ended with {child.returncode}: {said.decode(errors='replace')[:2000]}")
    return Cost(
        step,
        round(time.perf_counter() - began, 2),
        round(used.ru_utime + used.ru_stime, 2),
        used.ru_maxrss * 1024,
        (folder / file).stat().st_size,
    )


def run(jobs: int, folder: Path) -> list[Cost]:
    """All steps in ``folder``, which should lie on the disk to be measured."""
    write_document(folder / "store.json", jobs)
    size = (folder / "store.json").stat().st_size
    (folder / "there").mkdir()
    subprocess.run(
        [PROGRAM, "store", "init", "--store-file", "there/s.json"],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    store = ("--store-file", "store.json")
    costs = [
        measure("cleanup --dry-run", folder, "store.json", "cleanup", "--dry-run", *store),
        measure("store convert", folder, "store.v1.sqlite3", "store", "convert", *store),
        measure("store export", folder, "out.json", "store", "export", "out.json", *store),
        measure(
            "store import", folder, "out.json", "store", "import", "out.json", "--store-file", "there/s.json"
        ),
        measure(
            "store import again",
            folder,
            "out.json",
            "store",
            "import",
            "out.json",
            "--store-file",
            "there/s.json",
        ),
    ]
    print(f"{jobs} jobs, a document of {size / 1e6:.0f} MB", file=sys.stderr)
    return costs


def main() -> int:
    """The table on stdout, or JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.moves", description=__doc__.splitlines()[0] if __doc__ else ""
    )
    parser.add_argument("--jobs", type=int, default=100_000, metavar="N")
    parser.add_argument("--scratch", type=Path, metavar="DIR", help="on the disk to be measured")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as folder:
        costs = run(arguments.jobs, Path(folder))
    if arguments.json:
        print(json.dumps([asdict(cost) for cost in costs], indent=2))
        return 0
    print(f"{'step':<20} {'seconds':>8} {'cpu':>8} {'max RSS MB':>11}")
    for cost in costs:
        print(f"{cost.step:<20} {cost.seconds:>8} {cost.cpu_seconds:>8} {cost.max_rss_bytes / 1e6:>11.0f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
