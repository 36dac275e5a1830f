"""The corpus: what each misbehaving analysis is asked, and how its job must end. Nothing of the product is imported.

``run`` submits all of it to a live fleet beside the jobs of a tenant that does nothing wrong.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.reliability.fleet import Fleet
from tests.reliability.population import Population
from tests.reliability.traffic import ask
from tests.system.live import eventually

WORKER = "tests.worker.misbehaving"
HERE = "tests.reliability.misbehaviour"
GOOD = "fine"
CALM_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Misdeed:
    """One way to misbehave.

    code      the job's error code; None if it completes
    attempts  how often it may be started at most
    timeout   seconds that one attempt may take; None: as the analysis says
    harms     the attempts of others die with it, and are made again
    """

    analysis: str
    params: dict[str, Any] = field(default_factory=dict)
    code: str | None = None
    attempts: int = 1
    timeout: float | None = None
    harms: bool = False

    def __str__(self) -> str:
        said = ",".join(f"{name}={value}" for name, value in self.params.items())
        return f"{self.analysis}({said})"


CRASHED, EXITED, MEMORY = "worker_crashed", "exited_without_result", "out_of_memory"
NO_JSON, TOO_LARGE, RAISED, LATE = "result_not_serializable", "result_too_large", "analysis_error", "timeout"
SHORT_SECONDS = 1.5


def _each(analysis: str, word: str, values: Sequence[str], code: str | None, **more: Any) -> list[Misdeed]:
    return [Misdeed(analysis, {word: value}, code, **more) for value in values]


# fmt: off
QUICK: tuple[Misdeed, ...] = (
    # its process ends
    Misdeed("segfault", {}, CRASHED, 3),
    Misdeed("exits", {"raw": True}, EXITED),
    Misdeed("exits", {"code": 0}, EXITED),
    Misdeed("exits", {"code": 3}, CRASHED, 3),
    Misdeed("overflows", {}, CRASHED, 3),
    Misdeed("becomes-another", {}, CRASHED, 3),
    Misdeed("kills-parent", {"way": "session"}, CRASHED, 2),
    # it takes what it can get
    *_each("eats", "way", ("python", "mmap", "child", "swallow"), MEMORY),
    Misdeed("leaks-descriptors", {}, RAISED),
    Misdeed("starts-threads", {}),
    Misdeed("leaves-thread", {}),
    Misdeed("forks", {"count": 20}, LATE, timeout=SHORT_SECONDS),
    Misdeed("leaves-daemon", {"then": "complete"}),
    Misdeed("fills-disk", {}),
    Misdeed("removes-workdir", {}),
    # it does not end
    Misdeed("stubborn", {}, LATE, timeout=SHORT_SECONDS),
    Misdeed("blocks-signals", {}, LATE, timeout=SHORT_SECONDS),
    Misdeed("holds-gil", {}, LATE, timeout=SHORT_SECONDS),
    Misdeed("sleeps-in-c", {}, LATE, timeout=SHORT_SECONDS),
    Misdeed("stops-itself", {}, LATE, timeout=SHORT_SECONDS),
    Misdeed("traces-itself", {}, LATE, timeout=SHORT_SECONDS),
    # what it says
    *_each("returns", "what", ("cycle", "set", "nan", "bytes", "keys", "surrogate", "object"), NO_JSON),
    Misdeed("returns", {"what": "huge"}, TOO_LARGE),
    *_each("returns-oddly", "what", ("deep", "digits", "infinite", "generator", "lambda", "true-key", "big-int",
                                     "liar"), NO_JSON),
    Misdeed("returns-oddly", {"what": "escapes"}),
    Misdeed("returns-oddly", {"what": "gigabyte"}, MEMORY),
    *_each("raises", "what", ("unpicklable", "keyboard", "odd"), RAISED),
    *_each("raises-much", "what", ("long", "chain", "base", "generator", "colours"), RAISED),
    *_each("partials", "what", ("huge",), TOO_LARGE),
    *_each("partials", "what", ("set",), NO_JSON),
    Misdeed("chatters", {"reports": 20_000}),
    Misdeed("reports-oddly", {}),
    # what it prints
    Misdeed("floods", {"mebibytes": 1024}, LATE, timeout=SHORT_SECONDS),
    Misdeed("prints", {"closes": True}),
    # its connection to the worker
    Misdeed("closes-everything", {}, CRASHED, 3),
    Misdeed("rubbish-on-pipe", {}, CRASHED, 3),
    *_each("forges", "what", ("garbage", "downward", "partial"), CRASHED, attempts=3),
    Misdeed("forges", {"what": "pickle"}, NO_JSON),
    Misdeed("forges", {"what": "endless"}, TOO_LARGE),
    Misdeed("forges", {"what": "error"}, RAISED),
)
LASTING: tuple[Misdeed, ...] = (
    Misdeed("partials", {"count": 100_000}, "too_many_partials"),
    # Their stacks count as memory of their own.
    Misdeed("starts-threads", {"count": 2_000}, RAISED),
    # Pages that a hundred copies share count for each of them.
    Misdeed("forks", {"count": 60}, MEMORY, timeout=20.0),
    Misdeed("floods", {"mebibytes": 1024}),
    Misdeed("chatters", {"reports": 1_000_000}),
)
# What a store has to do with: the rest ends before anything is written.
WRITTEN = tuple(each for each in QUICK if each.analysis in {
    "partials", "chatters", "returns", "returns-oddly", "raises", "raises-much", "reports-oddly", "forges", "prints",
    "segfault", "exits", "fills-disk",
})
# Who kills the forkserver ends every attempt that came from it.
HARMFUL = (Misdeed("kills-parent", {"way": "forkserver"}, CRASHED, 2, harms=True),)
# fmt: on


def options() -> list[str]:
    """What a server must be told, so that it offers the whole corpus."""
    refs = []
    for module in (WORKER, HERE):
        source = (Path(__file__).parents[2] / f"{module.replace('.', '/')}.py").read_text()
        names = [part.split('"', 1)[0] for part in source.split('@analysis("')[1:]]
        refs += [f"{module}:{name.replace('-', '_')}" for name in names]
    graces = ["--cancel-grace-seconds", "0.5", "--kill-grace-seconds", "0.5"]
    return [*(word for ref in refs for word in ("--analysis", ref)), *graces]


def submitted(people: Population, misdeed: Misdeed) -> str:
    """The id of its job."""
    body: dict[str, Any] = {
        "analysis": misdeed.analysis,
        "params": misdeed.params,
        "options": {"async_mode": {"requested": True}},
    }
    if misdeed.timeout is not None:
        body["timeout_seconds"] = misdeed.timeout
    answer = ask(people.port, "POST", "/analyze", org_id=people.org_id, body=body)
    assert answer.status == 202, (str(misdeed), answer.body)
    job_id: str = answer.json()["job"]["job_id"]
    return job_id


def faults_of(misdeed: Misdeed, job: dict[str, Any]) -> list[str]:
    """What is wrong with the end of its job."""
    wrong = []
    if job["error_code"] != misdeed.code:
        wrong.append(f"{misdeed}: {job['status']} {job['error_code']!r} {str(job['error_message'])[:200]!r}")
    if job["status"] != ("completed" if misdeed.code is None else "failed"):
        wrong.append(f"{misdeed}: {job['status']}")
    if job["attempt"] > misdeed.attempts and not misdeed.harms:
        wrong.append(f"{misdeed}: started {job['attempt']} times")
    if len(str(job["error_message"])) > 3_000:
        wrong.append(f"{misdeed}: a message of {len(job['error_message'])} characters")
    return wrong


def left_over(fleet: Fleet) -> list[str]:
    """Processes of the workers beside servers, forkservers and idle children, wherever they hang in the tree."""
    own, found = set(), []
    for node in fleet.nodes:
        assert node.process is not None
        for one in node.processes():
            with suppress(psutil.NoSuchProcess):
                at = one.pid if one.pid == node.process.pid else one.ppid()
                # The server, its forkserver, and the forkserver's children.
                if at == node.process.pid or psutil.Process(at).ppid() == node.process.pid:
                    own.add(one.pid)
    for one in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            # An idle child stands in a folder that is gone; so does whoever it has started.
            within = os.readlink(f"/proc/{one.pid}/cwd").startswith(str(fleet.store_file.parent))
            if within and one.pid not in own and one.status() != psutil.STATUS_ZOMBIE:
                found.append(f"{one.pid} {one.name()} {one.status()}")
    return found


def memory(fleet: Fleet) -> int:
    """Resident bytes of the servers and workers themselves, without what they started."""
    return sum(node.processes()[0].memory_info().rss for node in fleet.nodes)


@dataclass
class Neighbours:
    """A tenant whose jobs are all good, one after the other on each of its lines."""

    people: Population
    jobs: list[str] = field(default_factory=list)

    def one(self, seconds: float = 0.0) -> float:
        """Submit a job and wait for its end; how long that took."""
        began = time.monotonic()
        self.jobs.append(self.people.submit(GOOD, value=len(self.jobs), seconds=seconds))
        self.people.ended(self.jobs[-1:])
        return time.monotonic() - began

    def disturbed(self) -> list[str]:
        """Those that did not complete at once, with their own result."""
        wrong = []
        for value, job_id in enumerate(self.jobs):
            job = self.people.job(job_id)
            if (job["status"], job["attempt"]) != ("completed", 1):
                wrong.append(f"a neighbour's job: {job['status']} {job['error_code']} {job['attempt']}")
            elif (found := self.people.get(f"/analyze/results/{job['result_id']}")["result"])[
                "value"
            ] != value:
                wrong.append(f"a neighbour's result: {found}")
        return wrong


def run(fleet: Fleet, misdeeds: Sequence[Misdeed], *, seconds: float = 300.0) -> list[str]:
    """Everything that went wrong while ``misdeeds`` were done beside a good tenant's jobs."""
    bad, good = Population(fleet, "bad"), Neighbours(Population(fleet, "good"))
    good.one()
    job_ids = [submitted(bad, misdeed) for misdeed in misdeeds]
    until = time.monotonic() + seconds
    while bad.in_state("queued", "running", "partial"):
        if time.monotonic() > until:
            raise AssertionError(
                f"not done after {seconds:g} s: {bad.in_state('queued', 'running', 'partial')}"
            )
        good.one()
    wrong = [
        fault
        for each, job in zip(misdeeds, bad.ended(job_ids), strict=True)
        for fault in faults_of(each, job)
    ]
    eventually(lambda: not left_over(fleet), "processes are left over", CALM_SECONDS)
    return wrong + good.disturbed()
