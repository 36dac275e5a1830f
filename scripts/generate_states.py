#!/usr/bin/env python3
"""Write the generated parts of docs/reference/states.md from the transition table of the domain.

`python scripts/generate_states.py` rewrites the parts between the markers and leaves the prose alone; with
`--check` it changes nothing and exits 1 when the file is behind the code. Imports `domain` only.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from async_delivery.domain.job import ACTIVE, JobStatus
from async_delivery.domain.lifecycle import MAX_STARTS, TRANSITIONS

PAGE = Path(__file__).resolve().parents[1] / "docs/reference/states.md"
_PART = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->\n)", flags=re.DOTALL)


def diagram() -> str:
    """The machine as Mermaid's state diagram."""
    lines = ["```mermaid", "stateDiagram-v2", "    [*] --> queued: submit"]
    for before, targets in TRANSITIONS.items():
        lines += [f"    {before} --> {after}: {verb}" for after, verb in targets.items()]
    lines += [f"    {status} --> [*]" for status in TRANSITIONS if status.terminal]
    return "\n".join([*lines, "```"])


def states() -> str:
    """One row per state: whether somebody works on the job in it, and where it can go."""
    return _table(
        ("state", "kind", "can become"),
        [
            (
                f"`{status}`",
                _kind(status),
                ", ".join(f"`{after}`" for after in targets) or "nothing else, ever",
            )
            for status, targets in TRANSITIONS.items()
        ],
    )


def transitions() -> str:
    """One row per allowed transition, with the verb that makes it."""
    rows = [
        (f"`{before}`", f"`{after}`", verb)
        for before, targets in TRANSITIONS.items()
        for after, verb in targets.items()
    ]
    return _table(("from", "to", "by"), [("(none)", f"`{JobStatus.QUEUED}`", "submit"), *rows])


def starts() -> str:
    """The limit on starts, in a sentence."""
    return f"A job is started at most {MAX_STARTS} times, whatever the reasons were."


PARTS = {"diagram": diagram, "states": states, "transitions": transitions, "starts": starts}


def fill(page: str, parts: Mapping[str, str]) -> str:
    """``page`` with each marked part replaced. Raises ValueError if a part has no place, or a place no part."""
    places = [match[2] for match in _PART.finditer(page)]
    if sorted(places) != sorted(parts):
        raise ValueError(f"the page has places for {sorted(places)}, the generator makes {sorted(parts)}")
    return _PART.sub(lambda match: f"{match[1]}{parts[match[2]]}\n{match[3]}", page)


def render(page: str) -> str:
    """``page`` as the code of today would have it."""
    return fill(page, {name: make() for name, make in PARTS.items()})


def _kind(status: JobStatus) -> str:
    if status.terminal:
        return "terminal"
    return "active: a worker holds its lease" if status in ACTIVE else "waiting"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def main(arguments: Sequence[str]) -> int:
    """0 when the page is, or now is, what the code says; 1 when ``--check`` found it behind."""
    if arguments not in ([], ["--check"]):
        print("usage: generate_states.py [--check]", file=sys.stderr)
        return 2
    page = PAGE.read_text(encoding="utf-8")
    wanted = render(page)
    if page == wanted:
        return 0
    if arguments:
        print(f"{PAGE.name} is behind the code; run scripts/generate_states.py", file=sys.stderr)
        return 1
    PAGE.write_text(wanted, encoding="utf-8")
    print(f"wrote {PAGE}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
