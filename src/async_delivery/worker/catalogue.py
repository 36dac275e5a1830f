"""The analyses on offer, described by a child process: the serving process never imports plug-in code."""

from __future__ import annotations

import json
import select
from collections.abc import Mapping
from time import monotonic

from async_delivery.domain.analysis import (
    ANALYSIS_NAME,
    AnalysisInfo,
    AnalysisLimits,
    InputMode,
    Isolation,
    from_json,
)
from async_delivery.worker import forkserver, processes
from async_delivery.worker.forkserver import ExitStatus, ForkServer
from async_delivery.worker.frames import BrokenFrameError, FrameReader, FrameTooLargeError, Tag
from async_delivery.worker.output import OutputRing

_IMPORT_SECONDS = 60.0
_MAX_BYTES = 16 * 2**20
_KEEP_BYTES = 4096
_DEATH_SECONDS = 2.0


def load_catalogue(refs: Mapping[str, str]) -> list[AnalysisInfo]:
    """A description of each analysis (name -> ``module:function``), by name.

    One that cannot be imported is in it as unavailable, with the reason; one whose import kills its process does
    not take the others with it. Starts the forkserver if nobody has. Raises ForkError.
    """
    if not refs:
        return []
    server = forkserver.current_or_prepared(refs)
    infos = _ask(server, refs)
    if isinstance(infos, str):
        # Somebody's import ended the child or hangs: ask for each alone, to know whose.
        infos = [info for name, ref in refs.items() for info in _alone(server, name, ref)]
    return sorted({info.name: info for info in infos}.values(), key=lambda info: info.name)


def _alone(server: ForkServer, name: str, ref: str) -> list[AnalysisInfo]:
    answer = _ask(server, {name: ref})
    return [_unavailable(name, ref, answer)] if isinstance(answer, str) else answer


def _ask(server: ForkServer, refs: Mapping[str, str]) -> list[AnalysisInfo] | str:
    """The descriptions, or what became of the child that was to give them."""
    child = server.fork(
        {"task": "describe", "name": "catalogue", "refs": dict(refs), "memory_bytes": None, "nice": 0}
    )
    reader = FrameReader(child.channel, lambda tag: _MAX_BYTES if tag is Tag.DESCRIPTION else 0)
    printed = OutputRing(child.output, _KEEP_BYTES)
    poll = select.poll()
    poll.register(child.channel, select.POLLIN)
    poll.register(child.output, select.POLLIN)
    until = monotonic() + _IMPORT_SECONDS
    try:
        while (left := until - monotonic()) > 0:
            poll.poll(left * 1000)
            printed.drain()
            while reader.read():
                pass
            for frame in reader.frames():
                return [from_json(document) for document in json.loads(frame.payload)]
            if reader.at_end:
                return _word_for(child.wait(_DEATH_SECONDS))
        return f"its import did not end within {_IMPORT_SECONDS:g} s"
    except (BrokenFrameError, FrameTooLargeError, ValueError, TypeError) as exc:
        return f"its description cannot be read: {exc}"
    finally:
        child.end(_DEATH_SECONDS)


def _word_for(status: ExitStatus | None) -> str:
    if status is None or status.code is None:
        return "its import closed the child's connections"
    if status.code < 0:
        return f"its import was ended by {processes.signal_name(-status.code)}"
    return f"its import ended the process with exit code {status.code}"


def _unavailable(name: str, ref: str, reason: str) -> AnalysisInfo:
    known = name if ANALYSIS_NAME.fullmatch(name) else ref.rpartition(":")[2].lower()
    return AnalysisInfo(
        name=known if ANALYSIS_NAME.fullmatch(known) else "unnamed",
        version="",
        title=known,
        description="",
        params_schema={"type": "object"},
        limits=AnalysisLimits(3600.0, None, 16 * 2**20, 1, 0.0, 0.0),
        input=InputMode.OPTIONAL,
        isolation=Isolation.FRESH,
        available=False,
        unavailable_reason=reason,
        source=ref,
    )
