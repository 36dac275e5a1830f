"""The commands of the README's tour and of the tutorial, run as they stand, against a live server.

The rules of a page: a ``sh`` block is run, in one shell per page, with -e; one that serves is the server and stays
until the next. A ``python`` block whose first line is ``# NAME.py`` is saved as that file. A ``text`` block after a
``sh`` block is what it prints: ``…`` stands for anything in a line, alone on a line for any number of lines.
"""

from __future__ import annotations

import os
import re
import select
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, Fence, fences, read, section
from tests.system.live import LiveServer

BLOCK_SECONDS = 120.0
DOCUMENTED = "127.0.0.1:8080"
TOUR = ("Five-minute tour", "From the command line")
BINARIES = Path(sys.executable).parent


class Shell:
    """One bash that keeps its variables between blocks."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith("ASYNC_DELIVERY_")},
            "PATH": f"{BINARIES}:{os.environ['PATH']}",
        }
        self.process = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            cwd=folder,
            env=self.environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def run(self, text: str) -> str:
        """What ``text`` prints, both streams together; fails if a command of it fails."""
        block = self.folder / ".block.sh"
        block.write_text(text)
        return self._until_done(
            f"set -e; . {shlex.quote(str(block))} </dev/null; set +e; echo; echo :done:\n"
        )

    def _until_done(self, command: str) -> str:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(command.encode())
        self.process.stdin.flush()
        said, until = b"", time.monotonic() + BLOCK_SECONDS
        while not said.endswith(b"\n:done:\n"):
            ready, _, _ = select.select([self.process.stdout], [], [], max(0.0, until - time.monotonic()))
            more = os.read(self.process.stdout.fileno(), 65_536) if ready else b""
            assert more, f"{'failed' if ready else 'took too long'} after printing: {said.decode()}"
            said += more
        return said.removesuffix(b"\n:done:\n").decode()

    def close(self) -> None:
        assert self.process.stdin
        assert self.process.stdout
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


class Reader:
    """Somebody who does what a page says, in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shell = Shell(folder)
        self.server: LiveServer | None = None
        self.address = DOCUMENTED

    def follow(self, blocks: list[Fence]) -> int:
        """Do all of it; the number of commands blocks that were run."""
        done = 0
        for block, after in zip(blocks, [*blocks[1:], None], strict=True):
            match block.language:
                case "python":
                    self._save(block.text)
                case "sh" if options := served(block.text):
                    self._serve(options[1:])
                case "sh":
                    said = self.shell.run(block.text.replace(DOCUMENTED, self.address))
                    done += 1
                    if after is not None and after.language == "text":
                        self._compare(block, said, after.text)
        return done

    def _save(self, text: str) -> None:
        name = re.match(r"# (\w+\.py)\n", text)
        assert name, f"which file is this? {text[:80]}"
        (self.folder / name[1]).write_text(text)

    def _serve(self, options: list[str]) -> None:
        if self.server is not None:
            assert self.server.stop() == 0
        self.server = LiveServer(self.folder, *options).start()
        self.address = f"127.0.0.1:{self.server.port}"
        self.shell.run(f"export ASYNC_DELIVERY_BASE_URL=http://{self.address}")

    def _compare(self, block: Fence, said: str, wanted: str) -> None:
        pattern = expected(wanted.replace(DOCUMENTED, self.address))
        assert re.fullmatch(pattern, said.strip()), f"line {block.line} printed:\n{said}\nnot:\n{wanted}"

    def close(self) -> None:
        self.shell.close()
        if self.server is not None:
            self.server.stop()


def served(text: str) -> list[str]:
    """The words of a block that is a server, the command as the first; empty for every other block."""
    command = text.strip()
    for serves in ("make serve", "async-delivery serve"):
        if command.startswith(serves):
            return [serves, *shlex.split(command.removeprefix(serves))]
    return []


def expected(text: str) -> str:
    """A pattern for the output that a page shows."""
    lines = [
        r"(?:.*\n)*?"
        if line.strip() == "…"
        else ".*?".join(map(re.escape, line.rstrip().split("…"))) + r"[ ]*\n"
        for line in text.strip().split("\n")
    ]
    return "".join(lines).removesuffix(r"\n")


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    one = Reader(tmp_path)
    yield one
    one.close()


@pytest.mark.slow
def test_the_tutorial_works_as_it_is_written(reader: Reader) -> None:
    blocks = fences(read("docs/tutorial/first-analysis.md"))

    done = reader.follow(blocks)

    assert done >= 10


@pytest.mark.slow
def test_the_tour_of_the_readme_works_as_it_is_written(reader: Reader) -> None:
    for name in ("src", "scripts"):
        (reader.folder / name).symlink_to(ROOT / name)
    page = read("README.md")

    done = reader.follow([block for heading in TOUR for block in fences(section(page, heading))])

    assert done >= 10


@pytest.mark.slow
def test_the_ten_lines_of_the_readme_are_an_analysis_that_can_be_served(reader: Reader) -> None:
    part = section(read("README.md"), "Write your own analysis")
    (command,) = re.findall(r"`(async-delivery serve [^`]+)`", part)
    (module,) = fences(part)
    submit = 'async-delivery submit --analysis words --params \'{"text": "to be or not to be"}\' --json'

    reader.follow([module, Fence("sh", command, 0), Fence("sh", submit, 0)])
    result = reader.shell.run("async-delivery jobs --status completed --analysis words | grep -c words")

    assert result.strip() == "1"
    assert len(module.text.strip().split("\n")) <= 12


def test_what_a_page_shows_is_compared_with_what_is_printed() -> None:
    assert re.fullmatch(expected("a…z\n…\nlast"), "a to z\nany\nnumber\nof lines\nlast")
    assert re.fullmatch(expected("…\nlast"), "last")
    assert re.fullmatch(expected("a.c"), "a.c")
    assert not re.fullmatch(expected("a.c"), "abc")
    assert not re.fullmatch(expected("final\npartial"), "final\nfinal")


def test_a_command_that_fails_is_noticed(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    try:
        assert shell.run("KEPT=yes; echo one; cat").strip() == "one"
        assert shell.run('echo "$KEPT"').strip() == "yes"
        with pytest.raises(AssertionError, match="failed after printing: before"):
            shell.run("printf before; false; echo after")
    finally:
        shell.close()
