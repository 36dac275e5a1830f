"""The writes of one change as one statement, so that PostgreSQL is asked once instead of up to seven times.

Each write becomes a part of a WITH. The parts see the database as it was before all of them, and none sees another's
rows; so what the others need of the first, that it wrote its row, and a body of its result, the key, they take from
what that part returns. Foreign keys are checked when all parts are done.

Jobs that are new together are entered by one statement as well: it costs the server a third of one for each.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import count
from typing import Any

from sqlalchemy.sql.expression import ClauseElement

from async_delivery.storage import statements as sql
from async_delivery.storage.dialects import POSTGRESQL, Texts
from async_delivery.storage.writing import Write

_INSERT = re.compile(
    r"(?P<head>INSERT INTO \S+ \([^)]*\)) VALUES \((?P<values>.*?)\)(?P<tail>\s+RETURNING .*)?", re.DOTALL
)
PARAMETER = re.compile(r"%\((\w+)\)s")

TEXTS = Texts(POSTGRESQL)
# What is written of a new job, and of one that came with an Idempotency-Key.
ENTRY: tuple[ClauseElement, ...] = (sql.INSERT_JOB, sql.INSERT_REQUEST, sql.INSERT_EVENT)
KEYED_ENTRY: tuple[ClauseElement, ...] = (*ENTRY, sql.INSERT_KEY)
# So many jobs in one statement: few sizes, so that each is prepared; more would save nothing more.
_SIZES = (16, 8, 4, 2, 1)


@cache
def text_of(statements: tuple[ClauseElement, ...]) -> str:
    """One statement that answers how many rows the first has written; with none, the others write nothing.

    The parameters of the one at place n have their names with ``n_`` before them."""
    parts = []
    key = ""
    for place, statement in enumerate(statements):
        text = TEXTS[statement]
        if place == 0:
            text += " RETURNING 1"
        elif statement is sql.INSERT_BODY:
            text = _fed(text, key).replace("%(result_key)s", "result_key")
        elif text.startswith("INSERT"):
            text = _fed(text, "w0")
        else:
            text += " AND EXISTS (SELECT FROM w0)"
        if statement is sql.INSERT_RESULT:
            key = f"w{place}"
        numbered = PARAMETER.sub(rf"%({place}_\1)s", text)
        parts.append(f"w{place} AS ({numbered})")
    return f"WITH {', '.join(parts)} SELECT count(*) FROM w0"  # noqa: S608  texts of our own


def _fed(text: str, source: str) -> str:
    """An INSERT of values as one of as many rows as ``source`` has."""
    found = _INSERT.fullmatch(text)
    if found is None:
        raise ValueError(f"not an INSERT of values: {text}")
    return f"{found['head']} SELECT {found['values']} FROM {source}{found['tail'] or ''}"  # noqa: S608


def params_of(writes: Sequence[Write]) -> dict[str, object]:
    """The parameters of all of them, for ``text_of``."""
    return {
        f"{place}_{name}": value for place, (_, params) in enumerate(writes) for name, value in params.items()
    }


def entries_of(jobs: Sequence[Sequence[Mapping[str, Any]]]) -> Iterator[tuple[bytes, list[Any]]]:
    """The statements that enter ``jobs``, each with its values; of each job the parameters of its entry."""
    for entry in (ENTRY, KEYED_ENTRY):
        alike = [job for job in jobs if len(job) == len(entry)]
        start = 0
        while start < len(alike):
            size = next(size for size in _SIZES if size <= len(alike) - start)
            text, names = _entering(entry, size)
            some = alike[start : start + size]
            yield (
                text,
                [job[place][name] for place in range(len(entry)) for job in some for name in names[place]],
            )
            start += size


@cache
def _entering(entry: tuple[ClauseElement, ...], size: int) -> tuple[bytes, list[list[str]]]:
    """One statement that enters so many jobs, with the server's own placeholders, and the names of the parameters of
    each part: all jobs' of the first come before those of the second."""
    parts, names, number = [], [], count(1)
    for statement in entry:
        found = _INSERT.fullmatch(TEXTS[statement])
        if found is None or found["tail"]:
            raise ValueError(f"not a plain INSERT of values: {TEXTS[statement]}")
        names.append(PARAMETER.findall(found["values"]))
        row = PARAMETER.sub("%s", found["values"])
        rows = ", ".join(f"({row})" for _ in range(size))
        parts.append(f"{found['head']} VALUES {rows}")
    *first, last = (re.sub("%s", lambda _: f"${next(number)}", part) for part in parts)
    kept = ", ".join(f"w{place} AS ({part})" for place, part in enumerate(first))
    return f"WITH {kept} {last}".encode(), names
