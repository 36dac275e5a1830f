"""Reading the project's Markdown: its pages, headings, tables and fenced blocks. Nothing is rendered."""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_SKIPPED = {".venv", ".git", "node_modules", "build", "dist", "runtime", "artifacts"}
_FENCE = re.compile(
    r"^(?P<mark>`{3,})(?P<info>[^\n`]*)\n(?P<text>.*?)^(?P=mark)[ \t]*$\n?", flags=re.DOTALL | re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class Fence:
    """A fenced block: its language, its text, and the line it starts at."""

    language: str
    text: str
    line: int


def markdown_pages() -> list[Path]:
    """Every Markdown page of the checkout."""
    found = []
    for folder, names, files in os.walk(ROOT):
        names[:] = [name for name in names if name not in _SKIPPED and not name.startswith(".")]
        found += [Path(folder) / file for file in files if file.endswith(".md")]
    return sorted(found)


def read(name: str) -> str:
    """A page by its path from the root."""
    return (ROOT / name).read_text(encoding="utf-8")


def fences(page: str) -> list[Fence]:
    """The fenced blocks of a page, in order."""
    return [
        Fence(match["info"].strip(), match["text"], page.count("\n", 0, match.start()) + 1)
        for match in _FENCE.finditer(page)
    ]


def without_fences(page: str) -> str:
    """The page with its fenced blocks blanked, line numbers kept."""
    return _FENCE.sub(lambda match: "\n" * match[0].count("\n"), page)


def section(page: str, heading: str) -> str:
    """What stands under ``heading``, down to the next heading of the same or a higher level."""
    blank = without_fences(page).split("\n")
    lines = page.split("\n")
    starts = [n for n, line in enumerate(blank) if re.fullmatch(rf"(#+) {re.escape(heading)}", line)]
    assert len(starts) == 1, f"{len(starts)} headings {heading!r}"
    level = len(blank[starts[0]].split(" ")[0])
    ends = [n for n in range(starts[0] + 1, len(blank)) if re.match(rf"#{{1,{level}}} ", blank[n])]
    return "\n".join(lines[starts[0] + 1 : ends[0] if ends else len(lines)])


def rows(text: str) -> list[list[str]]:
    """The cells of every table row in ``text``, heads and rulers left out."""
    lines = [line for line in text.split("\n") if line.startswith("|")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    rulers = [n for n, row in enumerate(cells) if all(re.fullmatch(r":?-+:?", cell) for cell in row)]
    skipped = {*rulers, *(n - 1 for n in rulers)}
    return [row for n, row in enumerate(cells) if n not in skipped]


def code(cell: str) -> list[str]:
    """What stands in backticks in a cell."""
    return re.findall(r"`([^`]+)`", cell)


def anchors(page: str) -> set[str]:
    """The fragments a page can be linked by, as GitHub makes them from headings."""
    seen: Counter[str] = Counter()
    found = set(re.findall(r'<a (?:id|name)="([^"]+)"', page))
    for _, title in re.findall(r"^(#{1,6}) +(.+?)\s*$", without_fences(page), flags=re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).replace("`", "").lower()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return found
