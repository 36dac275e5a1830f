"""The peers' environments: ``bench/.peers/NAME``, made on demand from pinned requirements with hashes.

With uv where there is one, else with venv and pip. Nothing is installed into the project's own environment.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

_HERE = Path(__file__).resolve().parent
_ENVIRONMENTS = _HERE.parent / ".peers"
_INSTALL_SECONDS = 600.0


class UnavailableError(RuntimeError):
    """What a peer needs is not here; the message says what, in words for people."""


def requirements(name: str) -> Path:
    """What is installed for a peer."""
    return _HERE / "requirements" / f"{name}.txt"


def python_of(name: str) -> Path:
    """The interpreter of a peer's environment, made now if it is missing or older than its requirements.

    Raises UnavailableError if it cannot be made, for instance without a way to a package index.
    """
    folder, pinned = _ENVIRONMENTS / name, requirements(name)
    python, stamp = folder / "bin" / "python", folder / "installed"
    wanted = hashlib.sha256(pinned.read_bytes()).hexdigest()
    if python.exists() and stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return python
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(exist_ok=True)
    for command in _commands(folder, python, pinned):
        _run(command, name)
    stamp.write_text(wanted, encoding="utf-8")
    return python


def _commands(folder: Path, python: Path, pinned: Path) -> list[list[str]]:
    if uv := shutil.which("uv"):
        install = [
            uv,
            "pip",
            "install",
            "--quiet",
            "--python",
            str(python),
            "--require-hashes",
            "-r",
            str(pinned),
        ]
        return [[uv, "venv", "--quiet", "--python", sys.executable, str(folder)], install]
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
    return [[sys.executable, "-m", "venv", str(folder)], [*pip, "--require-hashes", "-r", str(pinned)]]


def _run(command: list[str], name: str) -> None:
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=_INSTALL_SECONDS,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired as exc:
        raise UnavailableError(f"its environment {name} was not installed in {exc.timeout:g} s") from exc
    if done.returncode:
        said = (done.stderr or done.stdout).strip()[-300:]
        raise UnavailableError(f"its environment {name} cannot be installed: {said}")
