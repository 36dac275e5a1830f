"""A process that cleans a store up beside its server, again and again: one run for each line it is sent.

A line is two TTLs in seconds; the answer is the report as JSON, or why there was none. It is started once because
starting is what a cleanup spends its time with. Run as ``python -m tests.reliability.cleaner STORE_FILE``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from async_delivery.domain.errors import StoreBusyError, UnavailableError
from async_delivery.engine.retention import cleanup_retention
from async_delivery.storage.opening import Mode, open_store


def main(path: Path) -> None:
    """Until the input ends."""
    for line in sys.stdin:
        results_ttl, events_ttl = (int(word) for word in line.split())
        store = open_store(path, Mode.TOOL)
        try:
            report = cleanup_retention(
                store, results_ttl_seconds=results_ttl, events_ttl_seconds=events_ttl, store_file=str(path)
            )
            results, events = report.results.delete_count, report.events.delete_count
            said = {"deleted": results + events, "results": results, "events": events}
        except (StoreBusyError, UnavailableError) as exc:
            said = {"refused": 1, "why": exc.message}  # type: ignore[dict-item]
        finally:
            store.close()
        sys.stdout.write(json.dumps(said) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
