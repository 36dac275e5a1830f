"""The bundle for whoever helps from afar: what runs, how it is set, how it is, and nothing that is secret.

No params, no results, no bodies of requests are read at all. What is read goes through ``scrub`` before it is packed;
tenants are pseudonyms unless asked otherwise. A part that cannot be had says so, and the others are there.
"""

from __future__ import annotations

import gzip
import io
import os
import platform
import resource
import shutil
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from enum import Enum
from importlib import metadata
from json import JSONDecodeError, dumps, loads
from pathlib import Path
from typing import Any

from async_delivery import __version__
from async_delivery.domain.errors import AsyncDeliveryError
from async_delivery.domain.instant import format_instant
from async_delivery.domain.retention import RetentionPolicy
from async_delivery.domain.signal import WITHOUT_IN_APP
from async_delivery.engine.runtime import Clock, SystemClock
from async_delivery.ops.artefacts import as_json, read_artefacts
from async_delivery.ops.probe import Answer, Probe, UnreachableError, shown_url
from async_delivery.ops.scrub import Scrubber, named_tenants, without_key_blocks
from async_delivery.ops.triage.store import Look
from async_delivery.storage.contract import Reader, Store
from async_delivery.storage.sqlite_info import SQLITE_VERSION

_LAST_ARTEFACTS = 5
_LOG_BYTES = 1024 * 1024
_LOG_LINES = 500
_LONGEST_LINE = 4_000
_CLEANUPS = 20
_METRICS_BYTES = 2 * 1024 * 1024
# The last of each kind; the second takes what neither the server's schedule nor a smoke run has written.
_PATTERNS = ("retention-scheduled-*.json", "retention-[!s]*.json", "retention-smoke-*.json", "smoke-*.json")

README = """What this bundle holds, and what it does not

versions.json   the program, Python, SQLite and the installed packages
system.json     operating system, limits, memory, disks; not the name of the machine
settings.json   the settings and where each comes from; of variables only their names
store.json      what the store is, how much is in it, its last cleanups
server.json     what the server answers about itself; metrics.txt: its metrics
artefacts/      the last reports of cleanups and smoke runs
log.txt         the last lines of the log that was named
errors.json     which parts could not be had, and why

Not in it: params, queries, files and results of jobs, credentials, values of environment variables.
What looked like a secret reads [removed]. {tenants}
"""
_HIDDEN = "A tenant reads tenant-..., the same one in all of this bundle."
_SHOWN = "Tenants are named, as --with-tenants asked."


@dataclass(frozen=True, slots=True, kw_only=True)
class Patient:
    """What is to be looked at.

    settings        name -> {"value", "source"}; faults of settings that cannot be used are among it
    secrets         values that are known to be secret
    variables       names of the environment's variables that belong to the service
    tenants         names of tenants that are known from elsewhere
    pseudonym_key   random; None: tenants are named
    """

    base_url: str
    probe: Probe
    settings: Mapping[str, Any]
    secrets: frozenset[str]
    variables: list[str]
    tenants: frozenset[str]
    pseudonym_key: bytes | None
    store_file: Path
    look: Look
    artifacts_dir: Path
    log: Path | None = None
    clock: Clock = field(default_factory=SystemClock)


@dataclass(frozen=True, slots=True)
class Bundle:
    """The packed bytes, what is in them, and which parts could not be had."""

    data: bytes
    names: list[str]
    errors: Mapping[str, str]


class _Parts:
    """Gathers everything first, so that a tenant named in one part is hidden in all."""

    def __init__(self) -> None:
        self.documents: dict[str, Any] = {}
        self.texts: dict[str, str] = {}
        self.lines: list[str] = []
        self.tenants: set[str] = set()
        self.errors: dict[str, str] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        try:
            yield
        except (AsyncDeliveryError, UnreachableError) as exc:
            self.errors[name] = str(exc)
        except Exception as exc:  # noqa: BLE001  the service is ill; the other parts may say why
            self.errors[name] = f"{type(exc).__name__}: {exc}"


def make_bundle(patient: Patient) -> Bundle:
    """Look at everything and pack it. Changes nothing."""
    parts = _Parts()
    now = patient.clock.now()
    parts.documents["settings.json"] = {
        "base_url": shown_url(patient.base_url),
        "settings": dict(patient.settings),
        "variables": patient.variables,
    }
    for name, gather in _GATHERERS.items():
        with parts.part(name):
            gather(patient, parts, now)
    for document in parts.documents.values():
        named_tenants(document, parts.tenants.add)
    scrubber = Scrubber(patient.secrets, parts.tenants | patient.tenants, patient.pseudonym_key)
    files = {"README.txt": README.format(tenants=_HIDDEN if patient.pseudonym_key else _SHOWN).encode()}
    for name, document in parts.documents.items():
        files[scrubber.text(name)] = as_json(scrubber.value(document))
    for name, text in parts.texts.items():
        files[name] = scrubber.text(text).encode("utf-8", "backslashreplace")
    if patient.log is not None:
        log = "\n".join(_scrubbed_line(line, scrubber) for line in parts.lines)
        files["log.txt"] = (log + "\n").encode("utf-8", "backslashreplace")
    errors: dict[str, str] = scrubber.value(parts.errors)
    files["errors.json"] = as_json(errors)
    return Bundle(_packed(files, now), list(files), errors)


def _packed(files: Mapping[str, bytes], now: datetime) -> bytes:
    packed = io.BytesIO()
    folder = f"doctor-{now:%Y%m%dT%H%M%SZ}"
    with (
        gzip.GzipFile(fileobj=packed, mode="wb", mtime=int(now.timestamp())) as zipped,
        tarfile.open(fileobj=zipped, mode="w") as tar,
    ):
        for name, data in files.items():
            entry = tarfile.TarInfo(f"{folder}/{name}")
            entry.size, entry.mtime, entry.mode = len(data), int(now.timestamp()), 0o600
            tar.addfile(entry, io.BytesIO(data))
    return packed.getvalue()


# ---------------------------------------------------------------- what is gathered
def _versions(_: Patient, parts: _Parts, now: datetime) -> None:
    parts.documents["versions.json"] = {
        "async_delivery": __version__,
        "python": sys.version,
        "sqlite": SQLITE_VERSION,
        "packages": dict(sorted((each.metadata["Name"], each.version) for each in metadata.distributions())),
        "made_at": format_instant(now),
    }


def _system(patient: Patient, parts: _Parts, _: datetime) -> None:
    limits = {
        name.removeprefix("RLIMIT_").lower(): resource.getrlimit(getattr(resource, name))
        for name in ("RLIMIT_NOFILE", "RLIMIT_NPROC", "RLIMIT_AS", "RLIMIT_FSIZE", "RLIMIT_CORE")
    }
    memory = _lines_of(Path("/proc/meminfo"), ("MemTotal", "MemAvailable", "SwapTotal", "SwapFree"))
    parts.documents["system.json"] = {
        "system": platform.system(),
        "release": platform.release(),
        "machine": platform.machine(),
        "libc": " ".join(platform.libc_ver()),
        "os": platform.freedesktop_os_release().get("PRETTY_NAME"),
        "cores": len(os.sched_getaffinity(0)),
        "load": os.getloadavg(),
        "limits": {name: ["unlimited" if one < 0 else one for one in pair] for name, pair in limits.items()},
        "memory": memory,
        "memory_limit": _text_of(Path("/sys/fs/cgroup/memory.max")),
        "time_zone": time.tzname,
        "is_root": os.geteuid() == 0,
        "disks": {
            str(folder): _disk(folder)
            for folder in (patient.store_file.parent, patient.artifacts_dir, Path("/tmp"))  # noqa: S108
        },
    }


def _disk(folder: Path) -> dict[str, int] | None:
    try:
        found = shutil.disk_usage(folder)
    except OSError:
        return None
    return {"total_bytes": found.total, "free_bytes": found.free}


def _lines_of(path: Path, names: tuple[str, ...]) -> dict[str, str]:
    pairs = (line.partition(":") for line in (_text_of(path) or "").splitlines())
    return {name: value.strip() for name, _, value in pairs if name in names}


def _text_of(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def _store(patient: Patient, parts: _Parts, now: datetime) -> None:
    folder = patient.store_file.parent
    parts.documents["store.json"] = document = {
        "store_file": str(patient.store_file),
        "files": _files(folder),
    }

    def ask(store: Store) -> dict[str, Any]:
        return {"info": _plain(asdict(store.info())), **store.read(lambda reader: _read(reader, now, parts))}

    file, found = patient.look(patient.store_file, ask)
    document |= {"store_id": file.store_id, "database": file.database, **found}


def _files(folder: Path) -> list[dict[str, Any]]:
    """The files beside the store file, by name, size, age and rights."""
    found = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        about = path.lstat()
        found.append(
            {
                "name": path.name,
                "bytes": about.st_size,
                "modified_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(about.st_mtime)),
                "mode": oct(about.st_mode & 0o7777),
            }
        )
    return found


def _read(reader: Reader, now: datetime, parts: _Parts) -> dict[str, Any]:
    # The only way to hear of every tenant that has ended jobs: a count by tenant of what could ever be deleted.
    parts.tenants |= set(reader.count_retention(RetentionPolicy(0, 0), now).per_tenant)
    pause = reader.cleanup_pause()
    stock = reader.stock(now, now - timedelta(seconds=WITHOUT_IN_APP.window_seconds or 0))
    return {
        "facts": _plain(asdict(reader.facts())),
        "jobs": [
            {"status": status.value, "analysis": analysis, "count": count}
            for (status, analysis), count in stock.jobs.items()
        ],
        "oldest_queued_at": _plain(stock.oldest_queued_at),
        "terminal_without_in_app": stock.terminal_without_in_app,
        "store_bytes": stock.store_bytes,
        "wal_bytes": stock.wal_bytes,
        "last_cleanup_success_at": _plain(reader.last_cleanup_success_at()),
        "cleanup_pause": _plain(asdict(pause)) if pause else None,
        "cleanups": [_plain(asdict(run)) for run in reader.cleanup_runs(None, _CLEANUPS)],
    }


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return format_instant(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


def _server(patient: Patient, parts: _Parts, _: datetime) -> None:
    document: dict[str, Any] = {"base_url": shown_url(patient.base_url)}
    parts.documents["server.json"] = document
    for path in ("/health", "/health/ready", "/ops/signals"):
        document[path] = _answer(patient.probe.get(path))
    metrics = patient.probe.get("/metrics")
    if metrics.status == 200:
        parts.texts["metrics.txt"] = metrics.text[:_METRICS_BYTES]


def _answer(answer: Answer) -> dict[str, Any]:
    return {"status": answer.status, "seconds": round(answer.seconds, 4), "body": dict(answer.body)}


def _artefacts(patient: Patient, parts: _Parts, _: datetime) -> None:
    for pattern in _PATTERNS:
        for artefact in read_artefacts(patient.artifacts_dir, pattern)[-_LAST_ARTEFACTS:]:
            name = f"artefacts/{artefact.path.name}"
            parts.documents[name] = artefact.body if artefact.fault is None else {"fault": artefact.fault}


def _log(patient: Patient, parts: _Parts, _: datetime) -> None:
    if patient.log is None:
        return
    with patient.log.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _LOG_BYTES))
        lines = without_key_blocks(file.read(_LOG_BYTES).decode("utf-8", "replace")).splitlines()
    # The first line of a part of a file may be half of one, and then its secrets would not be recognised.
    parts.lines = lines[1 if size > _LOG_BYTES else 0 :][-_LOG_LINES:]
    for line in parts.lines:
        named_tenants(_parsed(line), parts.tenants.add)


def _parsed(line: str) -> Any:
    try:
        return loads(line) if line.lstrip().startswith("{") else None
    except (JSONDecodeError, RecursionError):
        return None


def _scrubbed_line(line: str, scrubber: Scrubber) -> str:
    parsed = _parsed(line)
    shown = scrubber.text(line) if parsed is None else dumps(scrubber.value(parsed), ensure_ascii=False)
    return shown if len(shown) <= _LONGEST_LINE else f"{shown[:_LONGEST_LINE]}..."


_GATHERERS: Mapping[str, Callable[[Patient, _Parts, datetime], None]] = {
    "versions": _versions,
    "system": _system,
    "store": _store,
    "server": _server,
    "artefacts": _artefacts,
    "log": _log,
}
