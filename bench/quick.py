"""The working tree beside a commit, in about a minute: did a change make the service faster or slower?

    python -m bench.quick [--against REV] [--rounds N]

Both run from copies of their ``src`` in a scratch folder, on the same environment, and take turns in every round.
CPU per operation is what to look at; rates move with whatever else the machine does. Exit 0 measured (whatever came
of it), 1 failed or stopped, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from bench import machine
from bench.figures import TIMES
from bench.lab import NOOP, RESULT_BYTES, SLOTS, Lab, in_turn, post, say
from bench.load import Connection, LoadError, Request, find_wrk
from bench.report import lines, number, ranged
from bench.server import ROOT, Running, service
from bench.submits import OPTIONS, SUBMIT
from bench.throughput import complete

_ROUNDS, _SECONDS, _JOBS = 5, 1.0, 150
_HEAD = ("figure", "CPU/op before", "CPU/op now", "ratio", "before", "now", "ratio of rates")


@dataclass(slots=True)
class Series:
    """One figure of one side: rate and CPU microseconds per operation, one per round."""

    rates: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)


@dataclass(slots=True)
class Comparison:
    """One figure of both sides, round by round."""

    name: str
    before: Series = field(default_factory=Series)
    now: Series = field(default_factory=Series)

    def row(self) -> tuple[str, ...]:
        """For the table: medians, and ratios formed within each round. Raises ValueError if rounds are missing."""
        cpu = [now / was for now, was in zip(self.now.cpu_us, self.before.cpu_us, strict=True)]
        rates = [now / was for now, was in zip(self.now.rates, self.before.rates, strict=True)]
        return (
            self.name,
            ranged(self.before.cpu_us, "µs"),
            ranged(self.now.cpu_us, "µs"),
            ranged(cpu, TIMES),
            ranged(self.before.rates, "/s"),
            ranged(self.now.rates, "/s"),
            ranged(rates, TIMES),
        )


@dataclass(frozen=True, slots=True)
class _Side:
    """One state of the code: a server that only accepts, and one that runs jobs as well."""

    accepting: Running
    working: Running
    reads: tuple[Request, Request]


def _copy_of_commit(revision: str, target: Path) -> str:
    """Its ``src`` in ``target``; the commit's short name. Raises LoadError if there is no such commit."""
    try:
        short = _git("rev-parse", "--short", "--verify", f"{revision}^{{commit}}").decode().strip()
        packed = _git("archive", short, "src")
    except (OSError, subprocess.CalledProcessError) as exc:
        told = getattr(exc, "stderr", b"") or b""
        raise LoadError(f"no commit {revision!r} to compare with: {told.decode().strip() or exc}") from exc
    target.mkdir()
    subprocess.run(["tar", "-x", "-C", str(target)], input=packed, check=True)  # noqa: S607 - the machine's own
    return short


def _git(*arguments: str) -> bytes:
    command = ["git", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout


def _open(stack: ExitStack, lab: Lab, source: Path) -> _Side:
    variables = {"PYTHONPATH": str(source / "src")}
    accepting = stack.enter_context(service(lab.folder("accepting"), *OPTIONS, variables=variables))
    working = stack.enter_context(
        service(lab.folder("working"), "--slots", str(SLOTS), probe="/health/ready", variables=variables)
    )
    body = {**NOOP, "params": {"stages": 0, "payload_bytes": RESULT_BYTES - 100}}
    with Connection(working.port) as connection:
        done = connection.ask(post(body, Prefer="wait=30"))
    if done.status != 200:
        raise LoadError(f"the job to be read did not complete: {done.status} {done.body[:500]!r}")
    told = done.json()
    complete(working, 50, "warm-up")
    reads = Request(f"/analyze/results/{told['result_id']}"), Request(f"/analyze/jobs/{told['job_id']}")
    return _Side(accepting, working, reads)


def _steps(lab: Lab, jobs: int) -> dict[str, Callable[[_Side], tuple[float, float]]]:
    names = count()

    def loaded(server: Running, request: Request, expected: int) -> tuple[float, float]:
        measured = lab.put_under_load(server, request, expected)
        return measured.load.per_second, measured.cpu_us

    def end_to_end(side: _Side) -> tuple[float, float]:
        before = side.working.cpu_seconds()
        took = complete(side.working, jobs, f"round-{next(names)}")
        return jobs / took, (side.working.cpu_seconds() - before) / jobs * 1e6

    return {
        "submits": lambda side: loaded(side.accepting, SUBMIT, 202),
        "permalink, 4 KiB": lambda side: loaded(side.working, side.reads[0], 200),
        "job status": lambda side: loaded(side.working, side.reads[1], 200),
        "jobs end to end": end_to_end,
    }


def compare(scratch: Path, revision: str, rounds: int) -> tuple[str, list[Comparison]]:
    """The short name of the commit, and every figure."""
    lab = Lab(scratch, rounds, _SECONDS, 0.0, 0, _JOBS, 0, 0, find_wrk())
    short = _copy_of_commit(revision, scratch / "before")
    (scratch / "now").mkdir()
    shutil.copytree(ROOT / "src", scratch / "now" / "src", ignore=shutil.ignore_patterns("__pycache__"))
    with ExitStack() as stack:
        before, now = (_open(stack, lab, scratch / side) for side in ("before", "now"))
        steps = _steps(lab, _JOBS)
        found = [Comparison(name) for name in steps]
        for turn in range(rounds):
            say(f"quick: round {turn + 1} of {rounds}")
            for comparison, step in zip(found, steps.values(), strict=True):
                in_turn(
                    turn,
                    [
                        _taking(step, before, comparison.before),
                        _taking(step, now, comparison.now),
                    ],
                )
    return short, found


def _taking(step: Callable[[_Side], tuple[float, float]], side: _Side, into: Series) -> Callable[[], None]:
    def take() -> None:
        rate, cost = step(side)
        into.rates.append(rate)
        into.cpu_us.append(cost)

    return take


def main() -> int:
    """Measure both, print the table, keep it as JSON in bench/out."""
    parser = argparse.ArgumentParser(prog="python -m bench.quick", description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "--against", default="HEAD", metavar="REV", help="commit to compare with (default HEAD)"
    )
    parser.add_argument("--rounds", type=int, default=_ROUNDS, metavar="N")
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error("--rounds must be at least 1")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    out = ROOT / "bench" / "out"
    out.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix="scratch-", dir=out))
    began, neighbours = time.perf_counter(), machine.Neighbours()
    try:
        short, found = compare(scratch, arguments.against, arguments.rounds)
    except KeyboardInterrupt:
        say("stopped")
        return 1
    except LoadError as exc:
        say(f"failed: {exc}")
        return 1
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    print(lines([_HEAD, *(comparison.row() for comparison in found)]))
    print(
        f"\nBefore: {short}. Now: the working tree. {arguments.rounds} rounds, "
        f"{number(time.perf_counter() - began)} s; others used {neighbours.percent():.0f} % of all cores."
    )
    kept = {
        comparison.name: {
            side: {"rates": series.rates, "cpu_us": series.cpu_us}
            for side, series in (("before", comparison.before), ("now", comparison.now))
        }
        for comparison in found
    }
    document = {"before": short, "now": "working tree", "rounds": arguments.rounds, "figures": kept}
    (out / "quick.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
