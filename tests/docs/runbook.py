"""The operations runbook as something that runs: its parts, its commands and what it expects, in both languages.

A part is the shell blocks up to a list under "Erwartung:" or "Expected:", with that list. What an expectation means is
said once, in ``expectations``; here is only how a page is read and how a person follows it.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.docs.pages import ROOT, Fence, fences, read, without_fences
from tests.system.live import Answer, LiveServer

PAGES = {"de": "docs/api/async-v1.md", "en": "docs/api/async-v1.en.md"}
BLOCK_SECONDS = 120.0
DOCUMENTED = "http://127.0.0.1:8080"
ORG = "default-org"
STORE_FILE = "runtime/async_jobs/store.v1.json"
ARTEFACTS = "artifacts/async"
BINARIES = Path(sys.executable).parent
SHELLS = {"sh", "bash"}
_OPENING = re.compile(r"^(?:Erwartung|Expected):$", flags=re.MULTILINE)
_EXIT = re.compile(r"[Ee]xit `(\d)`")


@dataclass(frozen=True, slots=True)
class Section:
    """A heading with what stands under it, down to the next heading of any level."""

    level: int
    title: str
    text: str


@dataclass(frozen=True, slots=True)
class Part:
    """Shell blocks, and what is expected of them. Blocks before the end of a page may have no list."""

    blocks: tuple[Fence, ...]
    expected: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """The exit code of the last block, 0 unless the list says otherwise."""
        codes = {int(code) for bullet in self.expected for code in _EXIT.findall(bullet)}
        assert len(codes) <= 1, self.expected
        return codes.pop() if codes else 0


@dataclass(frozen=True, slots=True)
class Ran:
    """A block that was run."""

    text: str
    exit_code: int
    stdout: str
    stderr: str

    def documents(self) -> list[Any]:
        """The JSON documents that were printed, one after the other."""
        decoder, found, rest = json.JSONDecoder(), [], self.stdout.strip()
        while rest:
            document, end = decoder.raw_decode(rest)
            found.append(document)
            rest = rest[end:].lstrip()
        return found


def sections(page: str) -> list[Section]:
    """The sections of a page in order; what stands before the first heading is left out."""
    blank, lines = without_fences(page).split("\n"), page.split("\n")
    starts = [n for n, line in enumerate(blank) if re.match(r"#{1,6} ", line)]
    found = []
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        marks, _, title = lines[start].partition(" ")
        found.append(Section(len(marks), title, "\n".join(lines[start + 1 : end])))
    return found


def titled(language: str, start: str) -> Section:
    """The one section whose title begins with ``start``."""
    (found,) = [
        each for each in sections(read(PAGES[language])) if each.title.lower().startswith(start.lower())
    ]
    return found


def bullets(text: str) -> tuple[str, ...]:
    """The list at the beginning of ``text``, each item on one line."""
    items: list[str] = []
    for line in text.lstrip("\n").split("\n"):
        if not line.startswith("- "):
            break
        items.append(line.removeprefix("- "))
    return tuple(items)


def parts(page: str) -> list[Part]:
    """What a page lets its reader do, in order."""
    found: list[Part] = []
    waiting: list[Fence] = []
    blocks = [each for each in fences(page) if each.language in SHELLS]
    blank = without_fences(page)
    for opening in _OPENING.finditer(blank):
        line = blank.count("\n", 0, opening.start()) + 1
        waiting = [each for each in blocks if each.line < line]
        blocks = blocks[len(waiting) :]
        found.append(Part(tuple(waiting), bullets(blank[opening.end() :])))
    return [*found, Part(tuple(blocks), ())] if blocks else found


class Operator:
    """Somebody who follows the runbook beside a live server, in a folder of their own."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        (folder / "scripts").symlink_to(ROOT / "scripts")
        self.server = LiveServer(folder, *options).start()
        self.base_url = f"http://127.0.0.1:{self.server.port}"
        self.job_id = self.server.submit(org=ORG)
        self.result_id: str = self.server.ended(self.job_id, org=ORG)["result_id"]
        self.ran: list[Ran] = []  # the blocks of the parts that were followed
        self._variables = folder / ".variables"

    def filled(self, text: str) -> str:
        """A block with the server and the ids of this operator in place of those of the page."""
        text = text.replace(DOCUMENTED, self.base_url)
        return text.replace("<job-id>", self.job_id).replace("<result-id>", self.result_id)

    def run(self, text: str) -> Ran:
        """Run a block with what earlier blocks have exported; a command that fails ends it."""
        script = (
            f"[ ! -f {self._variables} ] || . {self._variables}\n"
            f"trap 'export -p > {self._variables}' EXIT\nset -euo pipefail\n{self.filled(text)}"
        )
        environ = {k: v for k, v in os.environ.items() if not k.startswith("ASYNC_DELIVERY_")}
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-c", script],
            cwd=self.folder,
            env={**environ, "PATH": f"{BINARIES}:{environ['PATH']}"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=BLOCK_SECONDS,
            check=False,
        )
        return Ran(text, done.returncode, done.stdout, done.stderr)

    @property
    def last(self) -> Ran:
        """The last block of the last part that was followed."""
        return self.ran[-1]

    def follow(self, part: Part) -> None:
        """Do a part; fails where a block ends otherwise than its list says."""
        for block in part.blocks:
            ran = self.run(block.text)
            self.ran.append(ran)
            wanted = part.exit_code if block is part.blocks[-1] else 0
            assert ran.exit_code == wanted, f"line {block.line}: exit {ran.exit_code}\n{ran}"

    def follow_section(self, language: str, start: str) -> Ran:
        """Do all of one section, and what its last block did."""
        for part in parts(titled(language, start).text):
            self.follow(part)
        return self.last

    def ask(self, path: str, *, org: str | None = ORG, headers: dict[str, str] | None = None) -> Answer:
        return self.server.ask("GET", path, org=org, headers=headers)

    def statuses(self, text: str) -> list[int]:
        """The HTTP status of each curl command of a block, sent once more."""
        told = text.replace("curl -fsS", "curl -sS -o /dev/null -w '%{http_code}\\n'")
        assert told != text
        return [int(line) for line in self.run(told).stdout.split()]

    def artefact(self, name: str) -> Any:
        return json.loads((self.folder / ARTEFACTS / name).read_text())

    def close(self) -> None:
        self.server.stop()
