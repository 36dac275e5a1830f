"""The Context an analysis gets in its child process: words go up the socket, the cancel flag is shared memory.

The flag is a number the parent writes: the attempt it asks to stop. Reading it takes no lock and no thread, so an
analysis may ask in its innermost loop. Imports plugins and domain.
"""

from __future__ import annotations

import json
import mmap
import os
import socket
import struct
import threading
from collections.abc import Mapping
from pathlib import Path
from time import monotonic
from typing import Any

from async_delivery.domain.canonical import canonical_json
from async_delivery.domain.errors import NotSerializableError
from async_delivery.plugins import AnalysisError, CancelRequested, InputFile, check_percent
from async_delivery.worker.frames import Tag, join, pack
from async_delivery.worker.limits import MAX_MESSAGE_CHARS, MAX_STAGE_CHARS

FLAG = struct.Struct("!Q")


class Line:
    """The child's end of the socket; frames of several threads do not mix."""

    def __init__(self, channel: socket.socket) -> None:
        channel.set_inheritable(False)
        self.channel = channel
        self._lock = threading.Lock()

    def send(self, tag: Tag, payload: bytes) -> None:
        """Send one frame whole; waits while the parent is busy."""
        with self._lock:
            self.channel.sendall(pack(tag, payload))


class ChildContext:
    """Implements ``plugins.Context`` for one attempt."""

    def __init__(self, order: Mapping[str, Any], line: Line, cancel_flag: mmap.mmap) -> None:
        self._order = order
        self._line = line
        self._cancel_flag = cancel_flag
        self._mark = FLAG.pack(order["run"])
        self._deadline = monotonic() + order["timeout_seconds"]
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._over = False
        file = order["input"]
        self._input = (
            InputFile(Path(file["path"]), file["filename"], file["media_type"], file["bytes"], file["sha256"])
            if file
            else None
        )

    @property
    def job_id(self) -> str:
        """The job this attempt belongs to."""
        return str(self._order["job_id"])

    @property
    def attempt(self) -> int:
        """1 for the first start of the job."""
        return int(self._order["attempt"])

    @property
    def query(self) -> str | None:
        """As submitted."""
        query: str | None = self._order["query"]
        return query

    @property
    def input(self) -> InputFile | None:
        """The uploaded file."""
        return self._input

    @property
    def workdir(self) -> Path:
        """This attempt's own folder."""
        return Path(self._order["workdir"])

    @property
    def data_root(self) -> Path | None:
        """The operator's open folder."""
        root = self._order["data_root"]
        return Path(root) if root is not None else None

    @property
    def fault_injection(self) -> bool:
        """As the server's policy says."""
        return bool(self._order["fault_injection"])

    @property
    def deadline_seconds_left(self) -> float:
        """Until the attempt times out."""
        left: float = self._deadline - monotonic()
        return max(0.0, left)

    @property
    def canceled(self) -> bool:
        """True once the parent asked this attempt to stop, for whatever reason."""
        return self._cancel_flag[: FLAG.size] == self._mark

    def progress(self, percent: float, stage: str | None = None, message: str | None = None) -> None:
        """See ``plugins.Context``."""
        words = _words(percent, stage, message)
        self._stop_if_canceled()
        self._send(Tag.PROGRESS, json.dumps(words).encode())

    def partial(self, payload: Any, *, percent: float | None = None, stage: str | None = None) -> None:
        """See ``plugins.Context``. Raises AnalysisError for a payload beyond the analysis's max_result_bytes."""
        words = _words(percent, stage, None)
        self._stop_if_canceled()
        try:
            data = canonical_json(payload)
        except NotSerializableError as exc:
            raise NotSerializableError(exc.path, f"{exc.issue} (partial result)") from exc
        limit = self._order["max_result_bytes"]
        if len(data) > limit:
            raise AnalysisError(
                f"a partial result has {len(data)} bytes of JSON, at most {limit} are kept",
                code="result_too_large",
            )
        self._send(Tag.PARTIAL, join(words, data))

    def close(self) -> None:
        """The attempt is over: threads it has left behind can say nothing any more."""
        with self._lock:
            self._over = True

    @property
    def is_own_process(self) -> bool:
        """False in a process that the analysis has forked from the child: that one makes no part of the attempt."""
        return os.getpid() == self._pid

    def _send(self, tag: Tag, payload: bytes) -> None:
        # Two processes on one socket would mix their frames. Before the lock, which a fork may have copied locked.
        if not self.is_own_process:
            return
        with self._lock:
            if self._over:
                raise RuntimeError("this attempt is over; its context takes no more words")
            self._line.send(tag, payload)

    def _stop_if_canceled(self) -> None:
        if self.canceled:
            raise CancelRequested


def encodable(text: str) -> str:
    """``text`` with half surrogates spelled out: they have no UTF-8, and the parent would not take the frame."""
    return text.encode("utf-8", "backslashreplace").decode()


def _words(percent: float | None, stage: str | None, message: str | None) -> dict[str, Any]:
    """What is set, checked and cut to length."""
    words: dict[str, Any] = {}
    if percent is not None:
        words["percent"] = check_percent(percent)
    if stage is not None:
        words["stage"] = encodable(str(stage)[:MAX_STAGE_CHARS])
    if message is not None:
        words["message"] = encodable(str(message)[:MAX_MESSAGE_CHARS])
    return words
