"""What all slots of one kind share. Imports engine and domain."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from async_delivery.engine.runtime import Runtime
from async_delivery.worker.ahead import Line
from async_delivery.worker.bell import Bell
from async_delivery.worker.complaints import Complaints
from async_delivery.worker.forkserver import Child
from async_delivery.worker.limits import WorkerSettings
from async_delivery.worker.roster import Roster
from async_delivery.worker.workdirs import Workdirs


class ChildSource(Protocol):
    """Where the children of a slot come from: the forkserver, or Ray."""

    @property
    def ready(self) -> bool:
        """False while no attempt should be taken."""

    def fork(self, order: Mapping[str, Any]) -> Child:
        """A new child; its orders follow on its channel. Raises ForkError."""


@dataclass(frozen=True, slots=True)
class Floor:
    """Of one worker: one for the slots with children, one for those on Ray."""

    rt: Runtime
    settings: WorkerSettings
    worker_id: str
    source: ChildSource
    workdirs: Workdirs
    bell: Bell
    line: Line
    roster: Roster
    draining: threading.Event
    claims: Sequence[str] | None  # names of analyses; None: all
    claim_failed: Complaints
