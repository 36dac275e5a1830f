"""The command line of the benchmarks: which groups, how many rounds, and where the figures go."""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
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
from bench.load import LoadError, find_wrk
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


def _measure(lab: Lab, names: Sequence[str]) -> dict[str, list[Figure]]:
    groups = {}
    for name in names:
        groups[name] = _GROUPS[name](lab)
        for figure in groups[name]:
            say(f"{name}: {figure.name}: {report.ranged(figure.ours, figure.unit)}")
    return groups


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
        facts = machine.describe(scratch)
        began, neighbours = time.perf_counter(), machine.Neighbours()
        groups = _measure(lab, names)
    except KeyboardInterrupt:
        say("stopped")
        return 1
    except LoadError as exc:
        say(f"failed: {exc}")
        return 1
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    facts["other processes meanwhile"] = f"{neighbours.percent():.0f} % of all cores"
    run = {
        "command": " ".join(["python -m bench", *sys.argv[1:]]),
        "rounds": lab.rounds,
        "took_seconds": round(time.perf_counter() - began),
        "quick": arguments.quick,
    }
    _keep(arguments, groups, facts, run, lab.missing)
    return 0


def _keep(
    arguments: argparse.Namespace,
    groups: dict[str, list[Figure]],
    facts: dict[str, str],
    run: dict[str, Any],
    reasons: dict[str, str],
) -> None:
    every = [figure for figures in groups.values() for figure in figures]
    print(report.table(every))
    print(f"\n{report.judged(every)}")
    if reasons:
        print(f"\n{report.missing(reasons)}")
    stamp = facts["date"].replace(" UTC", "Z").replace(" ", "T").replace(":", "")
    target = arguments.json or _HERE / "out" / f"{stamp}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    document = report.document(groups, facts, run, reasons)
    target.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    say(f"Other processes meanwhile: {facts['other processes meanwhile']}")
    say(f"JSON: {target}")
    if arguments.markdown:
        arguments.markdown.write_text(report.markdown(groups, facts, run, reasons), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
