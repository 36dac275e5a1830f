"""``worker``: run jobs without serving the API, until it is told to stop."""

from __future__ import annotations

from typing import Any

import click

from async_delivery.cli.options import load_settings, settings_options
from async_delivery.cli.output import Failed, say

# A server and a worker on one machine need a port each.
DEFAULTS = {"port": 8081}

SETTINGS = (
    "host",
    "port",
    "store_file",
    "store_url",
    "store_connections",
    "analysis",
    "analyses",
    "label",
    "data_root",
    "slots",
    "lease_seconds",
    "heartbeat_seconds",
    "poll_seconds",
    "drain_grace_seconds",
    "cancel_grace_seconds",
    "kill_grace_seconds",
    "work_dir",
    "keep_env",
    "fault_injection",
    "max_running_per_tenant",
    "log_level",
    "log_format",
    "otel",
)


@click.command()
@settings_options(SETTINGS, DEFAULTS)
def worker(config_file: str | None, **flags: Any) -> int:
    """Run jobs of a store that others serve, until SIGTERM or Ctrl-C. For stores on PostgreSQL.

    Any number of workers on any number of machines share a store. --host and --port are for probes only: /health,
    /health/ready and /metrics. The first signal lets running jobs end (--drain-grace-seconds) and gives the others
    back, a second one stops at once; either way nothing is lost.
    """
    settings = load_settings(config_file, flags, DEFAULTS)
    from async_delivery.wiring.working import StartError, work_forever

    try:
        return work_forever(settings, say)
    except StartError as exc:
        raise Failed(str(exc)) from exc
