"""Images of a disk as a power cut would leave it, rebuilt from the notes of ``power_shim.c``.

The model is the pessimistic one of POSIX: what was not synced may be lost, kept, or kept in any of its sectors;
a new or removed name is durable once its folder is synced, before that in any prefix of their order. A sync makes
durable what was written to that file before it, and nothing else.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
SECTOR_BYTES = 512


class Keep(StrEnum):
    """What of the unsynced the power cut leaves."""

    NOTHING = "nothing"
    ALL = "all"
    SOME = "some"


@cache
def compiler() -> str | None:
    """A C compiler, or None."""
    return shutil.which("cc") or shutil.which("gcc")


def compiled(source: str, folder: Path) -> Path:
    """A C file of this folder as a library to be loaded before libc."""
    target = folder / source.replace(".c", ".so")
    if not target.exists():
        command = [compiler() or "cc", "-shared", "-fPIC", "-O2", "-o", str(target), str(HERE / source)]
        command += ["-ldl", "-pthread"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    return target


@dataclass(frozen=True, slots=True)
class Note:
    """One line of the notes; see the head of ``power_shim.c``."""

    kind: str
    number: int
    offset: int
    path: str
    data: bytes


def notes_of(log: Path) -> Iterator[Note]:
    data = log.read_bytes()
    at = 0
    while at < len(data):
        end = data.index(b"\n", at)
        kind, number, offset, path_bytes, data_bytes = data[at:end].split(b" ")
        first = end + 1
        middle = first + int(path_bytes)
        at = middle + int(data_bytes)
        yield Note(kind.decode(), int(number), int(offset), os.fsdecode(data[first:middle]), data[middle:at])


@dataclass(slots=True)
class _File:
    """Bytes that are durable, and what has happened to them since: (offset, data), or (size, None) for a cut."""

    durable: bytearray = field(default_factory=bytearray)
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)

    def image(self, keep: Keep, chance: random.Random) -> bytearray:
        found = bytearray(self.durable)
        if keep is Keep.NOTHING:
            return found
        for offset, data in self.pending:
            if data is None:
                if keep is Keep.ALL or chance.random() < 0.5:
                    _cut(found, offset)
            elif keep is Keep.ALL:
                _put(found, offset, data)
            else:
                for start, piece in _sectors(offset, data):
                    if chance.random() < 0.5:
                        _put(found, start, piece)
        return found

    def sync(self) -> None:
        for offset, data in self.pending:
            if data is None:
                _cut(self.durable, offset)
            else:
                _put(self.durable, offset, data)
        self.pending.clear()


def _cut(content: bytearray, size: int) -> None:
    del content[size:]
    content.extend(bytes(size - len(content)))


def _put(content: bytearray, offset: int, data: bytes) -> None:
    content.extend(bytes(max(0, offset - len(content))))
    content[offset : offset + len(data)] = data


def _sectors(offset: int, data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(data):
        size = min(SECTOR_BYTES - (offset + at) % SECTOR_BYTES, len(data) - at)
        yield offset + at, data[at : at + size]
        at += size


_Names = dict[str, int]
_FOLDER = -1


class Disk:
    """The folder as it was, kept up with note by note."""

    def __init__(self, folder: Path) -> None:
        """``folder`` is empty to begin with."""
        self._root = str(folder)
        self._files: dict[int, _File] = {}
        self._durable: _Names = {}
        self._names: _Names = {}
        # What has happened to names, each with the folder whose sync makes it durable.
        self._pending: list[tuple[str, Note]] = []
        self.acks: list[str] = []

    def take(self, note: Note) -> bool:
        """Follow one note; True if it is a point at which the power may be cut: something has changed."""
        match note.kind:
            case "A":
                self.acks += note.data.decode().splitlines()
            case "C" | "U" | "L" | "R" | "M":
                if note.kind == "C":
                    self._files[note.number] = _File()
                self._pending.append((os.path.dirname(note.path), note))
                _rename(self._names, note)
            case "O":
                raise AssertionError(f"{note.path} was there before the first note")
            case "W":
                self._files[note.number].pending.append((note.offset, note.data))
            case "T":
                self._files[note.number].pending.append((note.offset, None))
            case "S":
                self._files[note.number].sync()
            case "D":
                self._sync_folder(note.path)
        return note.kind not in "AO"

    def _sync_folder(self, folder: str) -> None:
        # A journal commits in order: what happened to names before this sync is durable in this folder.
        left = []
        for where, note in self._pending:
            if where == folder:
                _rename(self._durable, note)
            else:
                left.append((where, note))
        self._pending = left

    def write_image(self, target: Path, keep: Keep, chance: random.Random) -> None:
        """Write to ``target`` what is there after a power cut at this moment."""
        names = dict(self._durable)
        count = len(self._pending)
        kept = {Keep.NOTHING: 0, Keep.ALL: count, Keep.SOME: chance.randint(0, count)}[keep]
        for _, note in self._pending[:kept]:
            _rename(names, note)
        for name, number in sorted(names.items()):
            if not self._reachable(name, names):
                continue
            path = target / os.path.relpath(name, self._root)
            if number == _FOLDER:
                path.mkdir()
            elif not name.endswith("-shm"):  # shared memory, made anew by whoever opens the file first
                path.write_bytes(self._files[number].image(keep, chance))

    def _reachable(self, name: str, names: _Names) -> bool:
        above = os.path.dirname(name)
        return above == self._root or (names.get(above) == _FOLDER and self._reachable(above, names))


def _rename(names: _Names, note: Note) -> None:
    other = os.fsdecode(note.data)
    match note.kind:
        case "C":
            names[note.path] = note.number
        case "M":
            names[note.path] = _FOLDER
        case "U":
            names.pop(note.path, None)
        case "L":
            if note.path in names:
                names[other] = names[note.path]
        case "R":
            if note.path in names:
                names[other] = names.pop(note.path)


@dataclass(frozen=True, slots=True)
class Cut:
    """One image: where it is, what was acknowledged before it, and how to find it again."""

    folder: Path
    acks: list[str]
    words: str


def record(folder: Path, *arguments: object) -> tuple[Path, Path]:
    """Run ``power_writer`` with ``arguments`` under the shim; the folder it wrote to, and the notes."""
    shim = compiled("power_shim.c", folder)
    disk, log = folder / "disk", folder / "notes"
    disk.mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "tests.reliability.power_writer", str(disk), str(folder / "acks")]
        + [str(argument) for argument in arguments],
        cwd=ROOT,
        env={
            **os.environ,
            "LD_PRELOAD": str(shim),
            "POWER_FOLDER": str(disk),
            "POWER_ACKS": str(folder / "acks"),
            "POWER_LOG": str(log),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return disk, log


def images(disk: Path, log: Path, target: Path, wanted: int, chance: random.Random) -> Iterator[Cut]:
    """``wanted`` images: after each acknowledgement, and at random moments between. Each is gone with the next."""
    notes = list(notes_of(log))
    moments = _moments(notes, wanted, chance)
    state = Disk(disk)
    for number, note in enumerate(notes):
        state.take(note)
        for keep in moments.get(number, ()):
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir()
            state.write_image(target, keep, chance)
            yield Cut(target, list(state.acks), f"after note {number} of {len(notes)}, kept {keep}")
    shutil.rmtree(target, ignore_errors=True)


def _moments(notes: list[Note], wanted: int, chance: random.Random) -> dict[int, list[Keep]]:
    at_acks = [number for number, note in enumerate(notes) if note.kind == "A"]
    found: dict[int, list[Keep]] = {}
    for number in chance.sample(at_acks, min(len(at_acks), wanted // 4)):
        found.setdefault(number, []).append(Keep.NOTHING)
    count = sum(map(len, found.values()))
    while count < wanted:
        number = chance.choice(at_acks) if chance.random() < 0.3 else chance.randrange(len(notes))
        found.setdefault(number, []).append(chance.choice((Keep.SOME, Keep.SOME, Keep.ALL, Keep.NOTHING)))
        count += 1
    return found


def same_as_replayed(disk: Path, log: Path, target: Path) -> list[str]:
    """Where the files differ from what the notes say they are: the shim has missed something."""
    state = Disk(disk)
    for note in notes_of(log):
        state.take(note)
    target.mkdir()
    state.write_image(target, Keep.ALL, random.Random(0))
    return _differences(disk, target, lambda path: not path.name.endswith("-shm"))


def _differences(one: Path, other: Path, counts: Callable[[Path], bool]) -> list[str]:
    def content(folder: Path) -> dict[str, bytes]:
        found = (path for path in folder.rglob("*") if path.is_file() and counts(path))
        return {str(path.relative_to(folder)): path.read_bytes() for path in found}

    left, right = content(one), content(other)
    return sorted(name for name in left.keys() | right.keys() if left.get(name) != right.get(name))
