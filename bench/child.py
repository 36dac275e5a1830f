"""What the ``profile`` analysis costs its child process on a large CSV, beside DuckDB's own SUMMARIZE of the file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from bench import targets
from bench.figures import Figure, Sense, Target
from bench.lab import Lab, say
from bench.load import LoadError

_HERE = Path(__file__).resolve().parent
_STEP_SECONDS = 600.0


def run(lab: Lab) -> list[Figure]:
    """Wall seconds, CPU seconds and the highest resident memory."""
    data = lab.folder("profile") / "profile.csv"
    _program("profile_data.py", str(data), "--rows", str(lab.child_rows))
    rounds = []
    for number in range(lab.rounds):
        say(f"child: round {number + 1} of {lab.rounds}")
        told = json.loads(_program("profile_once.py", str(data), "--rounds", "1", "--json", accept=(0, 1)))
        rounds.append(told["runs"])

    def values(kind: str, name: str) -> tuple[float, ...]:
        return tuple(float(runs[kind][0][name]) for runs in rounds)

    beside = "DuckDB SUMMARIZE"
    million = lab.child_rows == 1_000_000
    settings = (
        f"profile on {lab.child_rows:,} generated rows of 20 columns ({data.stat().st_size / 1e6:.0f} MB of CSV) by "
        "bench/profile_once.py, each in a fresh process, imports not counted, as they are preloaded in the service"
    )
    return [
        Figure(
            "profile of a CSV, time",
            "s",
            Sense.COST,
            values("profile", "wall_seconds"),
            settings,
            values("summarize", "wall_seconds"),
            beside,
            _target("profile of a CSV, time", million),
        ),
        Figure(
            "profile of a CSV, CPU",
            "s",
            Sense.COST,
            values("profile", "cpu_seconds"),
            "The same runs, imports counted",
            values("summarize", "cpu_seconds"),
            beside,
        ),
        Figure(
            "profile of a CSV, peak RSS",
            "MB",
            Sense.COST,
            values("profile", "peak_rss_mb"),
            "The same runs",
            values("summarize", "peak_rss_mb"),
            beside,
            _target("profile of a CSV, peak RSS", million),
        ),
    ]


def _target(figure: str, million: bool) -> Target | None:
    """The targets speak of a million rows; on fewer they judge nothing."""
    found = targets.of(figure)
    return found if million or found is None else Target(f"{found.text} on a million rows", found.measure)


def _program(name: str, *arguments: str, accept: tuple[int, ...] = (0,)) -> str:
    done = subprocess.run(
        [sys.executable, str(_HERE / name), *arguments],
        capture_output=True,
        text=True,
        timeout=_STEP_SECONDS,
        check=False,
    )
    if done.returncode not in accept:
        raise LoadError(f"{name} ended with {done.returncode}: {done.stderr[-1000:]}")
    return done.stdout
