"""The command line of the benchmarks: which groups, how many rounds, and where the figures go."""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from bench import (
    busy,
    child,
    cleanup,
    growth,
    idle,
    latency,
    machine,
    payloads,
    postgres,
    reads,
    report,
    submits,
    throughput,
    wide,
)
from bench.figures import Figure
from bench.lab import Lab, say
from bench.load import find_wrk
from bench.peers import measure as peers

_HERE = Path(__file__).resolve().parent
_GROUPS = {
    "submits": submits.run,
    "latency": latency.run,
    "throughput": throughput.run,
    "reads": reads.run,
    "child": child.run,
    "idle": idle.run,
    "peers": peers.run,
    "busy": busy.run,
    "payloads": payloads.run,
    "wide": wide.run,
    "cleanup": cleanup.run,
    "postgres": postgres.run,
    "growth": growth.run,
}
# Minutes to half an hour each; some need a PostgreSQL, some much room on the disk.
_WHEN_ASKED = ("payloads", "wide", "cleanup", "postgres", "growth")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure the service beside the limits of this machine, in alternating rounds of one run.",
        epilog="The table goes to stdout, progress to stderr, JSON to bench/out. Exit 0 done, 1 failed, 2 wrong usage.",
    )
    parser.add_argument(
        "--rounds", type=int, metavar="N", help="values per figure (default 5; with --quick 2)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="short steps: to see that it works, not to compare"
    )
    parser.add_argument(
        "--only", action="append", choices=_GROUPS, metavar="NAME", help=f"one of {', '.join(_GROUPS)}"
    )
    parser.add_argument(
        "--all", action="store_true", help=f"also {', '.join(_WHEN_ASKED)}, which take an hour or two"
    )
    parser.add_argument(
        "--json", type=Path, metavar="F", help="where the JSON goes (default bench/out/DATE.json)"
    )
    parser.add_argument("--markdown", type=Path, metavar="F", help="write the page of results there as well")
    parser.add_argument(
        "--scratch", type=Path, metavar="DIR", help="on the disk to be measured (default: bench/out)"
    )
    arguments = parser.parse_args()
    if arguments.rounds is not None and arguments.rounds < 1:
        parser.error("--rounds must be at least 1")
    if arguments.all and arguments.only:
        parser.error("--all and --only exclude each other")
    return arguments


def _lab(scratch: Path, quick: bool, rounds: int | None) -> Lab:
    if quick:
        return Lab(
            scratch,
            rounds or 2,
            seconds=1.0,
            idle_seconds=2.0,
            samples=100,
            jobs=200,
            raw_writes=5_000,
            child_rows=100_000,
            wrk=find_wrk(),
            stored=(1_000, 10_000, 50_000),
            peer_jobs=100,
            partials=1_000,
            tenants=1_000,
            cleaned=5_000,
        )
    return Lab(
        scratch,
        rounds or 5,
        seconds=2.0,
        idle_seconds=5.0,
        samples=300,
        jobs=1_000,
        raw_writes=20_000,
        child_rows=1_000_000,
        wrk=find_wrk(),
    )


@dataclass(slots=True)
class _Run:
    """What has been measured so far, and how; written down after every group, so that no fault costs an hour."""

    arguments: argparse.Namespace
    lab: Lab
    facts: dict[str, str]
    groups: dict[str, list[Figure]] = field(default_factory=dict)
    took: dict[str, int] = field(default_factory=dict)
    failed: bool = False
    _began: float = field(default_factory=time.perf_counter)
    _neighbours: machine.Neighbours = field(default_factory=machine.Neighbours)

    def measure(self, name: str) -> None:
        """One group. One that fails is named as not measured, and the others go on."""
        began = time.perf_counter()
        try:
            self.groups[name] = _GROUPS[name](self.lab)
        except Exception as exc:  # noqa: BLE001 - whatever went wrong in one group, the others are measured
            self.failed = True
            self.lab.skip(f"the group {name}", f"failed: {type(exc).__name__}: {exc}")
        finally:
            for left in self.lab.scratch.iterdir():
                shutil.rmtree(left, ignore_errors=True)
        self.took[name] = round(time.perf_counter() - began)
        for figure in self.groups.get(name, []):
            say(f"{name}: {figure.name}: {report.ranged(figure.ours, figure.unit)}")
        say(f"{name}: {self.took[name]} s")
        self.write_json()

    @property
    def _about(self) -> dict[str, Any]:
        return {
            "command": " ".join(["python -m bench", *sys.argv[1:]]),
            "rounds": self.lab.rounds,
            "took_seconds": round(time.perf_counter() - self._began),
            "group_seconds": self.took,
            "quick": self.arguments.quick,
        }

    def write_json(self) -> Path:
        """All that there is; the file's path."""
        self.facts["other processes meanwhile"] = f"{self._neighbours.percent():.0f} % of all cores"
        stamp = self.facts["date"].replace(" UTC", "Z").replace(" ", "T").replace(":", "")
        target: Path = self.arguments.json or _HERE / "out" / f"{stamp}.json"
        target.parent.mkdir(parents=True, exist_ok=True)
        document = report.document(self.groups, self.facts, self._about, self.lab.missing)
        target.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        return target

    def tell(self) -> None:
        """The tables, and the page if it is wanted."""
        every = [figure for figures in self.groups.values() for figure in figures]
        print(report.table(every))
        print(f"\n{report.judged(every)}")
        if self.lab.missing:
            print(f"\n{report.missing(self.lab.missing)}")
        target = self.write_json()
        say(f"Other processes meanwhile: {self.facts['other processes meanwhile']}")
        say(f"JSON: {target}")
        if self.arguments.markdown:
            page = report.markdown(self.groups, self.facts, self._about, self.lab.missing)
            self.arguments.markdown.write_text(page, encoding="utf-8")


def _stop(*_: Any) -> NoReturn:
    # Once is enough: a second Ctrl-C must not cut short how everything is stopped and removed.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def main() -> int:
    """Measure, print, keep."""
    arguments = _arguments()
    signal.signal(signal.SIGINT, _stop)
    signal.signal(signal.SIGTERM, _stop)
    asked = arguments.only or [name for name in _GROUPS if arguments.all or name not in _WHEN_ASKED]
    names = [name for name in _GROUPS if name in asked]
    parent = arguments.scratch or _HERE / "out"
    parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix="scratch-", dir=parent)).resolve()
    try:
        lab = _lab(scratch, arguments.quick, arguments.rounds)
        if lab.wrk is None:
            say(
                "wrk is not installed (Debian, Ubuntu: apt-get install wrk); the load comes from Python instead"
            )
        run = _Run(arguments, lab, machine.describe(scratch))
        for name in names:
            run.measure(name)
    except KeyboardInterrupt:
        say("stopped; what was measured before is in the JSON")
        return 1
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    run.tell()
    return 1 if run.failed else 0


if __name__ == "__main__":
    sys.exit(main())
