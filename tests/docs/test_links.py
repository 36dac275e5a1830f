"""Every relative link of every page leads somewhere, anchors included."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.docs.pages import ROOT, anchors, markdown_pages, read, without_fences

# [text](target), [text](target "title"), ![alt](target); a reference definition "[name]: target".
_INLINE = re.compile(r"\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)")
_DEFINITION = re.compile(r"^\[[^\]]+\]:\s+(\S+)", flags=re.MULTILINE)
_ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*:", flags=re.IGNORECASE)


def links(text: str) -> Iterator[str]:
    """Targets of links that stay inside the checkout."""
    prose = re.sub(r"`[^`\n]*`", "", without_fences(text))
    for pattern in (_INLINE, _DEFINITION):
        yield from (target for target in pattern.findall(prose) if not _ELSEWHERE.match(target))


def problem(page: Path, target: str) -> str | None:
    """What is wrong with ``target`` on ``page``."""
    path, _, fragment = target.partition("#")
    there = page if not path else (page.parent / unquote(path)).resolve()
    if not there.exists():
        return "does not exist"
    if not there.is_relative_to(ROOT):
        return "leads out of the checkout"
    if fragment and there.suffix == ".md" and fragment not in anchors(there.read_text(encoding="utf-8")):
        return f"has no heading for #{fragment}"
    return None


@pytest.mark.parametrize("page", [str(page.relative_to(ROOT)) for page in markdown_pages()])
def test_every_relative_link_leads_somewhere(page: str) -> None:
    found = {target: problem(ROOT / page, target) for target in links(read(page))}

    assert {target: wrong for target, wrong in found.items() if wrong} == {}


def test_a_dead_link_would_be_noticed(tmp_path: Path) -> None:
    page = ROOT / "docs/README.md"

    assert problem(page, "no-such-page.md") == "does not exist"
    assert problem(page, "reference/states.md#no-such-heading") == "has no heading for #no-such-heading"
    assert problem(page, "reference/states.md#what-always-holds") is None
    assert list(links("[a](x.md) `[b](y.md)` [c](https://example.org) ![d](e.png)\n\n[f]: g.md\n")) == [
        "x.md",
        "e.png",
        "g.md",
    ]


def test_the_index_names_every_page_below_it() -> None:
    docs = ROOT / "docs"
    index = {(docs / target.partition("#")[0]).resolve() for target in links(read("docs/README.md"))}

    missing = [page for page in markdown_pages() if page.is_relative_to(docs) and page not in index]

    assert missing == [docs / "README.md"]
