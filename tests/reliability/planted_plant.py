"""What a planted bug is: what it breaks, where, and which figure must notice.

An edit names the text that it replaces, not its line, so most changes of the service leave the list alone; where a
text is no longer there once, a test of the ordinary run says so. Nothing of the product is imported.
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.reliability.planted_scratch import Edit

SQLITE, POSTGRES = ("sqlite",), ("postgres",)
BOTH = (*SQLITE, *POSTGRES)


@dataclass(frozen=True, slots=True)
class Plant:
    """One bug.

    fault     what it breaks, in one sentence
    figures   of these at least one must miss its target, on each of ``stores``
    tests     what is run to see that, by pytest's names
    """

    name: str
    fault: str
    edits: tuple[Edit, ...]
    figures: tuple[str, ...]
    stores: tuple[str, ...]
    tests: tuple[str, ...]


def service(file: str, old: str, new: str) -> Edit:
    """An edit of the service."""
    return Edit(f"src/async_delivery/{file}", old, new)


def ids(file: str, name: str, *parameters: str) -> tuple[str, ...]:
    """What pytest calls a test, with each of its parameters."""
    each = [f"[{one}]" for one in parameters] or [""]
    return tuple(f"tests/reliability/{file}.py::{name}{one}" for one in each)
