"""A scratch copy of the checkout, in which bugs are planted and tests are run.

It has an environment of its own, whose only ``async_delivery`` is the copy's: whatever a test starts there, with
whatever environment variables, runs the copy and never the checkout.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import venv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[2]
# Of the edited files, so that no compiled copy of another text is taken for theirs.
_MTIMES = count(2_000_000_000, 10)
_STOP_SECONDS = 60.0
# Who is started in the background by a shell ignores interrupts, and so would what it starts.
_PYTEST = (
    "import signal, sys, pytest; signal.signal(signal.SIGINT, signal.default_int_handler);"
    " sys.exit(pytest.console_main())"
)


class PlantError(Exception):
    """A bug cannot be planted: the text that it replaces is not in the file exactly once."""


@dataclass(frozen=True, slots=True)
class Edit:
    """In ``file`` (from the root of the checkout), ``old`` becomes ``new``."""

    file: str
    old: str
    new: str

    def apply(self, text: str) -> str:
        """``text`` with the edit. Raises PlantError."""
        found = text.count(self.old)
        if found != 1:
            raise PlantError(f"{self.file}: there {found} times, not once: {self.old!r}")
        return text.replace(self.old, self.new)


@dataclass(frozen=True, slots=True)
class Ran:
    """What a run of tests has left: pytest's exit code, what it printed, and the rows of its scorecard."""

    code: int
    output: str
    measurements: list[dict[str, Any]]

    @property
    def missed(self) -> list[dict[str, Any]]:
        """The rows that missed their targets."""
        return [one for one in self.measurements if one["verdict"] == "MISSED"]

    @property
    def skipped(self) -> bool:
        """Whether a test did not run."""
        return " skipped" in self.output.rstrip().rpartition("\n")[2]


class Scratch:
    """The copy in ``folder``/checkout. ``python`` is its interpreter."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "checkout"
        self.python = self.root / ".venv/bin/python"
        self._folder = folder
        self._runs = count(1)
        for name in tracked_files():
            target = self.root / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(CHECKOUT / name, target)
        self._make_environment()
        self.require_own()

    def _make_environment(self) -> None:
        """Everything that the checkout's environment has, but for the checkout itself."""
        home = self.root / ".venv"
        venv.EnvBuilder(symlinks=True).create(home)
        (packages,) = home.glob("lib/python*/site-packages")
        # Folders named in a .pth file are searched, but .pth files in them are not read: nothing of the checkout.
        theirs = dict.fromkeys([sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
        (packages / "planted.pth").write_text("\n".join([str(self.root / "src"), *theirs]) + "\n")
        command = home / "bin/async-delivery"
        command.write_text(
            f"#!{self.python}\nimport sys\nfrom async_delivery.cli import main\nsys.exit(main())\n"
        )
        command.chmod(0o755)

    def require_own(self) -> None:
        """Raises PlantError if a process here would run another ``async_delivery`` than the copy's."""
        asked = "import async_delivery; print(async_delivery.__file__)"
        found = subprocess.run(
            [self.python, "-c", asked],
            cwd=self._folder,
            env=self.environment(),
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        if not Path(found).is_relative_to(self.root):
            raise PlantError(f"{found} would be run, which is not in {self.root}")

    def environment(self, seed: int | None = None) -> dict[str, str]:
        """That of the tests."""
        dropped = ("PYTEST_", "PYTHON", "RELIABILITY_SEED", "VIRTUAL_ENV", "COVERAGE_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
        kept["PATH"] = f"{self.python.parent}{os.pathsep}{kept.get('PATH', os.defpath)}"
        kept["PYTHONPATH"] = os.pathsep.join([str(self.root / "src"), str(self.root)])
        return kept if seed is None else {**kept, "RELIABILITY_SEED": str(seed)}

    @contextmanager
    def planted(self, edits: Sequence[Edit]) -> Iterator[None]:
        """With the edits, while the block lasts. Raises PlantError."""
        before = {edit.file: (self.root / edit.file).read_text() for edit in edits}
        after = dict(before)
        for edit in edits:
            after[edit.file] = edit.apply(after[edit.file])
        try:
            self._write(after)
            yield
        finally:
            self._write(before)

    def _write(self, texts: dict[str, str]) -> None:
        for name, text in texts.items():
            (self.root / name).write_text(text)
            mtime = next(_MTIMES)
            os.utime(self.root / name, (mtime, mtime))

    def run(self, tests: Sequence[str], seconds: float, seed: int | None = None) -> Ran:
        """Run ``tests``, named as pytest does from the root; after ``seconds`` they are interrupted."""
        number = next(self._runs)
        card, base = self._folder / f"card-{number}.json", self._folder / f"tests-{number}"
        options = ("-m", "long or not long", "-p", "no:cacheprovider", "-p", "no:randomly", "-q", "-rA")
        process = subprocess.Popen(
            [self.python, "-c", _PYTEST, *options, "--scorecard", card, "--basetemp", base, *tests],
            cwd=self.root,
            env=self.environment(seed),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            output, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            output = f"{interrupted(process)}\ninterrupted after {seconds:g} s"
        except BaseException:
            interrupted(process)
            raise
        shutil.rmtree(base, ignore_errors=True)
        found = json.loads(card.read_text())["measurements"] if card.exists() else []
        return Ran(process.returncode, output, found)


def interrupted(process: subprocess.Popen[str]) -> str:
    """End pytest as Ctrl-C does, so that it ends what its tests have started; what it printed."""
    process.send_signal(signal.SIGINT)
    try:
        output, _ = process.communicate(timeout=_STOP_SECONDS)
    finally:
        process.kill()
    return output


def tracked_files() -> list[str]:
    """Every file of the checkout that git knows or would add, as it is in the working tree."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return [name for name in listed.split("\0") if name and (CHECKOUT / name).is_file()]


@contextmanager
def scratch() -> Iterator[Scratch]:
    """A copy that is removed when the block ends."""
    if sys.platform != "linux":
        raise PlantError("the service runs on Linux only")
    # Not below a folder of a test: the paths of sockets in it must stay short.
    folder = Path(tempfile.mkdtemp(prefix="ad-planted-"))
    try:
        yield Scratch(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
