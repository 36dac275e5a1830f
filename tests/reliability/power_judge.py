"""What is wrong with an image after a power cut, found by opening it as the next start of the server would."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from async_delivery.domain.errors import AsyncDeliveryError
from async_delivery.domain.job import Job, ResultId
from async_delivery.storage.contract import JobFilter, Reader
from async_delivery.storage.opening import Mode, ensure_store, open_store
from tests.contract.support import ALPHA, House
from tests.domain.support import NOON
from tests.reliability.power import Cut
from tests.reliability.power_writer import ARTEFACTS, STORE

TERMINAL = {"completed", "failed", "canceled"}


@dataclass
class Verdict:
    """Faults by kind, one line each."""

    lost: list[str] = field(default_factory=list)
    corrupt: list[str] = field(default_factory=list)


def judge(cut: Cut, verdict: Verdict) -> None:
    """Open the image, look at all that was acknowledged, check every invariant, and write once more."""
    promised = {line.split()[0]: line.split()[1:] for line in cut.acks if line.count(" ") == 3}
    cleaned = "cleanup" in cut.acks
    path = cut.folder / STORE
    try:
        if not promised:
            # The power went while the store was made: the next start makes it, or takes over what is there.
            ensure_store(path, store_id="store-1", now=NOON)
        store = open_store(path, Mode.SERVE)
    except AsyncDeliveryError as exc:
        (verdict.lost if promised else verdict.corrupt).append(f"{cut.words}: {exc.message}")
        return
    try:
        lost = store.read(lambda reader: _lost(reader, promised, cleaned))
        verdict.lost += [f"{cut.words}: {fault}" for fault in lost]
        house = House(store)
        house.completed(payload={"after": "the power cut"})
        verdict.corrupt += [f"{cut.words}: {fault}" for fault in house.violations()]
    except AsyncDeliveryError as exc:
        verdict.corrupt.append(f"{cut.words}: {exc.message}")
    finally:
        store.close()
    _judge_artefacts(cut, verdict)


def _lost(reader: Reader, promised: dict[str, list[str]], cleaned: bool) -> list[str]:
    stored: dict[str, Job] = {job.job_id: job for job in reader.list_jobs(ALPHA, JobFilter(), 100_000, None)}
    wrong = []
    for job_id, (status, seq, result_id) in promised.items():
        job = stored.get(job_id)
        if job is None:
            wrong.append(f"{job_id} was {status}, and is lost")
        elif job.event_seq < int(seq) or (status in TERMINAL and str(job.status) != status):
            wrong.append(f"{job_id} was {status} at event {seq}, and is {job.status} at {job.event_seq}")
        elif result_id != "-" and not cleaned and reader.find_body(ALPHA, ResultId(result_id)) is None:
            wrong.append(f"{job_id} has lost its result")
    return wrong


def _judge_artefacts(cut: Cut, verdict: Verdict) -> None:
    folder = cut.folder / ARTEFACTS
    for path in folder.glob("retention*.json") if folder.exists() else ():
        try:
            json.loads(path.read_bytes())
        except ValueError:
            verdict.corrupt.append(f"{cut.words}: {path.name} is not whole")
