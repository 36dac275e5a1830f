"""Runs ``profile`` on one file in a fresh process, beside DuckDB's own SUMMARIZE, and prints what each took.

    python bench/profile_data.py bench/out/profile.csv
    python bench/profile_once.py bench/out/profile.csv [--rounds 3] [--json]

Each measurement has a process of its own: the wall seconds count from the moment its imports are done (the
service's children have them preloaded), the resident memory is the highest of its life. The two take turns, so
that a busy neighbour disturbs both. SUMMARIZE runs with DuckDB's settings of the sandbox: the same threads and
memory limit, and no limits of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

MEMORY_LIMIT_MB = 256
TARGET_SECONDS = 8.0
TARGET_MEGABYTES = 400


def run_profile(path: Path) -> dict[str, Any]:
    """One profile in this process."""
    import duckdb  # noqa: F401  # preloaded in the service's children

    from async_delivery.analyses.profile import profile
    from async_delivery.testing import run_inline

    began = time.perf_counter()
    report = run_inline(profile, {"memory_limit_mb": MEMORY_LIMIT_MB}, input=path).result
    return _measured(began, rows=report["dataset"]["rows"], report_bytes=len(json.dumps(report)))


def run_summarize(path: Path) -> dict[str, Any]:
    """One SUMMARIZE of the same file in this process."""
    import duckdb

    began = time.perf_counter()
    settings: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": f"{MEMORY_LIMIT_MB}MB",
        "threads": min(2, len(os.sched_getaffinity(0))),
    }
    reader = "read_parquet" if path.suffix == ".parquet" else "read_csv"
    with duckdb.connect(config=settings) as connection:
        target = str(path).replace("'", "''")
        rows = connection.execute(f"SUMMARIZE SELECT * FROM {reader}('{target}')").fetchall()
    return _measured(began, columns=len(rows))


def _measured(began: float, **more: Any) -> dict[str, Any]:
    seconds = time.perf_counter() - began
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "wall_seconds": round(seconds, 3),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 3),
        "peak_rss_mb": round(usage.ru_maxrss * 1024 / 1e6, 1),
        **more,
    }


def _in_fresh_process(kind: str, path: Path) -> dict[str, Any]:
    command = [sys.executable, __file__, str(path), "--child", kind]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    measured: dict[str, Any] = json.loads(done.stdout)
    return measured


def main() -> int:
    """Parse the command line, measure, print. Exit 1 if a target is missed."""
    parser = argparse.ArgumentParser(description="Measure the profile analysis beside DuckDB's SUMMARIZE.")
    parser.add_argument("path", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--child", choices=["profile", "summarize"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        measured = (run_profile if arguments.child == "profile" else run_summarize)(arguments.path)
        print(json.dumps(measured))
        return 0

    runs: dict[str, list[dict[str, Any]]] = {"profile": [], "summarize": []}
    for _ in range(arguments.rounds):
        for kind, measurements in runs.items():
            measurements.append(_in_fresh_process(kind, arguments.path))
    median = {
        kind: statistics.median(each["wall_seconds"] for each in measurements)
        for kind, measurements in runs.items()
    }
    peak = max(each["peak_rss_mb"] for each in runs["profile"])
    summary = {
        "runs": runs,
        "median_wall_seconds": median,
        "ratio_to_summarize": round(median["profile"] / median["summarize"], 2),
        "peak_rss_mb": peak,
        "within_target": median["profile"] <= TARGET_SECONDS and peak <= TARGET_MEGABYTES,
    }
    if arguments.json:
        print(json.dumps(summary, indent=2))
    else:
        print(f"{'':12}{'wall s':>9}{'cpu s':>9}{'peak RSS MB':>13}")
        for kind, measurements in runs.items():
            for each in measurements:
                numbers = f"{each['wall_seconds']:9.2f}{each['cpu_seconds']:9.2f}{each['peak_rss_mb']:13.0f}"
                print(f"{kind:12}{numbers}")
        print(f"profile / SUMMARIZE: {summary['ratio_to_summarize']:.2f} (medians)")
        print(f"target: {TARGET_SECONDS:g} s and {TARGET_MEGABYTES} MB on a million rows")
    return 0 if summary["within_target"] else 1


if __name__ == "__main__":
    sys.exit(main())
