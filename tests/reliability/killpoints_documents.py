"""The commit paths of the older form of a store: the cleanup of a document in place, and its conversion."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from async_delivery.cli.retention import script
from async_delivery.settings import Settings
from async_delivery.storage.opening import Mode, open_store
from async_delivery.wiring.transfer import convert
from tests.contract.support import ALPHA
from tests.reliability.killpoints_paths import STORE, CommitPath, where
from tests.storage.documents import event, job, result

JOBS = 20


def write_document(folder: Path) -> None:
    ids = [f"job-{number:03d}" for number in range(JOBS)]
    (folder / STORE).write_text(
        json.dumps(
            {
                "schema_version": 5,
                "jobs": {job_id: job(job_id) for job_id in ids},
                "results": {
                    f"{job_id}-final": result(f"{job_id}-final", job_id, "final", 1) for job_id in ids
                },
                "events": {job_id: [event(job_id, 1, "job.queued")] for job_id in ids},
                "notifications": {},
            },
            indent=1,
        )
    )
    (folder / "original").write_bytes((folder / STORE).read_bytes())


def clean(folder: Path, ack: Callable[[str], None]) -> None:
    args = ["--store-file", str(folder / STORE), "--results-ttl-seconds", "0", "--events-ttl-seconds", "0"]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        code = script(args, "cleanup")
    assert code == 0, code
    ack("cleaned all")


def judge_clean(folder: Path, acks: Sequence[str]) -> list[str]:
    wrong = _faults_of_document(folder, cleaned=bool(acks), either=not acks)
    clean(folder, lambda _: None)
    wrong += _faults_of_document(folder, cleaned=True, either=False)
    own = {STORE, f"{STORE}.lock", "original", "acks", "go"}
    return wrong + [f"litter: {path.name}" for path in folder.iterdir() if path.name not in own]


def _faults_of_document(folder: Path, *, cleaned: bool, either: bool) -> list[str]:
    original = json.loads((folder / "original").read_bytes())
    try:
        found: dict[str, Any] = json.loads((folder / STORE).read_bytes())
    except ValueError as exc:
        return [f"the document is no longer whole: {exc}"]
    if found == original:
        return [] if either or not cleaned else ["acknowledged, and nothing is gone"]
    wrong = [f"{len(found['results'])} results are left"] if found["results"] else []
    wrong += ["events are left"] if any(found["events"].values()) else []
    # They ended long ago: once nothing else is kept of them, they go in the same write.
    wrong += [f"{len(found['jobs'])} jobs are left"] if found["jobs"] else []
    return wrong


def turn(folder: Path, ack: Callable[[str], None]) -> None:
    moved = convert(Settings(store_file=folder / STORE), None)
    ack(f"converted {moved.file.store_id}")


def judge_turned(folder: Path, acks: Sequence[str]) -> list[str]:
    original = (folder / "original").read_bytes()
    wrong = []
    if acks and (folder / STORE).read_bytes() == original:
        wrong.append("acknowledged, and still a document")
    if (
        not acks
        and "database" not in (folder / STORE).read_text()
        and (folder / STORE).read_bytes() != original
    ):
        wrong.append("neither the document nor a store file")
    convert(Settings(store_file=folder / STORE), None)
    if not [path for path in folder.glob(f"{STORE}.bak-*") if path.read_bytes() == original]:
        wrong.append("the original is not kept")
    store = open_store(folder / STORE, Mode.SERVE)
    try:
        wrong += store.read(lambda reader: reader.violations(5))
        for number in range(JOBS):
            job_id = f"job-{number:03d}"
            found = store.read(lambda reader, job_id=job_id: reader.find_job(ALPHA, job_id))  # type: ignore[misc]
            wrong += [f"{job_id} is lost"] * (found is None)
    finally:
        store.close()
    hidden = [path.name for path in folder.iterdir() if path.name.startswith(".")]
    return wrong + [f"litter: {name}" for name in hidden]


DOCUMENT_PATHS = {
    path.name: path
    for path in (
        CommitPath("document-cleanup", write_document, where, clean, judge_clean),
        CommitPath("convert", write_document, where, turn, judge_turned, threads=3),
    )
}
