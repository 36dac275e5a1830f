"""An analysis that wants a machine of a certain kind, for the tests of many machines."""

from __future__ import annotations

from async_delivery.plugins import analysis


@analysis("on-fast", runs_on={"disk": "fast"})
def on_fast() -> dict[str, bool]:
    """Runs only where the disk is fast."""
    return {"ran": True}
