"""Triage put together: the server that is asked, the store file and the artefacts that are looked at."""

from __future__ import annotations

from pathlib import Path

from async_delivery.ops.probe import Probe
from async_delivery.ops.triage import Case, TriageReport, examine
from async_delivery.settings import Settings
from async_delivery.wiring.stores import look


def triage(
    settings: Settings,
    *,
    base_url: str,
    org: str | None,
    alias: str | None,
    job_id: str | None,
    result_id: str | None,
    store_expected: bool,
    deep: bool,
    timeout_seconds: float,
) -> TriageReport:
    """Look at everything and settle what it is. ``store_expected``: see ``ops.triage.Case``."""

    def probe(headers: list[tuple[str, str]]) -> Probe:
        return Probe(base_url, headers, timeout_seconds=timeout_seconds)

    return examine(
        Case(
            base_url=base_url,
            probe=probe,
            org=org,
            alias=alias,
            job_id=job_id,
            result_id=result_id,
            store_file=Path(settings.store_file),
            store_expected=store_expected,
            look=look,
            artifacts_dir=settings.artifacts_dir,
            deep=deep,
        )
    )
