"""What a process opens a store for."""

from __future__ import annotations

from enum import Enum


class Mode(Enum):
    """Serve it, write to it beside a server, or only look."""

    SERVE = "serve"
    TOOL = "tool"
    READ_ONLY = "read_only"
