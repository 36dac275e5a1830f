"""Async Delivery runs long analyses in the background and delivers them.

Public names only; what they need is loaded when they are asked for.
"""

from __future__ import annotations

# Not from typing, which takes longer to load than all that comes before Ctrl-C is heard (see cli.process).
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from async_delivery.engine.retention import cleanup_retention

__version__ = "0.1.0"

__all__ = ["__version__", "cleanup_retention"]


def __getattr__(name: str) -> Any:
    if name == "cleanup_retention":
        from async_delivery.engine.retention import cleanup_retention  # noqa: PLC0415

        return cleanup_retention
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
