"""promtool, and what it is fed: rules, unit tests of rules, and series scraped from a live server."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.docs.pages import ROOT, code, read, rows

FOLDER = ROOT / "deploy/prometheus"
RULES = FOLDER / "async-delivery.rules.yml"
_DEADLINE_SECONDS = 600.0
_WORDS = re.compile(r"\b(?:async_delivery:[a-z0-9_:]+|async_[a-z0-9_]+|process_[a-z0-9_]+|up)\b")


@dataclass(frozen=True, slots=True)
class Said:
    """What promtool answered."""

    ok: bool
    text: str


def promtool(*arguments: str, cwd: Path = FOLDER, stdin: str = "") -> Said:
    """Run promtool; skips the test where there is none."""
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("no promtool on the PATH: apt-get install prometheus")
    done = subprocess.run(
        [program, *arguments],
        cwd=cwd,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=_DEADLINE_SECONDS,
        check=False,
    )
    return Said(done.returncode == 0, done.stdout + done.stderr)


def groups(path: Path = RULES) -> list[dict[str, Any]]:
    """The groups of a rule file."""
    found: list[dict[str, Any]] = yaml.safe_load(path.read_text())["groups"]
    return found


def recordings() -> dict[str, str]:
    """Recorded name -> expression."""
    return {rule["record"]: rule["expr"] for each in groups() for rule in each["rules"] if "record" in rule}


def alerts() -> dict[str, dict[str, Any]]:
    """Alert name -> rule."""
    return {rule["alert"]: rule for each in groups() for rule in each["rules"] if "alert" in rule}


def metrics() -> set[str]:
    """Every name on /metrics, as the reference lists them, with what a histogram is made of."""
    page = read("docs/reference/metrics.md")
    found = set()
    for part in re.findall(r"<!-- metrics: \w+ -->(.*?)<!-- end -->", page, flags=re.DOTALL):
        for name, kind, *_ in rows(part):
            (plain,) = code(name)
            suffixes = ("_bucket", "_sum", "_count") if kind == "histogram" else ("",)
            found |= {plain + suffix for suffix in suffixes}
    assert len(found) > 20
    return found


def words(expr: str) -> list[str]:
    """The metrics that an expression names."""
    return _WORDS.findall(expr)


def write(path: Path, document: Mapping[str, Any]) -> Path:
    """A YAML file."""
    path.write_text(yaml.safe_dump(dict(document), sort_keys=False, width=1000))
    return path


# ---------------------------------------------------------------- scraped series


def series(scrapes: Sequence[str], *, repeat: int, job: str = "async-delivery") -> list[dict[str, str]]:
    """Expositions, one after the other, as input series; each is seen ``repeat`` times before the next.

    A sample that a scrape lacks is missing there too.
    """
    columns = [dict(_samples(text, job)) for text in scrapes]
    names = sorted({name for column in columns for name in column})
    return [
        {
            "series": name,
            "values": " ".join(
                repr(column[name]) if name in column else "_" for column in columns for _ in range(repeat)
            ),
        }
        for name in names
    ]


def _samples(text: str, job: str) -> list[tuple[str, float]]:
    found = []
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = {**sample.labels, "job": job, "instance": "live"}
            inside = ", ".join(f'{name}="{value}"' for name, value in labels.items())
            found.append((f"{sample.name}{{{inside}}}", float(sample.value)))
    return found
